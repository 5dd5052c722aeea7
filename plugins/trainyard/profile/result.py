"""The records of an analysis: what was found in a profile, with evidence."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from trainyard.analysis.statistics import Estimate
    from trainyard.profile.intervals import Spans
    from trainyard.profile.kernels import KernelTable
    from trainyard.profile.model import Note, Trace
    from trainyard.profile.operators import Operator
    from trainyard.profile.steps import Windows
    from trainyard.profile.stragglers import Stragglers


class Bound(StrEnum):
    """What a step is bound by."""

    COMPUTE = "compute"
    COMMUNICATION = "communication"
    INPUT = "input"
    HOST = "host"


class Mode(StrEnum):
    """What a profile can tell about."""

    DEVICE = "device"
    """Kernels and copies of a GPU."""
    HOST = "host"
    """Phases of processes without a GPU."""


PART_COLUMNS = {
    Mode.DEVICE: (
        "compute",
        "exposed_comm",
        "exposed_h2d",
        "other_copies",
        "data",
        "sync",
        "host",
        "unexplained",
    ),
    Mode.HOST: ("forward", "backward", "optimizer", "collective", "data", "other"),
}
"""Columns of a rank's frame that add up to its ``window``."""
CLASS_COLUMNS: dict[Mode, dict[Bound, tuple[str, ...]]] = {
    Mode.DEVICE: {
        Bound.INPUT: ("data", "exposed_h2d"),
        Bound.COMMUNICATION: ("exposed_comm",),
        Bound.HOST: ("host", "sync"),
    },
    Mode.HOST: {
        Bound.INPUT: ("data",),
        Bound.COMMUNICATION: ("collective",),
        Bound.HOST: ("other",),
    },
}
"""Parts whose time counts for each class; compute is what none of them takes."""


@dataclass(kw_only=True, slots=True, frozen=True, eq=False)
class RankAnalysis:
    """One rank's steps, taken apart."""

    rank: int
    """Its number."""
    mode: Mode
    """Device work, or phases on a CPU."""
    windows: Windows
    """Its steps."""
    frame: pd.DataFrame
    """Nanoseconds per step; the parts of its mode add up to ``window``."""
    step_ms: Estimate
    """Milliseconds per step."""
    fractions: dict[str, Estimate | None]
    """The formulas of docs/profiles.md; None where one cannot be told."""
    residual_ms: float
    """Step time that no part explains, mean per step."""
    residual_limit_ms: float
    """max(0.5 ms, 2 % of the step): what a residual may be."""
    pageable: float | None
    """Share of host-to-device bytes from pageable memory."""
    data_basis: str
    """What the waiting for data was taken from."""
    kernels: KernelTable | None
    """Kernels by name; None without a device."""
    operators: tuple[Operator, ...]
    """Framework operators by self time; empty with a device, or where none were recorded."""
    spans: dict[str, Spans]
    """Disjoint moments of each part, for pictures."""
    overhead: float
    """Share of the steps in which the profiler itself was at work."""

    @property
    def explained(self) -> bool:
        """Whether the parts account for the step within the limit."""
        return self.residual_ms <= self.residual_limit_ms


@dataclass(kw_only=True, slots=True, frozen=True)
class Finding:
    """Something that costs time, or limits what the profile says."""

    name: str
    """Short name."""
    text: str
    """What was found, with numbers."""
    raised: bool
    """Beyond its threshold."""
    value: Estimate | None = None
    """The fraction that was compared."""
    threshold: float | None = None
    """With what."""


@dataclass(kw_only=True, slots=True, frozen=True)
class ControlCheck:
    """A part of the step as the profile and as the profiler-free control see it."""

    part: Bound
    """input or communication."""
    profile: Estimate
    """Share of the profiled step."""
    control: float
    """Share of the unprofiled step that the control saved."""
    agrees: bool
    """They differ by no more than five points beyond the profile's interval."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Recoverable:
    """Time that would be saved per step if one cause vanished: an upper bound."""

    name: str
    """The cause."""
    ms: Estimate
    """Milliseconds per step, mean over ranks (over those that wait, for waiting)."""
    how: str
    """What would have to change."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Suggestion:
    """A change of the specification worth trying next."""

    field: str
    """Field of the RunSpec; empty when no field can change it."""
    current: str
    """Its value; empty when the spec is not known."""
    proposed: str
    """The value to try."""
    why: str
    """What it should improve, and at what price."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Verdict:
    """What the step is bound by, why, and what to do."""

    bound: Bound
    """The class."""
    headline: str
    """One sentence."""
    shares: Mapping[Bound, Estimate]
    """Share of the step of each class, all ranks together."""
    findings: tuple[Finding, ...]
    """Raised ones first."""
    controls: tuple[ControlCheck, ...]
    """Agreement with the controls; empty when none were given."""
    controls_bound: Bound | None
    """The class that the controls give; None when they cannot."""
    recoverable: tuple[Recoverable, ...]
    """The three largest."""
    suggestions: tuple[Suggestion, ...]
    """In the order to try them."""
    slow_rank: int | None
    """A rank that the others wait for."""


@dataclass(kw_only=True, slots=True, frozen=True, eq=False)
class ProfileAnalysis:
    """Everything one profile says."""

    trace: Trace
    """The events, for pictures and export."""
    mode: Mode
    """Of all ranks."""
    ranks: tuple[RankAnalysis, ...]
    """By rank."""
    stragglers: Stragglers | None
    """Waiting at collectives."""
    no_stragglers: str
    """Why waiting cannot be told; empty when it can."""
    verdict: Verdict
    """The conclusion."""
    notes: tuple[Note, ...]
    """What limits it."""
    counters: bool
    """Hardware counters were given."""
