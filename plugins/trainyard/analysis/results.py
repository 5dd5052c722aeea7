"""``analyse``: one pass from frames to everything the report shows. Pure and deterministic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainyard.analysis.accuracy import Accuracy, AccuracyVerdict, accuracies_of, accuracy_verdict
from trainyard.analysis.attribution import Attribution, attributions_of
from trainyard.analysis.fits import Fit, Refusal, fits_of
from trainyard.analysis.scaling import Comparison, comparisons_of, headline
from trainyard.analysis.selection import Point, Series, exclusions, points_of, series_of
from trainyard.analysis.validity import (
    Drift,
    FlagCount,
    Unmeasured,
    deviations,
    drift_of,
    flag_counts,
    unmeasured,
)

if TYPE_CHECKING:
    import pandas as pd

    from trainyard.analysis.study import StudyData


@dataclass(kw_only=True, slots=True, frozen=True)
class Curve:
    """One scaling series with everything computed from it."""

    series: Series
    """Its points and base cases."""
    comparisons: tuple[Comparison, ...]
    """Every point against every base case."""
    base: str
    """Base case the report leads with."""
    fits: tuple[Fit | Refusal, ...]
    """Every law of its mode, fitted or refused."""
    accuracy: tuple[AccuracyVerdict, ...]
    """Accuracy at two ranks and more against one."""

    def against_base(self) -> tuple[Comparison, ...]:
        """Comparisons against the leading base case."""
        return tuple(item for item in self.comparisons if item.base == self.base)


@dataclass(kw_only=True, slots=True, frozen=True)
class Analysis:
    """A study, understood."""

    points: tuple[Point, ...]
    """Every configuration."""
    curves: tuple[Curve, ...]
    """Every scaling series."""
    attributions: tuple[Attribution, ...]
    """Steps taken apart."""
    accuracies: tuple[Accuracy, ...]
    """Test accuracy per configuration."""
    excluded: pd.Series
    """Why each run is kept out, "" where it is not; index as the runs."""
    flags: tuple[FlagCount, ...]
    """Validity flags over the study."""
    missing: tuple[Unmeasured, ...]
    """What could not be measured."""
    deviations: tuple[str, ...]
    """Where the protocol was not met."""
    drift: Drift | None
    """Change of the machine over the study; None with too few runs."""


def analyse(data: StudyData) -> Analysis:
    """Return the analysis of *data*; never raises for partial data."""
    excluded = exclusions(data.runs)
    points = points_of(data.runs, excluded)
    series = series_of(points)
    attributions = attributions_of(points, data.runs, excluded)
    samples = data.dataset.test_samples if data.dataset else 0
    accuracies = accuracies_of(points, data.runs, samples)
    by_config = {item.point.config_id: item for item in attributions}
    return Analysis(
        points=points,
        curves=tuple(_curve(item, by_config, accuracies, samples) for item in series),
        attributions=attributions,
        accuracies=accuracies,
        excluded=excluded,
        flags=flag_counts(data.runs),
        missing=unmeasured(data, points, series),
        deviations=deviations(data, points),
        drift=drift_of(data.runs),
    )


def _curve(
    series: Series,
    attributions: dict[str, Attribution],
    accuracies: tuple[Accuracy, ...],
    samples: int,
) -> Curve:
    known = {item.point.config_id: item for item in accuracies}
    one = known.get(series.ddp_base.config_id) if series.ddp_base else None
    if one is None and series.plain_base is not None:
        one = known.get(series.plain_base.config_id)
    verdicts = []
    for point in series.points:
        many = known.get(point.config_id)
        if one is not None and many is not None and point.ranks > 1:
            verdicts.append(
                accuracy_verdict(
                    mode=series.mode, batch=series.batch, one=one, many=many, test_samples=samples
                )
            )
    return Curve(
        series=series,
        comparisons=comparisons_of(series),
        base=headline(series),
        fits=fits_of(series, attributions),
        accuracy=tuple(verdict for verdict in verdicts if verdict is not None),
    )
