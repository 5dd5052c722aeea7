"""``Policy``: what happens to objects as they age, per prefix. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainyard.errors import ConfigurationError

if TYPE_CHECKING:
    from trainyard.settings import Settings

KEPT = ("datasets/", "manifests/", "reports/", "runs/")
"""Prefixes that never expire: published reports, the records of every run that a report or a row of
the results database links to, and the data those results were measured on."""
ID_PREFIX = "trainyard-"
"""Rules with such an id are ours; all others in a bucket are left as they are."""
_TIER = re.compile(r"[A-Z0-9_-]{1,64}")


@dataclass(kw_only=True, slots=True, frozen=True)
class Retention:
    """How long things are kept; days of 24 hours since they were stored."""

    checkpoints_days: int = 14
    """Checkpoints, streamed while runs go on: they serve to resume a run, not to read a result."""
    profiles_days: int = 90
    """Raw profiles; what an analysis found in them stands in rows and reports."""
    logs_days: int = 90
    """Output of runs."""
    prepared_days: int = 90
    """Prepared arrays: made again from their archive by whoever needs them next."""
    warm_after_days: int = 30
    """Age at which what is kept for good moves to the warm tier."""
    warm_tier: str = ""
    """Name of the remote tier in the store (``mc ilm tier add``); empty: nothing is moved."""

    def __post_init__(self) -> None:
        """Refuse what a store would, before it is asked."""
        for name in ("checkpoints", "profiles", "logs", "prepared"):
            _days(f"keep_{name}_days", getattr(self, f"{name}_days"))
        _days("warm_after_days", self.warm_after_days)
        if self.warm_tier and not _TIER.fullmatch(self.warm_tier):
            raise ConfigurationError(
                f"s3_warm_tier = {self.warm_tier!r}: a tier has 1 to 64 of A-Z 0-9 _ - in its "
                "name; `mc ilm tier ls` lists the store's"
            )

    @classmethod
    def of(cls, settings: Settings) -> Retention:
        """Return what *settings* say."""
        return cls(
            checkpoints_days=settings.keep_checkpoints_days,
            profiles_days=settings.keep_profiles_days,
            logs_days=settings.keep_logs_days,
            prepared_days=settings.keep_prepared_days,
            warm_after_days=settings.warm_after_days,
            warm_tier=settings.s3_warm_tier,
        )


def _days(name: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{name} = {value!r}: must be whole days, 1 or more")


@dataclass(kw_only=True, slots=True, frozen=True)
class Rule:
    """What happens to the objects below one prefix."""

    name: str
    """Name within the policy."""
    prefix: str
    """Keys that begin so."""
    expire_days: int | None = None
    """Removed at this age; None: never."""
    warm_days: int | None = None
    """Moved to the warm tier at this age; None: never."""

    @property
    def rule_id(self) -> str:
        """Id in the bucket."""
        return f"{ID_PREFIX}{self.name}"


@dataclass(kw_only=True, slots=True, frozen=True)
class Policy:
    """Every rule for one bucket."""

    rules: tuple[Rule, ...]
    """In the order of their prefixes."""
    warm_tier: str = ""
    """Tier that ``warm_days`` moves to."""
    abort_uploads_days: int = 2
    """Age at which the parts of an upload that was never completed go. Longer than an outage that a
    resumed upload should survive; MinIO does it by itself after one day."""

    def __post_init__(self) -> None:
        """Refuse a policy that forgets what results refer to."""
        for rule in self.rules:
            if rule.expire_days is None:
                continue
            for kept in KEPT:
                if kept.startswith(rule.prefix) or rule.prefix.startswith(kept):
                    raise ConfigurationError(
                        f"lifecycle rule {rule.name!r} would expire {rule.prefix!r} after "
                        f"{rule.expire_days} days: {kept} is kept for good, since reports and rows "
                        "refer to it. Remove single objects by hand, or move them to a warm tier"
                    )
        if any(rule.warm_days is not None for rule in self.rules) and not self.warm_tier:
            raise ConfigurationError("a rule moves objects to a warm tier; name it: s3_warm_tier")


def make_policy(retention: Retention) -> Policy:
    """Return the rules of an installation: equal retentions give equal policies."""
    warm = retention.warm_after_days if retention.warm_tier else None
    expiring = {
        "checkpoints": retention.checkpoints_days,
        # What a check of the store left behind when it was killed.
        "health": 1,
        "logs": retention.logs_days,
        "prepared": retention.prepared_days,
        "profiles": retention.profiles_days,
    }
    rules = [Rule(name=n, prefix=f"{n}/", expire_days=days) for n, days in expiring.items()]
    if warm is not None:
        rules += [Rule(name=kept.rstrip("/"), prefix=kept, warm_days=warm) for kept in _MOVED]
    return Policy(
        rules=tuple(sorted(rules, key=lambda rule: rule.prefix)), warm_tier=retention.warm_tier
    )


_MOVED = ("datasets/", "reports/", "runs/")  # manifests are small and read by every fetch
