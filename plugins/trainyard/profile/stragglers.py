"""Who arrives last at the collectives, and what the others' waiting costs.

The k-th collective of a step on one rank is the k-th of that step on every other: ranks issue them
in one order. With comparable clocks, a rank waits from its own arrival to the last one's. Without
them, or where the ranks of a collective never meet and the clocks are thereby wrong, the rank that
spends least time in a collective is taken as the last to arrive, and whatever the others spend more
is waiting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from trainyard.profile import intervals as iv
from trainyard.profile.device import phase_ranges
from trainyard.profile.model import Kind

if TYPE_CHECKING:
    from trainyard.profile.intervals import Spans
    from trainyard.profile.model import Array, RankTrace, Trace
    from trainyard.profile.steps import Windows

ARRIVALS, DURATIONS = "arrival times", "durations"
MEETING = 0.9
"""Share of collectives in which all ranks must be at one moment, for clocks to be believed."""


@dataclass(kw_only=True, slots=True, frozen=True, eq=False)
class Stragglers:
    """Waiting at collectives; arrays are by rank in the trace's order."""

    matched: int
    """Collectives found on every rank."""
    unmatched: int
    """Collectives of rank 0 whose step has another number of them on some rank."""
    basis: str
    """Arrival times, or durations where clocks do not compare."""
    last: Array
    """Collectives at which each rank was the last, shape (ranks,)."""
    waiting: Array
    """Nanoseconds each rank waited in each step, shape (ranks, steps)."""
    exposed: Array
    """The part of ``waiting`` that no computation hides, shape (ranks, steps)."""

    @property
    def latest(self) -> int:
        """Place of the rank that is last most often."""
        return int(self.last.argmax())


def stragglers_of(
    trace: Trace, windows: list[Windows], exposed: list[Spans]
) -> tuple[Stragglers | None, str]:
    """Return the waiting of *trace*, or None and why it cannot be told.

    *windows* and *exposed* (communication that nothing hides) are by rank.
    """
    if len(trace.ranks) < 2:  # noqa: PLR2004 - one rank waits for nobody
        return None, "one rank waits for nobody"
    counts = {len(item.start) for item in windows}
    if len(counts) > 1:
        seen = ", ".join(str(len(item.start)) for item in windows)
        return None, f"the ranks were profiled over different numbers of steps ({seen})"
    found = [_collectives(rank, item) for rank, item in zip(trace.ranks, windows, strict=True)]
    if not all(item.step.size for item in found):
        return None, "some rank has no collective in its steps"
    steps = len(windows[0].start)
    start, end, step = _matched(found, steps)
    if not step.size:
        return None, "no step has the same number of collectives on every rank"
    aligned = trace.aligned and meet(start, end) >= MEETING
    wait, last = _waits(start, end, aligned=aligned)
    open_ = [
        iv.lengths(iv.intersect(iv.union(begin, begin + row), open_comm), item.start, item.end)
        for begin, row, open_comm, item in zip(start, wait, exposed, windows, strict=True)
    ]
    made = Stragglers(
        matched=int(step.size),
        unmatched=int(found[0].step.size - step.size),
        basis=ARRIVALS if aligned else DURATIONS,
        last=np.bincount(last, minlength=len(found)),
        waiting=np.stack([np.bincount(step, weights=row, minlength=steps) for row in wait]),
        exposed=np.stack(open_).astype(np.float64),
    )
    return made, ""


def _matched(found: list[_Collectives], steps: int) -> tuple[Array, Array, Array]:
    """Return the collectives of those steps that have the same number of them on every rank.

    Start and end have shape (ranks, collectives), the step of each (collectives,).
    """
    per_step = np.stack([np.bincount(item.step, minlength=steps) for item in found])
    equal = (per_step == per_step[0]).all(axis=0)
    start = np.stack([item.start[equal[item.step]] for item in found])
    end = np.stack([item.end[equal[item.step]] for item in found])
    return start, end, found[0].step[equal[found[0].step]]


class _Collectives(NamedTuple):
    """The collectives of one rank, in order; arrays of one length."""

    start: Array
    end: Array
    step: Array


def _collectives(rank: RankTrace, windows: Windows) -> _Collectives:
    if rank.on_device:
        work = rank.device.where(rank.device.kind == Kind.COLLECTIVE)
    else:
        work = phase_ranges(rank, "collective")
    step = np.searchsorted(windows.start, work.start, side="right") - 1
    inside = (step >= 0) & (work.start < windows.end[np.maximum(step, 0)])
    return _Collectives(work.start[inside], work.end[inside], step[inside])


def meet(start: Array, end: Array) -> float:
    """Return the share of collectives in which all ranks are at the same moment.

    Nobody leaves an all-reduce before the last has entered: where ranks miss each other, their
    clocks are wrong, whatever the traces say of UTC. Both arrays have shape (ranks, collectives).
    """
    return float((start.max(axis=0) <= end.min(axis=0)).mean())


def _waits(start: Array, end: Array, *, aligned: bool) -> tuple[Array, Array]:
    """Return waiting time, shape (ranks, collectives), and the last rank of each."""
    duration = end - start
    if aligned:
        last = start.argmax(axis=0)
        return np.clip(start.max(axis=0) - start, 0, duration), last
    return duration - duration.min(axis=0), duration.argmin(axis=0)
