"""Which steps of a run are warm-up, timed windows, the untimed rest and the captured end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True, slots=True, frozen=True)
class Segment:
    """Steps between two borders."""

    first: int
    last: int
    """Step to stop before."""
    timed: bool
    captured: bool = False
    """A profiler watches; never timed."""


def segments(first: int, total: int, warmup: int, window: int, captured: int = 0) -> list[Segment]:
    """Return the parts of the steps from *first* to *total*: warm-up, full windows, untimed rest.

    A resumed process is as cold as a new one, so its first *warmup* steps are untimed too. The last
    *captured* steps are a part of their own.
    """
    if captured:
        watched = Segment(
            first=max(first, total - captured), last=total, timed=False, captured=True
        )
        before = segments(first, watched.first, warmup, window) if watched.first > first else []
        return [*before, watched] if total > first else []
    warm = min(first + warmup, total)
    found = [Segment(first=first, last=warm, timed=False)] if warm > first else []
    while warm + window <= total:
        found.append(Segment(first=warm, last=warm + window, timed=True))
        warm += window
    if warm < total:
        found.append(Segment(first=warm, last=total, timed=False))
    return found
