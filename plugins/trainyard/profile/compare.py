"""Two profiles side by side: what got slower or faster per step, ranked by the time lost.

Kernels are joined by their normalised name. An interval is Welch's t on the steps of both profiles:
it holds the scatter within the two profiles, not what changes from run to run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainyard.analysis.statistics import NO_INTERVAL, STUDENT_T, Estimate, welch
from trainyard.errors import ProfileError
from trainyard.profile.result import PART_COLUMNS, Mode

if TYPE_CHECKING:
    from trainyard.profile.model import Array
    from trainyard.profile.result import ProfileAnalysis

PART, KERNEL, COLLECTIVE = "part", "kernel", "collective"
LABELS = {
    "compute": "compute kernels",
    "exposed_comm": "exposed communication",
    "exposed_h2d": "exposed host-to-device copies",
    "other_copies": "other exposed copies",
    "data": "waiting for data",
    "sync": "synchronisation",
    "host": "late launches",
    "unexplained": "unexplained idle",
    "overlapped": "communication hidden by compute",
    "idle": "idle in all",
    "collective": "communication",
    "other": "outside any phase",
}


@dataclass(kw_only=True, slots=True, frozen=True)
class Change:
    """One kernel or part of the step, before and after."""

    kind: str
    """part, kernel or collective."""
    name: str
    """Its name."""
    before_ms: float
    """Milliseconds per step, mean over steps and ranks; 0 when it was not there."""
    after_ms: float
    """The same in the second profile."""
    lost: Estimate
    """after - before, milliseconds per step; positive is slower."""
    before_calls: float
    """Calls per step; 0 for parts."""
    after_calls: float
    """Calls per step in the second profile."""

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes no change."""
        return self.lost.low is not None and not self.lost.contains(0.0)


@dataclass(kw_only=True, slots=True, frozen=True)
class Comparison:
    """Everything that changed between two profiles."""

    step: Change
    """The whole step."""
    parts: tuple[Change, ...]
    """Disjoint parts of the step, most time lost first: they add up to the step's change."""
    kernels: tuple[Change, ...]
    """Kernels and collectives by summed duration, most time lost first."""
    fractions: tuple[tuple[str, Estimate | None, Estimate | None], ...]
    """Name, before and after of shares such as overlap; of the first rank."""


def compare(before: ProfileAnalysis, after: ProfileAnalysis) -> Comparison:
    """Return what changed from *before* to *after*.

    Raises ``ProfileError`` for profiles that cannot be compared: one with a device and one without,
    or different numbers of ranks.
    """
    if before.mode is not after.mode:
        raise ProfileError(
            f"One profile has device work and the other has none ({before.mode} and {after.mode}): "
            "compare two runs on the same kind of device"
        )
    if len(before.ranks) != len(after.ranks):
        raise ProfileError(
            f"{len(before.ranks)} and {len(after.ranks)} ranks do not compare: give the traces of "
            "the same ranks of both runs"
        )
    parts = [
        _change(PART, name, _column(before, name), _column(after, name))
        for name in PART_COLUMNS[before.mode]
    ]
    return Comparison(
        step=_change(PART, "step", _column(before, "window"), _column(after, "window")),
        parts=_ranked(parts),
        kernels=_ranked(_kernels(before, after)),
        fractions=_fractions(before, after),
    )


def _column(analysis: ProfileAnalysis, name: str) -> Array:
    """Return the milliseconds of a part in every step of every rank."""
    return np.concatenate([item.frame[name].to_numpy() for item in analysis.ranks]) / 1e6


def _kernel_rows(analysis: ProfileAnalysis) -> dict[tuple[str, bool], tuple[Array, float]]:
    """Return, by kernel, milliseconds in every step of every rank and calls per step."""
    steps = [len(item.windows.start) for item in analysis.ranks]
    offsets = np.concatenate([[0], np.cumsum(steps)])
    rows: dict[tuple[str, bool], tuple[Array, float]] = {}
    for place, item in enumerate(analysis.ranks):
        for kernel in item.kernels.kernels if item.kernels else ():
            key = (kernel.name, kernel.collective)
            values, calls = rows.get(key, (np.zeros(offsets[-1]), 0.0))
            values[offsets[place] : offsets[place + 1]] = np.array(kernel.per_step) / 1e6
            rows[key] = (values, calls + kernel.calls / float(offsets[-1]))
    return rows


def _kernels(before: ProfileAnalysis, after: ProfileAnalysis) -> list[Change]:
    first, second = _kernel_rows(before), _kernel_rows(after)
    changes = []
    for key in first.keys() | second.keys():
        name, collective = key
        old, old_calls = first.get(key, (np.zeros(_steps(before)), 0.0))
        new, new_calls = second.get(key, (np.zeros(_steps(after)), 0.0))
        kind = COLLECTIVE if collective else KERNEL
        changes.append(_change(kind, name, old, new, old_calls, new_calls))
    return changes


def _steps(analysis: ProfileAnalysis) -> int:
    return sum(len(item.windows.start) for item in analysis.ranks)


def _change(
    kind: str,
    name: str,
    before: Array,
    after: Array,
    before_calls: float = 0.0,
    after_calls: float = 0.0,
) -> Change:
    value = float(after.mean() - before.mean())
    found = welch(after, before)
    n = int(min(before.size, after.size))
    lost = Estimate(value=value, n=n, method=NO_INTERVAL)
    if found is not None and n > 1:
        centre, half = found
        lost = Estimate(value=value, low=centre - half, high=centre + half, n=n, method=STUDENT_T)
    return Change(
        kind=kind,
        name=LABELS.get(name, name) if kind == PART else name,
        before_ms=float(before.mean()),
        after_ms=float(after.mean()),
        lost=lost,
        before_calls=before_calls,
        after_calls=after_calls,
    )


def _ranked(changes: list[Change]) -> tuple[Change, ...]:
    return tuple(sorted(changes, key=lambda item: (-item.lost.value, item.name)))


def _fractions(
    before: ProfileAnalysis, after: ProfileAnalysis
) -> tuple[tuple[str, Estimate | None, Estimate | None], ...]:
    names = ("gpu_busy", "overlap", "exposed_comm", "idle")
    if before.mode is Mode.HOST:
        names = ("data_wait", "overlap", "exposed_comm", "host_time")
    first, second = before.ranks[0].fractions, after.ranks[0].fractions
    return tuple((name, first.get(name), second.get(name)) for name in names)
