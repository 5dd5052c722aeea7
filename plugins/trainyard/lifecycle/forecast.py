"""What a policy would remove or move, from a list of objects. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from trainyard.lifecycle.policy import Policy, Rule


@dataclass(kw_only=True, slots=True, frozen=True)
class Stored:
    """One object."""

    key: str
    """Key in the bucket."""
    size_bytes: int
    """Length."""
    modified_at: datetime
    """When it was stored, with a zone."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Forecast:
    """What one rule does to what is there."""

    rule: Rule
    """The rule; without any age for prefixes that stay as they are."""
    objects: int
    """Objects below its prefix."""
    size_bytes: int
    """Bytes of them."""
    due: tuple[Stored, ...]
    """Those the rule applies to at that moment, the oldest first."""

    @property
    def due_bytes(self) -> int:
        """Bytes of what is due."""
        return sum(one.size_bytes for one in self.due)


def forecast(objects: Iterable[Stored], policy: Policy, at: datetime) -> list[Forecast]:
    """Return for every rule, and every first folder without one, what it means at moment *at*.

    A store acts at the first midnight UTC after the age is reached, so a little later than said.
    """
    rules = {rule.prefix: rule for rule in policy.rules}
    groups: dict[str, list[Stored]] = {prefix: [] for prefix in rules}
    for one in objects:
        prefix = f"{one.key.partition('/')[0]}/" if "/" in one.key else one.key
        groups.setdefault(prefix, []).append(one)
    made = []
    for prefix in sorted(groups):
        rule = rules.get(prefix, Rule(name=prefix.rstrip("/"), prefix=prefix))
        days = rule.expire_days if rule.expire_days is not None else rule.warm_days
        due = [
            one
            for one in groups[prefix]
            if days is not None and one.modified_at + timedelta(days=days) <= at
        ]
        made.append(
            Forecast(
                rule=rule,
                objects=len(groups[prefix]),
                size_bytes=sum(one.size_bytes for one in groups[prefix]),
                due=tuple(sorted(due, key=lambda one: (one.modified_at, one.key))),
            )
        )
    return made
