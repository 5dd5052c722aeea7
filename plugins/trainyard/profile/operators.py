"""Framework operators by the time they spend themselves: the kernels of a machine without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trainyard.profile.model import Array, Events, RankTrace
    from trainyard.profile.steps import Windows


@dataclass(kw_only=True, slots=True, frozen=True)
class Operator:
    """One operator name within the steps of one rank."""

    name: str
    """Such as aten::convolution_backward."""
    calls: int
    """Calls on all threads."""
    self_ns: float
    """Nanoseconds in it and in no operator that it called."""
    share: float
    """Of the self times of all operators."""


def operator_table(rank: RankTrace, windows: Windows) -> tuple[Operator, ...]:
    """Return the operators that begin in *windows*, most self time first; empty without any."""
    table = rank.operators
    step = np.searchsorted(windows.start, table.start, side="right") - 1
    inside = (step >= 0) & (table.start < windows.end[np.maximum(step, 0)])
    chosen = table.where(inside)
    if not len(chosen):
        return ()
    own = np.concatenate(
        [_self_times(chosen.where(chosen.thread == thread)) for thread in np.unique(chosen.thread)]
    )
    names = np.concatenate(
        [
            _outer_first(chosen.where(chosen.thread == thread)).name
            for thread in np.unique(chosen.thread)
        ]
    )
    used, group = np.unique(names, return_inverse=True)
    sums = np.bincount(group, weights=own)
    calls = np.bincount(group)
    whole = float(sums.sum()) or 1.0
    order = np.argsort(-sums, kind="stable")
    return tuple(
        Operator(
            name=rank.names[used[place]],
            calls=int(calls[place]),
            self_ns=float(sums[place]),
            share=float(sums[place]) / whole,
        )
        for place in order
    )


def _outer_first(events: Events) -> Events:
    """Return events by start; of two that begin together the longer one is the outer."""
    return events.where(np.lexsort((-events.end, events.start)))


def _self_times(events: Events) -> Array:
    """Return nanoseconds of each event without its direct children, in ``_outer_first`` order.

    The events of one thread nest. A child's parent is the last event one level above that begins
    no later than it.
    """
    nested = _outer_first(events)
    depth = depths(nested)
    own: Array = nested.duration.astype(np.float64)
    for level in range(1, int(depth.max()) + 1):
        above, below = np.flatnonzero(depth == level - 1), np.flatnonzero(depth == level)
        parent = above[np.searchsorted(above, below) - 1]
        np.subtract.at(own, parent, nested.duration[below])
    return np.maximum(own, 0.0)


def depths(nested: Events) -> Array:
    """Return how many earlier events each lies within; sorted by start, outer ones first."""
    ended = np.searchsorted(np.sort(nested.end), nested.start, side="right")
    depth: Array = np.maximum(np.arange(len(nested)) - ended, 0)
    return depth
