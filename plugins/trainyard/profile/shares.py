"""Fractions over the steps of one profile, with intervals.

A fraction is a ratio of sums (time of a part over time of all windows), never a mean of ratios.
Its interval says how much it scatters from step to step **within this profile**; what changes from
run to run is not in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from trainyard.analysis.statistics import (
    ENOUGH_FOR_BOOTSTRAP,
    NO_INTERVAL,
    SEED,
    STUDENT_T,
    TAIL,
    Estimate,
)

if TYPE_CHECKING:
    from trainyard.profile.model import Array

BLOCKS = "block bootstrap over steps"
RESAMPLES = 2000


def ratio_over_steps(numerator: Array, denominator: Array) -> Estimate | None:
    """Return ``sum(numerator) / sum(denominator)`` with its 95 % interval over steps.

    Both have shape (steps,). Five steps or more: circular block bootstrap, blocks of
    ceil(n^(1/3)) consecutive steps (Politis & Romano 1992), numerator and denominator resampled
    together. Two to four: Student's t on the linearised ratio. One: no interval. None when a value
    is unknown (NaN) or the denominator is 0.
    """
    top = np.asarray(numerator, dtype=np.float64)
    bottom = np.asarray(denominator, dtype=np.float64)
    total = float(bottom.sum())
    if not top.size or not np.isfinite(top).all() or not total > 0:
        return None
    value = float(top.sum()) / total
    if top.size == 1:
        return Estimate(value=value, n=1, method=NO_INTERVAL)
    if top.size < ENOUGH_FOR_BOOTSTRAP:
        half = _half_width(top, bottom, value)
        return Estimate(
            value=value, low=value - half, high=value + half, n=top.size, method=STUDENT_T
        )
    chosen = _blocks(top.size)
    sums = bottom[chosen].sum(axis=1)
    ratios = top[chosen].sum(axis=1)[sums > 0] / sums[sums > 0]
    low, high = np.quantile(ratios, [TAIL, 1 - TAIL])
    return Estimate(value=value, low=float(low), high=float(high), n=int(top.size), method=BLOCKS)


def mean_over_steps(values: Array, scale: float = 1.0) -> Estimate | None:
    """Return ``scale x mean(values)`` with its interval, as ``ratio_over_steps`` makes it."""
    return ratio_over_steps(np.asarray(values, dtype=np.float64) * scale, np.ones(len(values)))


def _half_width(top: Array, bottom: Array, value: float) -> float:
    residual = top - value * bottom
    n = top.size
    error = float(np.sqrt((residual**2).sum() / (n - 1) / n)) / float(bottom.mean())
    return float(stdtrit(n - 1, 1 - TAIL)) * error


def _blocks(n: int) -> Array:
    """Return places of resampled steps, shape (RESAMPLES, n)."""
    size = int(np.ceil(n ** (1 / 3)))
    count = -(-n // size)
    rng = np.random.default_rng(SEED)
    starts = rng.integers(0, n, (RESAMPLES, count))
    places = (starts[:, :, None] + np.arange(size)) % n
    chosen: Array = places.reshape(RESAMPLES, count * size)[:, :n]
    return chosen
