"""Scaling laws on measured times, or a refusal that says what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from trainyard.analysis.leastsquares import Sample, Solution, sample_of, solve
from trainyard.analysis.models import (
    FLOOR,
    FLOOR_FORMULA,
    FLOOR_PARAMETERS,
    MODELS,
    Model,
    Parameter,
)
from trainyard.analysis.selection import STRONG, Point, Series

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from trainyard.analysis.attribution import Attribution

    Array = NDArray[np.float64]

LEAST_POINTS = 4
LEAST_ON_SLOPE = 2


@dataclass(kw_only=True, slots=True, frozen=True)
class Fitted:
    """One parameter as found."""

    parameter: Parameter
    """Which."""
    value: float | None
    """Best value; None when only a bound is known."""
    low: float | None
    """Lower end of the 95 % profile interval; None: open."""
    high: float | None
    """Upper end; None: open."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Fit:
    """A law that was fitted."""

    name: str
    """Name of the law."""
    formula: str
    """The law, for people."""
    parameters: tuple[Fitted, ...]
    """Parameters with intervals."""
    ranks: tuple[int, ...]
    """Numbers of ranks it was fitted on."""
    runs: int
    """Runs it was fitted on."""
    aicc: float | None
    """Corrected Akaike criterion; smaller is better, among fits of one curve."""
    lack_of_fit: float | None
    """p-value: small means the points lie off the law more than their runs scatter."""
    worst_residual: float
    """Largest relative distance of a point from the law."""
    curve: tuple[tuple[float, float], ...] = ()
    """(ranks, seconds per step) over the measured range; beyond it is a projection."""
    projected: tuple[tuple[float, float], ...] = ()
    """(ranks, seconds per step) beyond the measured range: computed, not measured."""
    note: str = ""
    """What to keep in mind."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Refusal:
    """A law that was not fitted, and what it would take."""

    name: str
    """Name of the law."""
    reason: str
    """Why not."""
    needed: str
    """What would be needed."""


def fits_of(series: Series, attributions: Mapping[str, Attribution]) -> tuple[Fit | Refusal, ...]:
    """Return every law of the series' mode, fitted or refused.

    *attributions* by config_id give the floor model its measured communication.
    """
    points = series.valid_points
    models = [model for model in MODELS if model.mode == series.mode]
    names = [model.name for model in models] + ([FLOOR] if series.mode == STRONG else [])
    refusal = _refusal(series, points)
    if refusal is not None:
        return tuple(replace(refusal, name=name) for name in names)
    sample = sample_of([p.ranks for p in points], [p.step_times for p in points])
    made: list[Fit | Refusal] = [_fit(model, points, sample) for model in models]
    if series.mode == STRONG:
        made.append(_floor(points, sample, attributions))
    return tuple(made)


def best_of(fits: tuple[Fit | Refusal, ...]) -> Fit | None:
    """Return the fit with the smallest AICc among laws with a curve, or None."""
    known = [fit for fit in fits if isinstance(fit, Fit) and fit.curve and fit.aicc is not None]
    return min(known, key=lambda fit: fit.aicc or 0.0) if known else None


def _refusal(series: Series, points: tuple[Point, ...]) -> Refusal | None:
    if len(points) >= LEAST_POINTS:
        return None
    have = ", ".join(str(point.ranks) for point in points) or "none"
    invalid = [str(p.ranks) for p in series.points if p.step_time is None]
    lost = f"; without a valid run at {', '.join(invalid)}" if invalid else ""
    return Refusal(
        name="",
        reason=f"valid runs at {len(points)} of the {LEAST_POINTS} numbers of ranks it takes "
        f"({have}){lost}; a law with two or three "
        "free parameters would pass through them whatever the truth is",
        needed=f"valid runs at {LEAST_POINTS} or more numbers of ranks, for example 1, 2, 4, 8",
    )


def _fit(model: Model, points: tuple[Point, ...], sample: Sample) -> Fit | Refusal:
    def predict(parameters: Array) -> Array:
        times: Array = parameters[0] * model.relative(sample.ranks, parameters[1:])
        return times

    start = np.array([float(np.exp(sample.logs[0])), *model.start])
    start[0] /= float(model.relative(sample.ranks[:1], start[1:])[0])
    solution = solve(sample, predict, start)
    if solution is None:
        return Refusal(
            name=model.name, reason="the search found no minimum", needed="look at the points"
        )
    most = float(sample.ranks[-1])
    inside = np.geomspace(float(sample.ranks[0]), most, 40)
    beyond = np.geomspace(most, 2 * most, 12)

    def curve(ranks: Array) -> tuple[tuple[float, float], ...]:
        times = solution.parameters[0] * model.relative(ranks, solution.parameters[1:])
        return tuple((float(n), float(t)) for n, t in zip(ranks, times, strict=True) if t > 0)

    return Fit(
        name=model.name,
        formula=model.formula,
        parameters=_fitted(model.parameters, solution),
        ranks=tuple(point.ranks for point in points),
        runs=sample.runs,
        aicc=solution.aicc,
        lack_of_fit=solution.lack_of_fit,
        worst_residual=float(np.abs(solution.residuals).max()),
        curve=curve(inside),
        projected=curve(beyond),
        note=_note(model, solution),
    )


def _fitted(parameters: tuple[Parameter, ...], solution: Solution) -> tuple[Fitted, ...]:
    return tuple(
        Fitted(parameter=parameter, value=float(value), low=low, high=high)
        for parameter, value, (low, high) in zip(
            parameters, solution.parameters, solution.intervals, strict=True
        )
    )


def _note(model: Model, solution: Solution) -> str:
    notes = []
    for fitted in _fitted(model.parameters, solution)[1:]:
        if fitted.value is not None and fitted.value < 0:
            notes.append(f"{fitted.parameter.symbol} is negative: better than linear, or noise")
        elif fitted.low is not None and fitted.low <= 0:
            notes.append(f"{fitted.parameter.symbol} cannot be told from zero")
    if solution.lack_of_fit is not None and solution.lack_of_fit < 0.05:  # noqa: PLR2004
        notes.append("the points lie off this law by more than their runs scatter")
    return "; ".join(notes)


def _floor(
    points: tuple[Point, ...], sample: Sample, attributions: Mapping[str, Attribution]
) -> Fit | Refusal:
    """Fit h, a and b to what is left of each time without its measured communication."""
    talking = []
    for point in points:
        found = attributions.get(point.config_id)
        part = found.parts[2] if found is not None else None
        if part is None or part.seconds is None:
            return Refusal(
                name=FLOOR,
                reason=f"exposed communication was not measured at {point.ranks} ranks",
                needed="the no_sync control in every run",
            )
        talking.append(part.seconds.value)
    communication = np.array(talking)
    batch = np.array([point.per_rank_batch for point in points], dtype=np.float64)
    line = _line(sample, batch, communication)
    floor = _with_floor(sample, batch, communication)
    if line is None and floor is None:
        return Refusal(
            name=FLOOR, reason="the search found no minimum", needed="look at the points"
        )
    return _choose(points, sample, communication, line, floor)


def _line(sample: Sample, batch: Array, communication: Array) -> Solution | None:
    """T = aB/N + b + c."""

    def predict(parameters: Array) -> Array:
        seconds: Array = parameters[0] * batch + parameters[1] + communication
        return seconds

    left = np.exp(sample.logs) - communication
    slope, offset = np.polyfit(batch, left, 1)
    return solve(sample, predict, np.array([slope, offset]))


def _with_floor(sample: Sample, batch: Array, communication: Array) -> Solution | None:
    """T = max(h, aB/N + b) + c, started at every split of the points into slope and floor."""

    def predict(parameters: Array) -> Array:
        slope: Array = parameters[0] * batch + parameters[1]
        seconds: Array = np.maximum(parameters[2], slope) + communication
        return seconds

    left = np.exp(sample.logs) - communication
    found = []
    for split in range(LEAST_ON_SLOPE, batch.size - LEAST_ON_SLOPE + 1):
        slope, offset = np.polyfit(batch[:split], left[:split], 1)
        start = np.array([slope, offset, float(left[split:].mean())])
        solution = solve(sample, predict, start)
        if solution is not None:
            found.append(solution)
    return min(found, key=lambda solution: solution.total) if found else None


def _choose(
    points: tuple[Point, ...],
    sample: Sample,
    communication: Array,
    line: Solution | None,
    floor: Solution | None,
) -> Fit | Refusal:
    """Keep the floor only where AICc pays for it; otherwise h is known from above alone."""
    worth = floor is not None and (
        line is None
        or (line.aicc is not None and floor.aicc is not None and floor.aicc < line.aicc)
    )
    chosen = floor if worth else line
    if chosen is None:
        return Refusal(name=FLOOR, reason="the floor is not identified", needed="more points")
    if worth:
        fitted = _fitted(FLOOR_PARAMETERS, chosen)
        note = ""
    else:
        least = float((np.exp(sample.logs) - communication).min())
        bound = Fitted(parameter=FLOOR_PARAMETERS[2], value=None, low=None, high=least)
        fitted = (*_fitted(FLOOR_PARAMETERS[:2], chosen), bound)
        note = "no floor was reached: h is bounded from above by the fastest step"
    return Fit(
        name=FLOOR,
        formula=FLOOR_FORMULA,
        parameters=fitted,
        ranks=tuple(point.ranks for point in points),
        runs=sample.runs,
        aicc=chosen.aicc,
        lack_of_fit=chosen.lack_of_fit,
        worst_residual=float(np.abs(chosen.residuals).max()),
        note=note,
    )
