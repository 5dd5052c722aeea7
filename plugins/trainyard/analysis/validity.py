"""What the numbers may be trusted for: flags, what was not measured and why, deviations."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtr

from trainyard.analysis.facts import texts_of
from trainyard.analysis.selection import STRONG, WEAK, Point, Series
from trainyard.analysis.statistics import ENOUGH_FOR_BOOTSTRAP
from trainyard.analysis.study import StudyData

if TYPE_CHECKING:
    import pandas as pd

ENOUGH_SECONDS = 30
ENOUGH_BATCHES = 3
SCATTER_LIMIT = 0.03
RUNS_WHEN_SCATTERED = 10
LEAST_FOR_DRIFT = 8
EXAMPLES = 3


@dataclass(kw_only=True, slots=True, frozen=True)
class FlagCount:
    """One validity flag over the study."""

    flag: str
    """Name of the flag."""
    runs: int
    """Runs that carry it."""
    details: tuple[str, ...]
    """Measured values, at most three."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Unmeasured:
    """Something a reader may look for and not find."""

    what: str
    """What is missing."""
    why: str
    """Why it was not measured."""
    needed: str
    """What would measure it."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Drift:
    """Whether later runs were slower, over the whole study."""

    runs: int
    """Sane runs in order of their start."""
    correlation: float
    """Spearman's correlation of the run order with time per step over its point's median."""
    p_value: float
    """Two-sided, t approximation."""
    change: float
    """Median of the last third over that of the first third, minus one."""


def flag_counts(runs: pd.DataFrame) -> tuple[FlagCount, ...]:
    """Return every flag that occurs, most frequent first."""
    counts: Counter[str] = Counter()
    details: dict[str, list[str]] = {}
    flagged = runs[~runs["flags"].isin(["", "[]"])]
    for flags, values in zip(flagged["flags"], flagged["flag_details"], strict=True):
        measured = texts_of(values)
        for place, flag in enumerate(texts_of(flags)):
            counts[flag] += 1
            known = details.setdefault(flag, [])
            detail = measured[place] if place < len(measured) else ""
            if detail and detail not in known and len(known) < EXAMPLES:
                known.append(detail)
    return tuple(
        FlagCount(flag=flag, runs=count, details=tuple(details[flag]))
        for flag, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def drift_of(runs: pd.DataFrame) -> Drift | None:
    """Return the drift over the study, or None with fewer than eight sane timed runs."""
    timed = runs[runs["sane"] & (runs["step_time_s"] > 0) & (runs["started_at"] != "")]
    if len(timed) < LEAST_FOR_DRIFT:
        return None
    middle = timed.groupby("config_id")["step_time_s"].transform("median")
    relative = (timed["step_time_s"] / middle).to_numpy()
    n = relative.size
    ranked = timed["step_time_s"].div(middle).rank().to_numpy()
    flat = np.ptp(ranked) == 0
    correlation = 0.0 if flat else float(np.corrcoef(np.arange(n), ranked)[0, 1])
    spare = max(1 - correlation**2, 1e-12)
    statistic = abs(correlation) * ((n - 2) / spare) ** 0.5
    third = n // 3
    return Drift(
        runs=n,
        correlation=correlation,
        p_value=float(2 * stdtr(n - 2, -statistic)),
        change=float(np.median(relative[-third:]) / np.median(relative[:third]) - 1),
    )


def unmeasured(
    data: StudyData, points: tuple[Point, ...], curves: tuple[Series, ...]
) -> tuple[Unmeasured, ...]:
    """Return what this study could not measure, with the reason and the remedy."""
    sane = data.runs[data.runs["sane"]]
    if sane.empty:
        return (
            Unmeasured(
                what="anything",
                why="no run passed its sanity checks",
                needed="see the failed runs below for the phase, the reason and the log",
            ),
        )
    return (*_hardware(sane), *_design(points, curves), *_controls(sane), *_correctness(data, sane))


def _hardware(sane: pd.DataFrame) -> list[Unmeasured]:
    found = []
    if not (sane["device"] == "cuda").any():
        found += [
            Unmeasured(
                what="model FLOPs utilisation (MFU)",
                why="no GPU: the runs used the CPU, whose dense peak is not known",
                needed="a GPU site",
            ),
            Unmeasured(
                what="NCCL collectives and GPU memory",
                why="no GPU: gradients were averaged by gloo through host memory",
                needed="a site with two GPUs or more",
            ),
        ]
    if not (sane["nodes"] > 1).any():
        found.append(
            Unmeasured(
                what="the network",
                why="every run stayed on one host",
                needed="a site with two nodes or more",
            )
        )
    return found


def _design(points: tuple[Point, ...], curves: tuple[Series, ...]) -> list[Unmeasured]:
    found = []
    for mode in (STRONG, WEAK):
        if not any(series.mode == mode for series in curves):
            found.append(
                Unmeasured(
                    what=f"{mode} scaling",
                    why="the study holds no such runs",
                    needed=f"a suite with {mode} among its modes",
                )
            )
    batches = {series.batch for series in curves if series.mode == STRONG}
    if 0 < len(batches) < ENOUGH_BATCHES:
        found.append(
            Unmeasured(
                what="how strong scaling depends on the global batch",
                why=f"{len(batches)} global batch: {', '.join(map(str, sorted(batches)))}",
                needed="three global batches or more",
            )
        )
    if curves and not any(not point.distributed for point in points):
        found.append(
            Unmeasured(
                what="the cost of DistributedDataParallel itself",
                why="the study holds no base case without it",
                needed="a suite with base_without_ddp",
            )
        )
    return found


def _controls(sane: pd.DataFrame) -> list[Unmeasured]:
    found = []
    if not sane["step_time_synthetic_s"].notna().any():
        found.append(
            Unmeasured(
                what="input cost",
                why="no run repeated its windows on synthetic data",
                needed="the synthetic_input control",
            )
        )
    many = sane[sane["ranks"] > 1]
    if not many.empty and not many["step_time_no_sync_s"].notna().any():
        found.append(
            Unmeasured(
                what="exposed communication",
                why="no run with two ranks or more repeated its windows without gradient sync",
                needed="the no_sync control",
            )
        )
    if not sane["test_accuracy"].notna().any():
        found.append(
            Unmeasured(
                what="test accuracy",
                why="no sane run evaluated the test split",
                needed="evaluate = true in the specification",
            )
        )
    return found


def _correctness(data: StudyData, sane: pd.DataFrame) -> list[Unmeasured]:
    names = set(data.checks.loc[data.checks["run_id"].isin(sane["run_id"]), "name"])
    if any("reference" in name for name in names):
        return []
    return [
        Unmeasured(
            what="agreement with a single-process fp32 reference loss",
            why="the specifications name no reference loss",
            needed="loss_reference in the specification",
        )
    ]


def deviations(data: StudyData, points: tuple[Point, ...]) -> tuple[str, ...]:
    """Return where the study falls short of the measuring protocol, in sentences."""
    found = []
    valid = [point for point in points if point.valid]
    few = [point for point in valid if point.valid < ENOUGH_FOR_BOOTSTRAP]
    if few:
        least = min(point.valid for point in few)
        found.append(
            f"{len(few)} of {len(valid)} points rest on fewer than five valid runs (fewest: "
            f"{least}). Their intervals assume normal scatter and are of limited meaning: read "
            "this study as a demonstration."
        )
    noisy = [
        point
        for point in valid
        if point.step_time is not None
        and (point.step_time.cv or 0) > SCATTER_LIMIT
        and point.valid < RUNS_WHEN_SCATTERED
    ]
    if noisy:
        found.append(
            f"{len(noisy)} points scatter by more than 3 % between runs with fewer than the ten "
            "runs the protocol asks for there."
        )
    wall = data.runs.loc[data.runs["sane"], "train_wall_s"].dropna()
    short = int((wall < ENOUGH_SECONDS).sum())
    if short:
        found.append(
            f"{short} of {len(wall)} sane runs trained for less than {ENOUGH_SECONDS} s (median "
            f"{wall.median():.1f} s): slow changes of the machine are not averaged out."
        )
    if not data.runs.empty and data.study.order_seed is None:
        found.append("The seed of the run order is not recorded: drift may be confounded with N.")
    return tuple(found)
