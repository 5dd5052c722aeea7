"""What was learnt: test accuracy per number of ranks, and whether it is the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtrit

from trainyard.analysis.statistics import TAIL, binomial_interval, smallest_detectable, welch

if TYPE_CHECKING:
    import pandas as pd

    from trainyard.analysis.selection import Point


@dataclass(kw_only=True, slots=True, frozen=True)
class Accuracy:
    """Test accuracy of one configuration. Timing flags do not touch it: all sane runs count."""

    point: Point
    """Which configuration."""
    values: tuple[float, ...]
    """Accuracy of every sane run, 0 to 1."""
    mean: float
    """Mean over runs."""
    low: float | None
    """Lower end of Student's t interval over runs; None with one run."""
    high: float | None
    """Upper end."""
    sampling: tuple[float, float] | None
    """Wilson interval of the mean for the size of the test set; None when that is unknown."""


@dataclass(kw_only=True, slots=True, frozen=True)
class AccuracyVerdict:
    """Whether more ranks learnt the same as one."""

    mode: str
    """Scaling mode; under weak scaling the global batch grows, so accuracy may rightly move."""
    batch: int
    """The batch the curve holds fixed."""
    ranks: int
    """Ranks compared with one."""
    difference: float
    """Mean accuracy at these ranks minus at one rank."""
    low: float
    """Lower end of its 95 % interval (Welch)."""
    high: float
    """Upper end."""
    same: bool
    """The interval holds zero: no difference was seen."""
    detectable: float
    """Smallest true difference this comparison would see 8 times in 10."""


def accuracies_of(
    points: tuple[Point, ...], runs: pd.DataFrame, test_samples: int
) -> tuple[Accuracy, ...]:
    """Return the accuracy of every point with a sane run that measured it."""
    sane = runs[runs["sane"] & runs["test_accuracy"].between(0, 1)]
    grouped = {key: tuple(values) for key, values in sane.groupby("config_id")["test_accuracy"]}
    made = []
    for point in points:
        values = grouped.get(point.config_id, ())
        if values:
            made.append(_accuracy(point, values, test_samples))
    return tuple(made)


def _accuracy(point: Point, values: tuple[float, ...], test_samples: int) -> Accuracy:
    array = np.asarray(values)
    mean = float(array.mean())
    low = high = None
    if array.size > 1:
        half = float(stdtrit(array.size - 1, 1 - TAIL) * array.std(ddof=1)) / array.size**0.5
        low, high = max(0.0, mean - half), min(1.0, mean + half)
    return Accuracy(
        point=point,
        values=values,
        mean=mean,
        low=low,
        high=high,
        sampling=binomial_interval(mean, test_samples) if test_samples else None,
    )


def accuracy_verdict(
    *, mode: str, batch: int, one: Accuracy, many: Accuracy, test_samples: int
) -> AccuracyVerdict | None:
    """Compare two points; None when neither has two runs.

    Accuracies of few runs can agree to the last sample by chance. A single run's variance is
    therefore never believed below that of the test set's size, p(1 − p) / n, where it is known.
    """
    pooled = (one.mean + many.mean) / 2
    floor = pooled * (1 - pooled) / test_samples if test_samples else 0.0
    difference = welch(many.values, one.values, floor=floor)
    detectable = smallest_detectable(many.values, one.values, floor=floor)
    if difference is None or detectable is None:
        return None
    centre, half = difference
    return AccuracyVerdict(
        mode=mode,
        batch=batch,
        ranks=many.point.ranks,
        difference=centre,
        low=centre - half,
        high=centre + half,
        same=centre - half <= 0 <= centre + half,
        detectable=detectable,
    )
