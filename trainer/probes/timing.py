"""Repeats, their interval and whether they count: the same rules for every micro-benchmark.

The value is the median over repeats, its 95 % interval a percentile bootstrap of that median
(2,000 resamples, fixed seed). Repeats of one process share its state: the interval says how far
the number may be trusted *now*, not from night to night; references learn that from reports.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trainer.contract import Measurement
from trainer.flags import FOREIGN_SHARE
from trainer.load import LoadMeter

SPREAD = 0.15
"""Interquartile range over the median beyond which repeats do not agree."""
_RESAMPLES = 2000


@dataclass(kw_only=True, slots=True, frozen=True)
class Limit:
    """The physical limit of a measurement, or why none is known."""

    value: float | None = None
    source: str


@dataclass(kw_only=True, slots=True, frozen=True)
class Timed:
    """Seconds of each repeat, and what disturbed them."""

    seconds: tuple[float, ...]
    foreign_cores: float
    """Cores that other programs kept busy meanwhile."""


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the median of *values*, shape (n,)."""
    picks = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(values[picks], axis=1), (2.5, 97.5))
    return float(low), float(high)


def repeat(work: Callable[[], object], *, seconds: float, least: int = 5, most: int = 200) -> Timed:
    """Time *work* again and again for about *seconds*, *least* to *most* times, after one warm-up.

    A piece of work that takes longer than *seconds* by itself is still repeated *least* times.
    """
    work()
    meter = LoadMeter()
    meter.start()
    taken: list[float] = []
    begin = time.perf_counter()
    while len(taken) < least or (time.perf_counter() - begin < seconds and len(taken) < most):
        before = time.perf_counter()
        work()
        taken.append(time.perf_counter() - before)
    wall = time.perf_counter() - begin
    busy, own = meter.stop()
    return Timed(seconds=tuple(taken), foreign_cores=max(0.0, busy - own) / max(wall, 1e-9))


def rate(
    name: str, timed: Timed, *, amount: float, unit: str, limit: Limit, doubt: str = ""
) -> Measurement:
    """Return *amount* per second of the repeats."""
    return summary(name, amount / np.array(timed.seconds), unit, limit, timed, doubt)


def duration(name: str, timed: Timed, *, parts: int = 1, doubt: str = "") -> Measurement:
    """Return the seconds of one of the *parts* of a repeat; a duration has no known limit."""
    seconds = np.array(timed.seconds) / parts
    return summary(name, seconds, "s", Limit(source="latency has none in the tables"), timed, doubt)


def summary(
    name: str, values: np.ndarray, unit: str, limit: Limit, timed: Timed, doubt: str = ""
) -> Measurement:
    """Return the measurement of *values*, shape (repeats,), in *unit*."""
    value = float(np.median(values))
    low, high = bootstrap(values)
    why = "; ".join(reason for reason in (doubt, *_doubts(values, timed)) if reason)
    return Measurement(
        name=name,
        value=value,
        unit=unit,
        low=min(low, value),
        high=max(high, value),
        repeats=len(values),
        limit=limit.value,
        limit_source=limit.source,
        ratio=value / limit.value if limit.value else None,
        valid=not why,
        why=why,
    )


def _doubts(values: np.ndarray, timed: Timed) -> list[str]:
    found = []
    quarter, middle, three = np.percentile(values, (25, 50, 75))
    spread = (three - quarter) / middle if middle else 0.0
    if spread > SPREAD:
        found.append(
            f"unstable: interquartile range {spread:.0%} of the median, limit {SPREAD:.0%}"
        )
    cores = len(os.sched_getaffinity(0))
    if timed.foreign_cores > FOREIGN_SHARE * cores:
        found.append(
            f"foreign load: other programs kept {timed.foreign_cores:.2f} of {cores} cores busy, "
            f"limit {FOREIGN_SHARE * cores:.2f}"
        )
    return found
