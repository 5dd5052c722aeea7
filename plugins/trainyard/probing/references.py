"""References: what a site's devices should reach, in a reviewable TOML file. Pure.

One file per site, ``references/<site>.toml``::

    site = "cluster"

    [[reference]]
    device = "NVIDIA H200"
    name = "gpu.copy"
    unit = "B/s"
    value = 4.1e12
    lower = 3.9e12
    upper = 4.3e12
    direction = "higher"
    learned_from = 9

    [[exception]]
    node = "n07"
    name = "gpu.copy"
    until = 2027-01-31
    reason = "memory clock lowered until its fan is replaced, ticket 812"

``gpu.`` stands for every GPU of a node. An exception needs a reason and an end: after it the
reference counts again.
"""

from __future__ import annotations

import datetime as dt
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

from trainyard.errors import ConfigurationError

UNITS = {"B/s", "FLOP/s", "s", "1/s", "image/s"}
"""Units that probes use."""


class Direction(StrEnum):
    """Which values are better."""

    HIGHER = "higher"
    LOWER = "lower"


@dataclass(kw_only=True, slots=True, frozen=True)
class Reference:
    """What one device should reach."""

    device: str
    """CPU or GPU model as the probe names it; empty: any."""
    name: str
    """Measurement; ``gpu.copy`` means that of every GPU."""
    unit: str
    """Unit of all its numbers."""
    value: float
    """What good nights reached."""
    lower: float
    """Below it is a defect where higher is better."""
    upper: float
    """Above it is a defect where lower is better."""
    direction: Direction
    """Which values are better."""
    learned_from: int = 0
    """Reports behind it; 0: somebody set it."""

    def __post_init__(self) -> None:
        """Refuse numbers that are in no order, and a direction that its unit contradicts."""
        where = f"reference {self.name!r} of {self.device or 'any device'}"
        if self.unit not in UNITS:
            raise ConfigurationError(
                f"{where}: unit = {self.unit!r}; choose from {', '.join(sorted(UNITS))} (no "
                "prefixes: 4.1e12 B/s, not 4.1 TB/s)"
            )
        if not 0 < self.lower <= self.value <= self.upper:
            raise ConfigurationError(
                f"{where}: lower = {self.lower:g}, value = {self.value:g}, upper = {self.upper:g} "
                "must be positive and in this order"
            )
        wanted = Direction.LOWER if self.unit == "s" else Direction.HIGHER
        if self.direction is not wanted:
            raise ConfigurationError(
                f"{where}: direction = {self.direction.value!r} contradicts its unit "
                f"{self.unit!r}; set {wanted.value!r}"
            )


@dataclass(kw_only=True, slots=True, frozen=True)
class Excuse:
    """Why a node may miss a reference for a while."""

    node: str
    """Host name; empty: every node."""
    name: str
    """Measurement, as in a reference."""
    until: dt.date
    """Last day on which it holds."""
    reason: str
    """Why, for whoever reads the verdict."""

    def __post_init__(self) -> None:
        """Refuse an exception that nobody could review."""
        if not self.reason.strip():
            raise ConfigurationError(
                f"exception for {self.name!r} on {self.node or 'every node'}: give a reason"
            )


@dataclass(kw_only=True, slots=True, frozen=True)
class References:
    """All references of one site."""

    site: str
    """Site they are of."""
    references: tuple[Reference, ...] = ()
    """By device and measurement."""
    excuses: tuple[Excuse, ...] = ()
    """Exceptions, expired ones included."""

    def find(self, name: str, device: str) -> Reference | None:
        """Return the reference of measurement *name* on *device*; a named device goes first."""
        fitting = [one for one in self.references if one.name == generic(name)]
        for wanted in (device, ""):
            for one in fitting:
                if one.device == wanted:
                    return one
        return None

    def excuse(self, name: str, node: str, today: dt.date) -> Excuse | None:
        """Return the exception that holds *today* for *name* on *node*."""
        for one in self.excuses:
            if one.name == generic(name) and one.node in {"", node} and today <= one.until:
                return one
        return None


