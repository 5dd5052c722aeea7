"""Algebra of half-open time intervals ``[start, end)`` in int64 nanoseconds, vectorised.

A ``Spans`` is canonical: sorted, disjoint, no two of them touching, none empty. Every function
takes and returns canonical spans, so that lengths are unions and never sums of durations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Int64s = NDArray[np.int64]


@dataclass(slots=True, frozen=True, eq=False)
class Spans:
    """A set of moments as canonical intervals; make one with ``union``."""

    start: Int64s
    """First nanoseconds, shape (n,), ascending."""
    end: Int64s
    """Nanoseconds after the last, shape (n,)."""

    def __len__(self) -> int:
        """Return the number of intervals."""
        return int(self.start.size)

    @property
    def length(self) -> int:
        """Nanoseconds covered."""
        return int((self.end - self.start).sum())


def empty() -> Spans:
    """Return no moment at all."""
    nothing = np.empty(0, dtype=np.int64)
    return Spans(nothing, nothing)


def span(start: int, end: int) -> Spans:
    """Return one interval, or nothing when *end* is not after *start*."""
    if end <= start:
        return empty()
    return Spans(np.array([start], dtype=np.int64), np.array([end], dtype=np.int64))


def union(start: Int64s, end: Int64s) -> Spans:
    """Return the moments covered by any of the intervals, in any order, overlapping or empty.

    Raises ``ValueError`` when the arrays differ in shape or an interval ends before its start.
    """
    if start.shape != end.shape:
        raise ValueError(f"{start.shape} starts but {end.shape} ends: give one end per start")
    if bool((end < start).any()):
        raise ValueError("an interval ends before it starts: the reader must drop or repair it")
    full = end > start
    if not full.all():
        start, end = start[full], end[full]
    if not start.size:
        return empty()
    if start.size > 1 and bool((start[1:] < start[:-1]).any()):
        order = np.argsort(start, kind="stable")
        start, end = start[order], end[order]
    reached = np.maximum.accumulate(end)
    # A new interval begins where all earlier ones have ended; touching ones are joined.
    first = np.empty(start.size, dtype=bool)
    first[0] = True
    np.greater(start[1:], reached[:-1], out=first[1:])
    places = np.flatnonzero(first)
    last = np.append(places[1:], start.size) - 1
    return Spans(start[places], reached[last])


def join(*parts: Spans) -> Spans:
    """Return the moments in any of *parts*."""
    kept = [part for part in parts if len(part)]
    if not kept:
        return empty()
    if len(kept) == 1:
        return kept[0]
    return union(
        np.concatenate([part.start for part in kept]), np.concatenate([part.end for part in kept])
    )


def intersect(first: Spans, second: Spans) -> Spans:
    """Return the moments in both."""
    if len(first) > len(second):
        first, second = second, first
    if not len(first):
        return empty()
    low = np.searchsorted(second.end, first.start, side="right")
    counts = np.searchsorted(second.start, first.end, side="left") - low
    total = int(counts.sum())
    if not total:
        return empty()
    mine = np.repeat(np.arange(counts.size), counts)
    before = np.cumsum(counts) - counts
    theirs = np.arange(total) - before[mine] + low[mine]
    return Spans(
        np.maximum(first.start[mine], second.start[theirs]),
        np.minimum(first.end[mine], second.end[theirs]),
    )


def complement(spans: Spans, start: int, end: int) -> Spans:
    """Return the moments of ``[start, end)`` that are not in *spans*."""
    inside = clip(spans, start, end)
    starts = np.concatenate([np.array([start], dtype=np.int64), inside.end])
    ends = np.concatenate([inside.start, np.array([end], dtype=np.int64)])
    full = ends > starts
    return Spans(starts[full], ends[full])


def subtract(first: Spans, second: Spans) -> Spans:
    """Return the moments in *first* and not in *second*."""
    if not len(first) or not len(second):
        return first
    return intersect(first, complement(second, int(first.start[0]), int(first.end[-1])))


def clip(spans: Spans, start: int, end: int) -> Spans:
    """Return the moments of *spans* within ``[start, end)``."""
    if not len(spans) or end <= start:
        return empty()
    low = int(np.searchsorted(spans.end, start, side="right"))
    high = int(np.searchsorted(spans.start, end, side="left"))
    if high <= low:
        return empty()
    starts, ends = spans.start[low:high].copy(), spans.end[low:high].copy()
    starts[0] = max(int(starts[0]), start)
    ends[-1] = min(int(ends[-1]), end)
    return Spans(starts, ends)


def lengths(spans: Spans, starts: Int64s, ends: Int64s) -> Int64s:
    """Return the nanoseconds of *spans* within each window, shape of *starts*; windows may overlap.

    Two binary searches per window: the covered time before a moment is a cumulative sum.
    """
    return covered(spans, ends) - covered(spans, starts)


def covered(spans: Spans, moments: Int64s) -> Int64s:
    """Return the nanoseconds of *spans* before each of *moments*."""
    if not len(spans):
        return np.zeros(moments.shape, dtype=np.int64)
    total = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(spans.end - spans.start)])
    place = np.searchsorted(spans.start, moments, side="right")
    # Take back what the interval that began last has not covered yet.
    ahead = np.maximum(spans.end[np.maximum(place, 1) - 1] - moments, 0)
    result: Int64s = total[place] - np.where(place > 0, ahead, 0)
    return result
