"""Weighted least squares on the logarithms of run times, with profile intervals.

Logarithms, because run times scatter by a share of themselves; runs, because they are independent.
The runs of a point enter as their mean and their own scatter ("pure error"): that is the same
likelihood, and the search works on as many residuals as there are points.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq, least_squares
from scipy.special import fdtrc, stdtrit

from trainyard.analysis.statistics import TAIL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Predict = Callable[[Array], Array]

PRIOR_FREEDOM = 4.0
"""Degrees of freedom lent to the common variance when a point's own is estimated."""
TINY = 1e-9


@dataclass(kw_only=True, slots=True, frozen=True)
class Sample:
    """Points to fit, each the mean of the logarithms of its runs' times."""

    ranks: Array
    """Ranks of each point, shape (points,)."""
    logs: Array
    """Mean natural logarithm of seconds per step, shape (points,)."""
    weights: Array
    """Runs over moderated variance, shape (points,)."""
    runs: int
    """Runs over all points."""
    pure_error: float
    """Weighted sum of squares within points."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Solution:
    """A minimum, and how sharp it is."""

    parameters: Array
    """Best values."""
    intervals: tuple[tuple[float | None, float | None], ...]
    """95 % profile interval of each; None where an end was not found."""
    total: float
    """Weighted sum of squares over all runs at the minimum."""
    aicc: float | None
    """Corrected Akaike criterion; None with too few runs for it."""
    lack_of_fit: float | None
    """p-value of points lying off the law more than their runs scatter; None when untestable."""
    residuals: Array
    """Measured over predicted time, minus one, at each point."""


def sample_of(ranks: list[int], times: list[tuple[float, ...]]) -> Sample:
    """Return the sample of *times* (seconds per step of every run) at *ranks*.

    A point's variance is moderated (Smyth, 2004): its own, drawn towards that of all points by
    four degrees of freedom, since three runs alone say little about their own scatter.
    """
    logs = [np.log(np.asarray(values)) for values in times]
    freedoms = np.array([len(values) - 1 for values in logs], dtype=np.float64)
    squares = np.array([float(((v - v.mean()) ** 2).sum()) for v in logs])
    # Identical times (a coarse clock) must not make a weight infinite.
    common = max(float(squares.sum() / freedoms.sum()), TINY) if freedoms.sum() > 0 else 1.0
    variances = (PRIOR_FREEDOM * common + squares) / (PRIOR_FREEDOM + freedoms)
    return Sample(
        ranks=np.asarray(ranks, dtype=np.float64),
        logs=np.array([float(values.mean()) for values in logs]),
        weights=np.array([len(values) for values in logs]) / variances,
        runs=sum(len(values) for values in logs),
        pure_error=float((squares / variances).sum()),
    )


def solve(sample: Sample, predict: Predict, start: Array) -> Solution | None:
    """Minimise the weighted squares of ``logs − log(predict(parameters))``.

    *predict* maps parameters to seconds at each point. None when no minimum was found.
    """
    best = _minimise(sample, predict, start, fixed=None)
    if best is None:
        return None
    parameters, points_error = best
    total = points_error + sample.pure_error
    count = parameters.size
    predicted = predict(parameters)
    return Solution(
        parameters=parameters,
        intervals=tuple(
            _profile(sample, predict, parameters, points_error, index) for index in range(count)
        ),
        total=total,
        aicc=_aicc(sample.runs, total, count),
        lack_of_fit=_lack_of_fit(sample, points_error, count),
        residuals=np.exp(sample.logs) / predicted - 1,
    )


def _minimise(
    sample: Sample, predict: Predict, start: Array, *, fixed: int | None
) -> tuple[Array, float] | None:
    """Return the parameters and the weighted squares at the minimum, one of them held *fixed*."""
    free = np.array([index != fixed for index in range(start.size)])
    root = np.sqrt(sample.weights)
    whole = start.copy()

    def residuals(chosen: Array) -> Array:
        whole[free] = chosen
        predicted = predict(whole)
        # Outside the law's range (a time of zero or less) the distance only has to be large.
        safe = np.where(predicted > 0, predicted, np.exp(sample.logs) * 1e-6)
        return root * (sample.logs - np.log(safe))

    if not free.any():
        return start, float((residuals(start[free]) ** 2).sum())
    scale = np.maximum(np.abs(start[free]), 1e-3 if fixed is None else 1e-6)
    found = least_squares(residuals, start[free], x_scale=scale, method="lm", max_nfev=2000)
    if not np.isfinite(found.cost):
        return None
    whole[free] = found.x
    return whole.copy(), float(2 * found.cost)


def _profile(
    sample: Sample, predict: Predict, best: Array, error: float, index: int
) -> tuple[float | None, float | None]:
    """Return the values at which refitting the others raises the squares by the F threshold."""
    freedom = sample.runs - best.size
    if freedom < 1:
        return None, None
    scale = (error + sample.pure_error) / freedom
    threshold = float(stdtrit(freedom, 1 - TAIL)) ** 2 * scale
    if threshold <= 0:
        return float(best[index]), float(best[index])

    def excess(value: float) -> float:
        start = best.copy()
        start[index] = value
        held = _minimise(sample, predict, start, fixed=index)
        return (np.inf if held is None else held[1] - error) - threshold

    return _end(excess, best[index], -1), _end(excess, best[index], +1)


def _end(excess: Callable[[float], float], centre: float, direction: int) -> float | None:
    """Walk outwards until *excess* is positive, then close in; None when it never is."""
    inside, step = float(centre), max(abs(float(centre)) * 0.05, 1e-5)
    for _ in range(25):
        outside = inside + direction * step
        above = excess(outside)
        if above > 0:
            if not np.isfinite(above):
                return None
            return float(brentq(excess, inside, outside, rtol=1e-4))
        inside, step = outside, step * 2
    return None


def _aicc(runs: int, total: float, count: int) -> float | None:
    """AICc of a normal likelihood with unknown variance (Hurvich & Tsai, 1989)."""
    free = count + 1  # the variance is estimated too
    if runs - free - 1 <= 0 or total <= 0:
        return None
    return float(runs * np.log(total / runs) + 2 * free + 2 * free * (free + 1) / (runs - free - 1))


def _lack_of_fit(sample: Sample, error: float, count: int) -> float | None:
    """p-value of the F test of the points' distance from the law against the runs' scatter."""
    between = sample.ranks.size - count
    within = sample.runs - sample.ranks.size
    if between < 1 or within < 1 or sample.pure_error <= 0:
        return None
    return float(fdtrc(between, within, (error / between) / (sample.pure_error / within)))