def generic(name: str) -> str:
    """Return *name* with ``gpu`` for the number of its GPU: ``gpu3.copy`` is ``gpu.copy``."""
    return re.sub(r"^gpu\d+\.", "gpu.", name)


def parse_references(text: str, source: str) -> References:
    """Return the references that TOML *text* holds; *source* names it in errors."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{source}: not a TOML file: {error}") from error
    unknown = sorted(set(table) - {"site", "reference", "exception"})
    if unknown or not isinstance(table.get("site"), str):
        said = f"{unknown[0]!r} is unknown" if unknown else "site is missing"
        raise ConfigurationError(f"{source}: {said}; give site, [[reference]] and [[exception]]")
    try:
        return References(
            site=table["site"],
            references=tuple(_reference(one) for one in table.get("reference", [])),
            excuses=tuple(_excuse(one) for one in table.get("exception", [])),
        )
    except ConfigurationError as error:
        raise ConfigurationError(f"{source}: {error}") from error


def _reference(entry: Mapping[str, Any]) -> Reference:
    values = _known(entry, Reference, "reference", optional={"learned_from"})
    try:
        values["direction"] = Direction(str(values["direction"]))
    except ValueError as error:
        choices = ", ".join(Direction)
        raise ConfigurationError(
            f"reference {values['name']!r}: direction = {values['direction']!r}; choose from "
            f"{choices}"
        ) from error
    for name in ("value", "lower", "upper"):
        if isinstance(values[name], bool) or not isinstance(values[name], int | float):
            raise ConfigurationError(
                f"reference {values['name']!r}: {name} = {values[name]!r} must be a number in "
                f"{values['unit']}"
            )
    return Reference(**values)


def _excuse(entry: Mapping[str, Any]) -> Excuse:
    values = _known(entry, Excuse, "exception", optional=set())
    if type(values["until"]) is not dt.date:
        raise ConfigurationError(
            f"exception {values['name']!r}: until = {values['until']!r} must be a day, such as "
            "2027-01-31, without quotes"
        )
    return Excuse(**values)


def _known(entry: Mapping[str, Any], record: type, kind: str, optional: set[str]) -> dict[str, Any]:
    names = [item.name for item in fields(record)]
    missing = [name for name in names if name not in entry and name not in optional]
    unknown = [name for name in entry if name not in names]
    if missing or unknown:
        wrong = f"lacks {', '.join(missing)}" if missing else f"has the unknown {unknown[0]!r}"
        raise ConfigurationError(
            f"{kind} {entry.get('name', '')!r} {wrong}; its fields are {', '.join(names)}"
        )
    return dict(entry)


def render_references(made: References, comments: Sequence[str] = ()) -> str:
    """Return *made* as TOML text that ``parse_references`` reads back."""
    lines = [*(f"# {line}" for line in comments), f"site = {_text(made.site)}"]
    for one in made.references:
        lines += ["", "[[reference]]"]
        lines += [f"{name} = {_text(str(getattr(one, name)))}" for name in ("device", "name")]
        lines.append(f"unit = {_text(one.unit)}")
        lines += [f"{name} = {getattr(one, name):.6e}" for name in ("value", "lower", "upper")]
        lines.append(f"direction = {_text(one.direction.value)}")
        lines.append(f"learned_from = {one.learned_from}")
    for excuse in made.excuses:
        lines += ["", "[[exception]]"]
        lines += [f"node = {_text(excuse.node)}", f"name = {_text(excuse.name)}"]
        lines += [f"until = {excuse.until.isoformat()}", f"reason = {_text(excuse.reason)}"]
    return "\n".join(lines) + "\n"


def _text(value: str) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)  # TOML's basic strings are JSON's
