"""Where a step's time goes, from the two controls that need no profiler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainyard.analysis.statistics import Estimate, estimate

if TYPE_CHECKING:
    import pandas as pd

    from trainyard.analysis.selection import Point

PARTS = ("compute", "input", "communication")


@dataclass(kw_only=True, slots=True, frozen=True)
class Part:
    """One share of a step."""

    name: str
    """input, communication (exposed) or compute (the rest)."""
    seconds: Estimate | None
    """Seconds per step over runs, negative when the control was slower; None: not measured."""
    resolved: bool
    """The interval lies above zero: there is such a cost."""
    drawn: float
    """Seconds in the stacked drawing: the median, never below zero."""
    note: str = ""
    """Why it is not resolved or not measured."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Attribution:
    """The step of one point, taken apart."""

    point: Point
    """Whose step it is."""
    step_time: Estimate
    """Seconds per step over the runs that have a control."""
    parts: tuple[Part, ...]
    """compute, input, communication."""


def attributions_of(
    points: tuple[Point, ...], runs: pd.DataFrame, excluded: pd.Series
) -> tuple[Attribution, ...]:
    """Return the attribution of every point with valid runs and at least one control."""
    valid = runs[
        (excluded == "")
        & runs[["step_time_synthetic_s", "step_time_no_sync_s"]].notna().any(axis=1)
    ]
    by_config = dict(iter(valid.groupby("config_id")))
    made = []
    for point in points:
        rows = by_config.get(point.config_id)
        if rows is not None and point.step_time is not None:
            made.append(_attribution(point, rows))
    return tuple(made)


def _attribution(point: Point, rows: pd.DataFrame) -> Attribution:
    step = rows["step_time_s"]
    waiting = _part("input", step - rows["step_time_synthetic_s"], "synthetic_input")
    if point.distributed:
        talking = _part("communication", step - rows["step_time_no_sync_s"], "no_sync")
    else:
        talking = Part(
            name="communication",
            seconds=None,
            resolved=False,
            drawn=0.0,
            note="none: one process without DDP does not communicate",
        )
    # Paired like the others: the rest of each run, then the median over runs.
    rest = (
        step
        - _cost(rows, "step_time_synthetic_s")
        - (_cost(rows, "step_time_no_sync_s") if point.distributed else 0.0)
    )
    total = estimate(step.to_numpy())
    if total is None:
        raise AssertionError("a valid run has a positive time per step")
    drawn = max(0.0, total.value - waiting.drawn - talking.drawn)
    compute = Part(
        name="compute", seconds=estimate(rest.to_numpy(), signed=True), resolved=True, drawn=drawn
    )
    return Attribution(point=point, step_time=total, parts=(compute, waiting, talking))


def _cost(rows: pd.DataFrame, control: str) -> pd.Series:
    """Seconds the control saves in each run; an unmeasured control saves nothing."""
    return (rows["step_time_s"] - rows[control]).fillna(0.0)


def _part(name: str, seconds: pd.Series, control: str) -> Part:
    cost = estimate(seconds.to_numpy(), signed=True)
    if cost is None:
        note = f"not measured: no valid run has the {control} control"
        return Part(name=name, seconds=None, resolved=False, drawn=0.0, note=note)
    resolved = cost.low is not None and cost.low > 0
    note = ""
    if cost.low is None:
        note = "one run: no interval, cannot be told from zero"
    elif not resolved:
        note = "below resolution: the interval reaches zero"
    return Part(name=name, seconds=cost, resolved=resolved, drawn=max(0.0, cost.value), note=note)
