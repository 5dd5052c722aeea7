"""The runs in the order in which they were made: what drifts, what jumps, what was flagged."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from trainyard.report import style
from trainyard.report.document import Figure
from trainyard.report.text import minus, p_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from trainyard.analysis import Analysis, StudyData

MOST_MARKERS = 600
LEAST_FOR_TREND = 8
BINS = 40
KINDS = ("valid", "flagged")


def order_figure(data: StudyData, analysis: Analysis) -> Figure | None:
    """Return time per step in run order and within runs, or None without a timed run."""
    runs = data.runs[data.runs["sane"] & (data.runs["step_time_s"] > 0)]
    if runs.empty:
        return None
    middle = runs.groupby("config_id")["step_time_s"].transform("median")
    between = pd.DataFrame(
        {
            "panel": "between runs",
            "place": np.arange(1, len(runs) + 1),
            "run_id": runs["run_id"].to_numpy(),
            "name": runs["name"].to_numpy(),
            "kind": np.where(analysis.excluded[runs.index] == "", *KINDS),
            "value": (runs["step_time_s"] / middle - 1).to_numpy(),
        }
    )
    frame = pd.concat([between, _within(data, runs)], ignore_index=True)
    drift = analysis.drift
    said = (
        f"Over {drift.runs} runs, time per step changed by {minus(f'{100 * drift.change:+.1f}')} % "
        f"from the first third to the last (Spearman {minus(f'{drift.correlation:+.2f}')}, "
        f"p = {p_value(drift.p_value)})."
        if drift
        else "With fewer than eight sane runs, drift is not tested."
    )
    widest = float(between["value"].abs().max())
    return Figure(
        name="run_order",
        title="Runs in the order in which they were made",
        caption=(
            "Left: time per step of each run over the median of its configuration, in run order; "
            "open grey markers are flagged runs. Right: the timed windows inside the runs over the "
            f"median window of their run; band: middle 90 % of runs. {said}"
        ),
        alt=f"Deviation of each run from its configuration's median, at most "
        f"{percent_of(widest)} in {len(between)} runs. {said}",
        frame=frame,
        draw=_draw,
        height=2.6,
    )


def percent_of(share: float) -> str:
    """Return a deviation as per cent without a sign."""
    return f"{100 * share:.1f} %"


def _within(data: StudyData, runs: pd.DataFrame) -> pd.DataFrame:
    """Quantiles over runs of each timed window relative to its run's median window."""
    windows = data.windows
    chosen = windows[
        (windows["kind"] == "train")
        & (windows["seconds"] > 0)
        & (windows["steps"] > 0)
        & windows["run_id"].isin(runs["run_id"])
    ]
    if chosen.empty:
        return pd.DataFrame()
    pace = chosen["seconds"] / chosen["steps"]
    relative = pace / pace.groupby(chosen["run_id"]).transform("median") - 1
    spread = relative.groupby(chosen["idx"]).quantile(np.array([0.05, 0.5, 0.95])).unstack()
    return pd.DataFrame(
        {
            "panel": "within runs",
            "place": spread.index.to_numpy() + 1,
            "value": spread[0.5].to_numpy(),
            "low": spread[0.05].to_numpy(),
            "high": spread[0.95].to_numpy(),
        }
    )


def _draw(canvas: Canvas, frame: pd.DataFrame) -> None:
    left, right = canvas.subplots(1, 2, width_ratios=(1.7, 1))
    left.set_title("Between runs")
    _draw_between(left, frame[frame["panel"] == "between runs"])
    right.set_title("Within runs")
    within = frame[frame["panel"] == "within runs"]
    if within.empty:
        style.nothing(right, "no timed window was recorded")
    else:
        place = within["place"].to_numpy(dtype=float)
        low, high = (within[name].to_numpy(dtype=float) for name in ("low", "high"))
        right.fill_between(place, low, high, color=style.BAND, lw=0)
        right.plot(place, within["value"], color=style.BLUE, marker="o", ms=3, mew=0)
        right.set_xlabel("timed window")
        right.locator_params(axis="x", integer=True, nbins=6)
    for axes in (left, right):
        axes.axhline(0, color=style.MUTED, lw=0.8, ls="--", zorder=1)
        axes.yaxis.set_major_formatter(lambda share, _place: minus(f"{100 * share:+.3g} %"))


def _draw_between(axes: Axes, rows: pd.DataFrame) -> None:
    many = len(rows) > MOST_MARKERS
    for kind, colour in zip(KINDS, (style.BLUE, style.MUTED), strict=True):
        group = rows[rows["kind"] == kind]
        hollow = kind == "flagged" and not many
        axes.plot(
            group["place"],
            group["value"],
            "o",
            ms=1.6 if many else 4.2,
            color=colour,
            alpha=0.35 if many else 0.9,
            mfc=style.PAPER if hollow else colour,
            mec=colour if hollow else "none",
            # Thousands of vector circles would make the page slow: they become one picture.
            rasterized=many,
        )
    if len(rows) >= LEAST_FOR_TREND:
        bins = np.minimum(np.arange(len(rows)) * _bins(len(rows)) // len(rows), BINS)
        trend = rows.groupby(bins)[["place", "value"]].median()
        axes.plot(trend["place"], trend["value"], color=style.ORANGE, lw=1.4)
        last = trend.iloc[-1]
        axes.annotate(
            "running median",
            (last["place"], last["value"]),
            xytext=(4, 8),
            textcoords="offset points",
            ha="right",
            color=style.ORANGE,
            fontsize=7.5,
        )
    axes.set_xlabel("run, in order of its start")
    axes.locator_params(axis="x", integer=True, nbins=8)


def _bins(runs: int) -> int:
    return max(4, min(BINS, runs // 6))
