"""``ProbeReport``: what one node is, and what it reaches, measured where training runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.contract.codec import fail
from trainer.contract.spec import doc

PROBES_VERSION = 1


@dataclass(kw_only=True, slots=True, frozen=True)
class Fact:
    """One thing that is so on a node."""

    name: str = doc("Stable name, for example cpu.model")
    value: str = doc("What was found, in unit where it is a number")
    unit: str = doc("Unit, empty for text", default="")
    source: str = doc("Where it was read")
    stable: bool = doc(
        "Belongs to the environment's fingerprint: changes only when somebody changes the machine",
        default=True,
    )


@dataclass(kw_only=True, slots=True, frozen=True)
class Measurement:
    """One micro-benchmark: what was reached, of what is possible, and whether it counts."""

    name: str = doc("Stable name, for example memory.triad")
    value: float = doc("Median over repeats, in unit")
    unit: str = doc("Unit, for example B/s, FLOP/s, s")
    low: float = doc("Lower end of the 95 % interval of the median (bootstrap over repeats)")
    high: float = doc("Upper end of that interval")
    repeats: int = doc("Timed repeats after warm-up")
    limit: float | None = doc("Physical limit in unit; null where it is unknown", default=None)
    limit_source: str = doc("Where the limit comes from, or why there is none", default="")
    ratio: float | None = doc("value / limit", default=None)
    valid: bool = doc("Whether the number may be compared", default=True)
    why: str = doc("Why it may not be compared", default="")

    def __post_init__(self) -> None:
        """Refuse a measurement that nobody made, or an interval without its value."""
        if self.repeats < 1:
            fail("repeats", self.repeats, "must be 1 or more")
        if not self.unit:
            fail("unit", self.unit, "every measurement has one", "Write 1 for a plain ratio")
        if not (math.isfinite(self.value) and self.low <= self.value <= self.high):
            fail("low, value, high", (self.low, self.value, self.high), "must be in this order")
        if not self.valid and not self.why:
            fail("why", self.why, "an invalid measurement says why")


@dataclass(kw_only=True, slots=True, frozen=True)
class Problem:
    """Something that could not be found out, or is wrong."""

    probe: str = doc("Probe that met it")
    what: str = doc("What happened, or what is wrong")
    fix: str = doc("What to do about it, empty when nothing", default="")


@dataclass(kw_only=True, slots=True, frozen=True)
class ProbeReport:
    """What the probes of one node found."""

    schema_version: int = doc("Version of this record", default=PROBES_VERSION)
    node: str = doc("Host name")
    nodes: int = doc("Nodes that were probed together", default=1)
    started_at: str = doc("When the first probe began, ISO 8601 UTC")
    seconds: float = doc("How long all probes took")
    quick: bool = doc("Shortened measurements", default=False)
    facts: tuple[Fact, ...] = doc("What the node is, by name", default=())
    measurements: tuple[Measurement, ...] = doc("What it reaches", default=())
    problems: tuple[Problem, ...] = doc("What could not be found out, or is wrong", default=())

    def __post_init__(self) -> None:
        """Refuse two answers to one question."""
        for field in ("facts", "measurements"):
            names = [entry.name for entry in getattr(self, field)]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                fail(field, ", ".join(twice), "named twice", "Keep one of them")
