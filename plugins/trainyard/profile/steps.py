"""Steps and phases: what the names of ranges mean, and the windows of all fractions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainyard.errors import ProfileError

if TYPE_CHECKING:
    from trainyard.profile.model import Array, Events, RankTrace

_STEP = re.compile(
    r"(?:profilerstep#\d+|(?:train(?:ing)?[ _]?)?(?:step|iter(?:ation)?)(?:[ _#:=]*\d+)?)", re.I
)
BACKWARD_OPERATOR = "autograd::engine::evaluate_function"
"""Prefix of the operators that torch.profiler records for the nodes of a backward pass."""
_PHASES: tuple[tuple[str, re.Pattern[str]], ...] = (
    (
        "data",
        re.compile(r"(?<![a-z])data\b|data[ _]?(load|wait)|enumerate\(DataLoader|next batch", re.I),
    ),
    (
        "collective",
        re.compile(
            r"collective|all[-_ ]?reduce|all[-_ ]?gather|reduce[-_ ]?scatter|broadcast|barrier\b"
            r"|gloo:|nccl:|c10d::",
            re.I,
        ),
    ),
    ("optimizer", re.compile(r"optim", re.I)),
    ("backward", re.compile(rf"{BACKWARD_OPERATOR}|backward|\bbwd\b", re.I)),
    ("forward", re.compile(r"forward|\bfwd\b", re.I)),
)
PHASES = ("data", "forward", "backward", "optimizer", "collective")
"""Phases in the order in which a step runs them."""


def is_step(name: str) -> bool:
    """Whether a range of this name is one optimizer step."""
    return _STEP.fullmatch(name.strip()) is not None


def phase_of(name: str) -> str:
    """Return the phase that a range of this name belongs to, or ""."""
    text = name.strip()
    if is_step(text):
        return ""
    return next((phase for phase, pattern in _PHASES if pattern.search(text)), "")


def is_wait(name: str) -> bool:
    """Whether a range of this name is the stepping thread waiting for gradients to be reduced.

    The trainer's name for it. It is no collective: ranks need not be in it at one moment.
    """
    return name.strip().lower() == "wait for gradients"


@dataclass(kw_only=True, slots=True, frozen=True, eq=False)
class Windows:
    """Consecutive windows of one rank, each a step where the trace names steps."""

    start: Array
    """Nanoseconds, ascending, shape (n,)."""
    end: Array
    """Nanoseconds, shape (n,); no window reaches into the next."""
    named: bool
    """Taken from step ranges; False: the whole span of the device's work as one window."""
    thread: int
    """Thread that stepped; -1 when unknown."""

    @property
    def length(self) -> Array:
        """Nanoseconds of each window."""
        length: Array = self.end - self.start
        return length


def windows_of(rank: RankTrace) -> Windows:
    """Return the steps of *rank*, else the span of its device work as one window.

    A step lasts until the next one begins, so that nothing falls between two steps; a pause longer
    than the longest step (an evaluation, a checkpoint) belongs to no step. Raises ``ProfileError``
    when the trace has neither steps nor device work.
    """
    chosen = _step_ranges(rank)
    if len(chosen):
        return _from_ranges(chosen)
    if len(rank.device):
        low, high = int(rank.device.start[0]), int(rank.device.end.max())
        if high > low:
            return Windows(start=np.array([low]), end=np.array([high]), named=False, thread=-1)
    raise ProfileError(
        f"{rank.source}: rank {rank.rank} has no step range and no device work to analyse: name "
        "the steps with NVTX ranges (step 0, step 1 …) or record_function, and profile steady steps"
    )


def _step_ranges(rank: RankTrace) -> Events:
    """Return the step ranges of the thread with most of them; ProfilerStep alone if it is there."""
    used = np.unique(rank.ranges.name)
    steps = [int(number) for number in used if is_step(rank.names[number])]
    profiler = [n for n in steps if rank.names[n].lower().startswith("profilerstep")]
    chosen = rank.ranges.where(np.isin(rank.ranges.name, profiler or steps))
    if not len(chosen):
        return chosen
    threads, counts = np.unique(chosen.thread, return_counts=True)
    mine = chosen.where(chosen.thread == threads[counts.argmax()])
    return _outermost(mine)


def _outermost(ranges: Events) -> Events:
    """Drop ranges that lie within an earlier one: a step within an iteration counts once."""
    reached = np.maximum.accumulate(ranges.end)
    first = np.ones(len(ranges), dtype=bool)
    first[1:] = ranges.start[1:] >= reached[:-1]
    return ranges.where(first)


def _from_ranges(ranges: Events) -> Windows:
    end = ranges.end.copy()
    pause = ranges.start[1:] - ranges.end[:-1]
    near = pause <= int(ranges.duration.max())
    end[:-1] = np.where(near, ranges.start[1:], ranges.end[:-1])
    return Windows(start=ranges.start, end=end, named=True, thread=int(ranges.thread[0]))
