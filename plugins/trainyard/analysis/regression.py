"""Is a configuration slower than it used to be? A first, honest signal from stored nights.

The rule, for one metric of one configuration on one machine:

1. A night's number is the median over its comparable runs with its 95 % interval over runs
   (``statistics.estimate``); a night of a single run has none and is left out.
2. The reference is the interval in which one more night is expected: the 95 % prediction interval
   of the earlier nights' medians, mean ± t(n-1) s √(1 + 1/n), taken on logarithms. It holds the
   variance *between* nights, which is what a comparison of nights needs (docs/monitoring.md), and
   needs ``REFERENCE_NIGHTS`` nights.
3. A night is *worse* when its whole interval lies beyond the reference on the worse side, by
   ``LEAST_CHANGE`` of the reference's centre or more.
4. One worse night makes the configuration *suspected*, two successive ones *confirmed*. Worse
   nights do not enter the reference, so a regression stays confirmed until a night is fine again
   or the nights before it are older than what the caller passes.

It is no proof. It looks at each configuration alone (no false-discovery control over many), needs
scatter that is roughly normal on the logarithm, sees no drift slower than the window, and does not
run old and new code side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.special import stdtrit

from trainyard.analysis.statistics import TAIL, Estimate, estimate

REFERENCE_NIGHTS = 5
"""Earlier nights without which nothing is said."""
LEAST_CHANGE = 0.02
"""Smallest relative change that counts: what two cores of a shared host move by themselves."""


class Better(StrEnum):
    """Which way a metric gets better."""

    HIGHER = "higher"
    LOWER = "lower"


class State(StrEnum):
    """What the nights say."""

    UNKNOWN = "unknown"
    STEADY = "steady"
    SUSPECTED = "suspected"
    CONFIRMED = "confirmed"


@dataclass(kw_only=True, slots=True, frozen=True)
class Night:
    """One night of one configuration."""

    at: str
    """When its study began, ISO 8601 in UTC of fixed width, so that it sorts."""
    machine: str
    """What it ran on; nights on other machines are not compared."""
    values: tuple[float, ...]
    """One number for each comparable run, positive."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Regression:
    """The verdict on one configuration."""

    state: State
    """What the nights say."""
    why: str
    """The same in a sentence, with the numbers."""
    latest: Estimate | None = None
    """The newest night that has an interval."""
    low: float | None = None
    """Lower end of the reference; None without one."""
    high: float | None = None
    """Upper end of the reference; None without one."""
    nights: int = 0
    """Nights behind the reference."""

    @property
    def change(self) -> float | None:
        """Relative distance of the newest night from the reference's centre; None without one."""
        if self.latest is None or self.low is None or self.high is None:
            return None
        return self.latest.value / math.sqrt(self.low * self.high) - 1


def judge(nights: Sequence[Night], better: Better) -> Regression:
    """Return what *nights* of one configuration, in any order, say about its newest one.

    Only nights on the machine of the newest one count.
    """
    ordered = sorted(nights, key=lambda night: night.at)
    same = [night for night in ordered if night.machine == ordered[-1].machine]
    measured = [found for night in same if (found := _interval(night)) is not None]
    if not measured:
        return Regression(state=State.UNKNOWN, why="no night has an interval: run more repeats")
    return _walk(measured, better)


def _walk(nights: Sequence[Estimate], better: Better) -> Regression:
    """Judge night after night; what was worse is kept out of the reference of those after it."""
    accepted: list[float] = []
    worse_in_a_row = 0
    reference: tuple[float, float] | None = None
    for night in nights:
        reference = prediction(accepted)
        if reference is not None and is_worse(night, reference, better):
            worse_in_a_row += 1
        else:
            worse_in_a_row = 0
            accepted.append(night.value)
    behind = len(accepted) - (worse_in_a_row == 0)
    if reference is None:
        why = f"{behind} earlier nights on this machine; {REFERENCE_NIGHTS} make a reference"
        return Regression(state=State.UNKNOWN, why=why, latest=nights[-1], nights=behind)
    state = (State.STEADY, State.SUSPECTED, State.CONFIRMED)[min(worse_in_a_row, 2)]
    low, high = reference
    why = (
        f"{nights[-1].value:.6g} [{nights[-1].low:.6g}, {nights[-1].high:.6g}] against "
        f"[{low:.6g}, {high:.6g}] from {behind} nights, {worse_in_a_row} worse in a row"
    )
    return Regression(
        state=state, why=why, latest=nights[-1], low=low, high=high, nights=behind
    )  # fmt: skip


def prediction(medians: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % prediction interval of one more night, None with too few nights.

    Student's t on logarithms of positive *medians*; Hahn & Meeker, Statistical Intervals, ch. 4.
    """
    n = len(medians)
    if n < REFERENCE_NIGHTS:
        return None
    logs = np.log(np.asarray(medians, dtype=np.float64))
    half = float(stdtrit(n - 1, 1 - TAIL)) * float(logs.std(ddof=1)) * math.sqrt(1 + 1 / n)
    centre = float(logs.mean())
    return math.exp(centre - half), math.exp(centre + half)


def is_worse(night: Estimate, reference: tuple[float, float], better: Better) -> bool:
    """Whether the whole interval of *night* is beyond *reference*, and by enough to matter."""
    if night.low is None or night.high is None:
        return False
    low, high = reference
    centre = math.sqrt(low * high)
    if better is Better.HIGHER:
        return night.high < low and night.value <= centre * (1 - LEAST_CHANGE)
    return night.low > high and night.value >= centre * (1 + LEAST_CHANGE)


def _interval(night: Night) -> Estimate | None:
    found = estimate([value for value in night.values if value > 0])
    return found if found is not None and found.low is not None else None
