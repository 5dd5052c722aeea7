"""Figures of single runs: where a step's time goes, what was learnt, run after run."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trainyard.analysis.attribution import PARTS, Attribution
from trainyard.report import style
from trainyard.report.document import Figure
from trainyard.report.text import count_of, number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from trainyard.analysis import Analysis, StudyData
    from trainyard.analysis.selection import Point

MOST_BARS = 14
MOST_MARKERS = 600
MOST_CURVES = 6
LEAST_SHARE = 0.07


def label_of(point: Point) -> str:
    """Return ``strong, batch 128, 2 ranks``; the plain base says that it has no DDP."""
    mode = point.scaling if point.distributed else "no DDP"
    return f"{mode}, batch {point.global_batch}, {count_of(point.ranks, 'rank')}"


def attribution_figure(analysis: Analysis) -> Figure | None:
    """Return the stacked steps, or None when no run had a control."""
    chosen = _fairly(analysis.attributions)
    if not chosen:
        return None
    rows = [row for place, item in enumerate(chosen) for row in _attribution_rows(place, item)]
    columns = ["place", "label", "part", "seconds", "low", "high", "n", "resolved", "drawn", "note"]
    said = [
        f"{label_of(item.point)}: "
        + ", ".join(
            f"{part.name} {number(1e3 * part.seconds.value)} ms"
            for part in item.parts
            if part.seconds is not None
        )
        for item in chosen[:MOST_BARS]
    ]
    bars = min(len(chosen), MOST_BARS)
    left_out = len(chosen) - bars
    return Figure(
        name="attribution",
        title="Where a step's time goes",
        caption=(
            "Input: time per step minus that on synthetic data. Communication: minus that without "
            "gradient sync, so only what compute does not hide. Compute: the rest. Medians over "
            "runs, paired within each run. Differences below zero are drawn as zero here; the "
            "table has them as measured. Hatched: below resolution, its interval reaches zero."
            + (f" {left_out} more configurations are in the CSV." if left_out else "")
        ),
        alt="Time per step by part. " + "; ".join(said) + ".",
        frame=pd.DataFrame(rows, columns=columns),
        draw=_draw_attribution,
        height=0.85 + 0.32 * bars,
    )


def _fairly(attributions: tuple[Attribution, ...]) -> list[Attribution]:
    """Sort by mode, batch and ranks; where not all fit, every mode keeps its share of the room."""
    ordered = sorted(
        attributions, key=lambda a: (a.point.scaling, a.point.global_batch, a.point.ranks)
    )
    modes = {item.point.scaling for item in ordered}
    room = len(ordered) if len(ordered) <= MOST_BARS else MOST_BARS // max(1, len(modes))
    seen: Counter[str] = Counter()
    first: list[Attribution] = []
    later: list[Attribution] = []
    for item in ordered:
        seen[item.point.scaling] += 1
        (first if seen[item.point.scaling] <= room else later).append(item)
    return [*first, *later]


def _attribution_rows(place: int, item: Attribution) -> list[list[Any]]:
    made = []
    for part in item.parts:
        cost = part.seconds
        numbers = [cost.value, cost.low, cost.high, cost.n] if cost else [None, None, None, 0]
        made.append(
            [
                place,
                label_of(item.point),
                part.name,
                *numbers,
                int(part.resolved),
                part.drawn,
                part.note,
            ]
        )
    return made


def _draw_attribution(canvas: Canvas, frame: pd.DataFrame) -> None:
    axes = canvas.subplots()
    rows = frame[frame["place"] < MOST_BARS]
    labels = rows.drop_duplicates("place")["label"].tolist()
    whole = 1e3 * rows.groupby("place")["drawn"].sum()
    edge = np.zeros(len(labels))
    for part in PARTS:
        group = rows[rows["part"] == part].sort_values("place")
        widths = 1e3 * group["drawn"].to_numpy(dtype=float)
        resolved = group["resolved"].to_numpy() == 1
        bars = axes.barh(
            range(len(labels)),
            widths,
            left=edge,
            height=0.62,
            color=style.PARTS[part],
            edgecolor=style.PAPER,
            linewidth=0.8,
        )
        for place, bar in enumerate(bars):
            if not resolved[place]:
                bar.set_hatch("/////")
                bar.set_alpha(0.55)
            if widths[place] > LEAST_SHARE * whole.max():
                _inside(axes, edge[place] + widths[place] / 2, place, widths[place], part)
        edge += widths
    for place, total in enumerate(whole):
        axes.text(
            total + 0.012 * whole.max(), place, f"{number(total)} ms", va="center", fontsize=7.5
        )
    _name_parts(axes, rows, whole)
    axes.set_yticks(range(len(labels)), labels)
    axes.tick_params(axis="y", labelcolor=style.INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * whole.max())
    axes.set_xlabel("time per step, ms")
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _inside(axes: Axes, x: float, y: int, value: float, part: str) -> None:
    colour = style.INK if part == "input" else style.PAPER
    axes.text(x, y, number(value), ha="center", va="center", color=colour, fontsize=7)


def _name_parts(axes: Axes, rows: pd.DataFrame, whole: pd.Series) -> None:
    """Name the parts above the bars, each in its colour."""
    del rows, whole
    x = 0.0
    for part in PARTS:
        named = {"communication": "exposed communication"}.get(part, part)
        axes.text(
            x,
            1.0,
            f"■ {named}",
            transform=axes.transAxes,
            va="bottom",
            fontsize=7.5,
            color=style.PARTS[part] if part != "input" else "#9a6a08",
        )
        x += 0.035 + 0.016 * len(named)


def accuracy_figure(data: StudyData, analysis: Analysis) -> Figure | None:
    """Return test accuracy per configuration and training loss per epoch, or None without both."""
    rows: list[list[Any]] = []
    for place, item in enumerate(analysis.accuracies[:MOST_BARS]):
        ends = item.sampling or (None, None)
        label = label_of(item.point)
        rows.append(["mean", place, label, item.mean, item.low, item.high, *ends])
        shown = item.values if len(item.values) <= MOST_MARKERS else ()
        rows += [["run", place, label, value, None, None, None, None] for value in shown]
    rows += _loss_rows(data)
    if not rows:
        return None
    columns = ["kind", "place", "label", "value", "low", "high", "sampling_low", "sampling_high"]
    said = "; ".join(
        f"{label_of(item.point)}: {percent(item.mean, 2)}"
        for item in analysis.accuracies
        if analysis.accuracies.index(item) < MOST_BARS
    )
    bars = min(len(analysis.accuracies), MOST_BARS)
    return Figure(
        name="accuracy",
        title="What was learnt: test accuracy and training loss",
        caption=(
            "Left: dots are runs, the bar is Student's 95 % interval of the mean over runs, the "
            "pale band what the size of the test set allows (Wilson). Right: median training loss "
            "over runs per epoch. Flags about timing do not touch accuracy: all sane runs count."
        ),
        alt=f"Test accuracy. {said or 'Not measured'}.",
        frame=pd.DataFrame(rows, columns=columns),
        draw=_draw_accuracy,
        height=max(2.5, 0.9 + 0.3 * bars),
    )


def _loss_rows(data: StudyData) -> list[list[Any]]:
    sane = data.runs.loc[data.runs["sane"], ["run_id", "ranks"]]
    known = data.epochs.merge(sane, on="run_id").dropna(subset=["train_loss", "idx"])
    middle = known.groupby(["ranks", "idx"])["train_loss"].median().reset_index()
    columns = (middle[name].tolist() for name in ("ranks", "idx", "train_loss"))
    return [
        ["loss", index + 1, count_of(int(ranks), "rank"), loss, None, None, None, None]
        for ranks, index, loss in zip(*columns, strict=True)
    ]


def _draw_accuracy(canvas: Canvas, frame: pd.DataFrame) -> None:
    left, right = canvas.subplots(1, 2, width_ratios=(1.25, 1))
    left.set_title("Test accuracy")
    means = frame[frame["kind"] == "mean"]
    if means.empty:
        style.nothing(left, "no sane run evaluated the test split")
    else:
        _draw_means(left, means, frame[frame["kind"] == "run"])
    right.set_title("Training loss")
    losses = frame[frame["kind"] == "loss"]
    if losses.empty:
        style.nothing(right, "no epoch was recorded")
        return
    groups = list(losses.groupby("label", sort=False))[:MOST_CURVES]
    for place, (label, rows) in enumerate(groups):
        colour = style.CYCLE[place % len(style.CYCLE)]
        right.plot(
            rows["place"],
            rows["value"],
            marker=style.MARKERS[place % len(style.MARKERS)],
            ms=3.5,
            color=colour,
            label=label,
            mec=style.PAPER,
            mew=0.5,
        )
    # Curves of equal work lie on each other: here a legend says more than labels in one place.
    right.legend(frameon=False, fontsize=7.5, labelcolor="linecolor")
    right.set_xlabel("epoch")
    right.locator_params(axis="x", integer=True, nbins=8)
    right.set_ylim(bottom=0)


def _draw_means(axes: Axes, means: pd.DataFrame, runs: pd.DataFrame) -> None:
    places = means["place"].to_numpy(dtype=float)
    bands = means["sampling_high"].notna().to_numpy()
    low, high = (means[name].astype(float) for name in ("sampling_low", "sampling_high"))
    axes.barh(
        places[bands], (high - low)[bands], left=low[bands], height=0.56, color=style.BAND, zorder=1
    )
    if not runs.empty:
        axes.plot(
            runs["value"].astype(float),
            runs["place"].astype(float),
            "o",
            ms=3.2,
            color=style.SKY,
            alpha=0.75,
            mec="none",
            zorder=2,
        )
    value = means["value"].astype(float)
    low, high = (means[name].astype(float).fillna(value) for name in ("low", "high"))
    axes.errorbar(
        value,
        places,
        xerr=[value - low, high - value],
        fmt="|",
        ms=11,
        color=style.INK,
        elinewidth=1.3,
        capsize=2.5,
        zorder=3,
    )
    axes.set_yticks(places, means["label"])
    axes.tick_params(axis="y", labelcolor=style.INK)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(lambda share, _place: f"{100 * share:.4g} %")
    axes.locator_params(axis="x", nbins=5)
