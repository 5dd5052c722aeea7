"""Where the steps of a rank without a device went: its phases, from NVTX or record_function ranges.

Every moment of a step belongs to one part. The stepping thread decides: a collective inside the
backward range is communication, a data range is waiting for data. A collective on another thread
counts where the stepping thread is in no phase of its own, and where it is in backward without
running any operator: there it waits. So it does in a range named "wait for gradients". The rest is
hidden.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainyard.profile import intervals as iv
from trainyard.profile.device import phase_ranges
from trainyard.profile.steps import PHASES, is_wait

if TYPE_CHECKING:
    import pandas as pd

    from trainyard.profile.intervals import Spans
    from trainyard.profile.model import RankTrace
    from trainyard.profile.steps import Windows

_INNERMOST_FIRST = ("collective", "data", "optimizer", "backward", "forward")


@dataclass(kw_only=True, slots=True, frozen=True, eq=False)
class PhaseTimes:
    """Nanoseconds per step and phase of one rank."""

    frame: pd.DataFrame
    """One row per step: ``window``, the exclusive time of each phase, ``other`` (no phase), and
    ``<phase>_total`` (the whole range, with what lies inside it)."""
    spans: dict[str, Spans]
    """The exclusive moments of each phase."""
    named: tuple[str, ...]
    """Phases that the trace names."""


def phase_times(rank: RankTrace, windows: Windows) -> PhaseTimes:
    """Return the phases of every step of *rank*."""
    import pandas as pd

    low, high = int(windows.start[0]), int(windows.end[-1])
    whole, mine = {}, {}
    for phase in PHASES:
        ranges = phase_ranges(rank, phase)
        own = ranges.thread == windows.thread
        whole[phase] = iv.clip(iv.union(ranges.start, ranges.end), low, high)
        mine[phase] = iv.clip(iv.union(ranges.start[own], ranges.end[own]), low, high)
    busy = iv.join(*mine.values())
    taken, spans = iv.empty(), {}
    awaited = _awaited(rank, windows, whole, mine)
    for kept in (whole, mine):
        kept["collective"] = iv.join(kept["collective"], awaited)
    for phase in _INNERMOST_FIRST:
        hidden_elsewhere = iv.subtract(whole[phase], busy)
        own = iv.subtract(iv.join(mine[phase], hidden_elsewhere), taken)
        spans[phase] = own
        taken = iv.join(taken, own)
    columns = {"window": windows.length.astype(np.float64)}
    for phase in PHASES:
        columns[phase] = iv.lengths(spans[phase], windows.start, windows.end).astype(np.float64)
    covered = iv.lengths(taken, windows.start, windows.end)
    columns["other"] = columns["window"] - covered
    for phase in PHASES:
        total = iv.lengths(whole[phase], windows.start, windows.end)
        columns[f"{phase}_total"] = total.astype(np.float64)
    named = tuple(phase for phase in PHASES if len(whole[phase]))
    return PhaseTimes(frame=pd.DataFrame(columns), spans=spans, named=named)


def _awaited(
    rank: RankTrace, windows: Windows, whole: dict[str, Spans], mine: dict[str, Spans]
) -> Spans:
    """Return the moments in which the stepping thread only waits for collectives.

    DistributedDataParallel waits inside backward for collectives that run on threads of gloo. What
    tells that from computing is a range of that name, or operators: without either, nothing is
    returned.
    """
    own = rank.operators.thread == windows.thread
    if not own.any():
        said = [n for n in np.unique(rank.ranges.name) if is_wait(rank.names[int(n)])]
        waits = rank.ranges.where(
            np.isin(rank.ranges.name, said) & (rank.ranges.thread == windows.thread)
        )
        return iv.clip(
            iv.union(waits.start, waits.end), int(windows.start[0]), int(windows.end[-1])
        )
    computing = iv.union(rank.operators.start[own], rank.operators.end[own])
    return iv.subtract(iv.intersect(whole["collective"], mine["backward"]), computing)
