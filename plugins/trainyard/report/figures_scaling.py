"""Figures over ranks: throughput, time per step and efficiency. Each draws from its frame alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trainyard.analysis.fits import Fit, best_of
from trainyard.analysis.selection import STRONG
from trainyard.report import style
from trainyard.report.document import Figure
from trainyard.report.text import count_of, listed, number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from trainyard.analysis import Curve
    from trainyard.analysis.selection import Point
    from trainyard.analysis.statistics import Estimate

RATE = "images_per_second"
TIME = "step_time_s"
COLUMNS = ["panel", "mode", "batch", "kind", "ranks", "value", "low", "high", "n"]
LINES = ("ideal", "fit", "projected")
MOST_DRAWN = 6
WIDE = 12
"""Largest over smallest value beyond which a linear axis presses the first points together."""

Label = tuple[float, float, str, str]


@dataclass(kw_only=True, slots=True, frozen=True)
class Look:
    """How one curve is drawn."""

    colour: str
    """Colour of line, markers and label."""
    marker: str
    """Shape of its points."""
    name: str
    """Label at its end."""
    alone: bool
    """It is the only curve of its figure."""


def scaling_figure(curves: list[Curve], name: str, setting: str) -> Figure:
    """Return throughput and time per step of all *curves* of one mode."""
    mode = curves[0].series.mode
    rows = [row for curve in curves for row in _scaling_rows(curve)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    fixed = "global batch" if mode == STRONG else "batch per rank"
    batches = listed([str(curve.series.batch) for curve in curves])
    projected = (frame["kind"] == "projected").any()
    return Figure(
        name=name,
        title=f"{mode.capitalize()} scaling: throughput and time per step{setting}",
        caption=(
            f"{mode.capitalize()} scaling, {fixed} {batches} fixed. Markers: median over valid "
            "runs, bars: 95 % interval over runs. Open grey markers: runs with a validity flag, "
            "shown and not compared. Square without line: one process without DDP. Dashed: ideal "
            "from one process with DDP."
            + (" Line: the best fit; dotted: its projection, not measured." if projected else "")
            + (f" The first {MOST_DRAWN} batches are drawn." if len(curves) > MOST_DRAWN else "")
        ),
        alt=_scaling_alt(curves),
        frame=frame,
        draw=_draw_scaling,
        height=2.9,
    )


def _scaling_alt(curves: list[Curve]) -> str:
    said = []
    for curve in curves:
        values = [
            f"{number(p.throughput.value)} images/s at {count_of(p.ranks, 'rank')}"
            for p in curve.series.points
            if p.throughput is not None
        ]
        what = f"{curve.series.title}: {listed(values) if values else 'no valid run'}."
        said.append(what)
    return " ".join(said)


def _scaling_rows(curve: Curve) -> Iterator[list[Any]]:
    series = curve.series
    for panel in (RATE, TIME):
        head = [panel, series.mode, series.batch]
        for point in series.points:
            yield from _point_rows(head, point, panel, "measured")
        if series.plain_base is not None:
            yield from _point_rows(head, series.plain_base, panel, "without DDP")
        for ranks, value in _ideal(curve, panel):
            yield [*head, "ideal", ranks, value, None, None, None]
        best = best_of(curve.fits)
        if best is not None:
            yield from _fit_rows(head, curve, best, panel)


def _point_rows(head: list[Any], point: Point, panel: str, kind: str) -> Iterator[list[Any]]:
    valid = point.throughput if panel == RATE else point.step_time
    flagged = point.flagged_throughput if panel == RATE else point.flagged_step_time
    chosen, label = (valid, kind) if valid is not None else (flagged, f"flagged, {kind}")
    if chosen is not None:
        yield [*head, label, point.ranks, *numbers_of(chosen)]


def numbers_of(estimate: Estimate) -> list[float | int | None]:
    """Return value, interval and n, in the order of ``COLUMNS``."""
    return [estimate.value, estimate.low, estimate.high, estimate.n]


def _ideal(curve: Curve, panel: str) -> Iterator[tuple[float, float]]:
    base = curve.series.ddp_base
    if base is None or base.step_time is None or base.throughput is None:
        return
    measured = sorted({point.ranks for point in curve.series.points})
    # Straight only between points of a linear axis: on a logarithmic one it needs many.
    for ranks in np.geomspace(measured[0], measured[-1], 33):
        if panel == RATE:
            yield float(ranks), base.throughput.value * float(ranks)
        else:
            fall = float(ranks) if curve.series.mode == STRONG else 1.0
            yield float(ranks), base.step_time.value / fall


def _fit_rows(head: list[Any], curve: Curve, fit: Fit, panel: str) -> Iterator[list[Any]]:
    for kind, line in (("fit", fit.curve), ("projected", fit.projected)):
        for ranks, seconds in line:
            images = curve.series.batch * (1 if curve.series.mode == STRONG else ranks)
            value = images / seconds if panel == RATE else seconds
            yield [*head, kind, ranks, value, None, None, None]


def _draw_scaling(canvas: Canvas, frame: pd.DataFrame) -> None:
    panels = canvas.subplots(1, 2)
    titles = {RATE: "Throughput, images/s", TIME: "Time per step, ms"}
    for axes, (panel, title) in zip(panels, titles.items(), strict=True):
        axes.set_title(title)
        rows = frame[frame["panel"] == panel].copy()
        if rows.empty:
            style.nothing(axes, "no run was timed")
            continue
        if panel == TIME:
            rows[["value", "low", "high"]] = rows[["value", "low", "high"]].astype(float) * 1e3
        _draw_panel(axes, rows, str(rows["mode"].iloc[0]))


def _draw_panel(axes: Axes, rows: pd.DataFrame, mode: str) -> None:
    style.rank_axis(axes, [int(n) for n in rows.loc[~rows["kind"].isin(LINES), "ranks"]])
    batches = sorted(rows["batch"].unique())[:MOST_DRAWN]
    several = len(batches) > 1
    labels: list[Label] = []
    for place, batch in enumerate(batches):
        first = style.BLUE if mode == STRONG else style.ORANGE
        look = Look(
            colour=style.CYCLE[place] if several else first,
            marker=style.MARKERS[place],
            name=f"batch {batch}" if several else "measured",
            alone=not several,
        )
        labels += _draw_curve(axes, rows[rows["batch"] == batch], look)
    # Against a logarithmic axis of ranks a straight law is straight only on a logarithmic one.
    positive = rows.loc[rows["value"] > 0, "value"].astype(float)
    if axes.get_xscale() == "log" and positive.max() > WIDE * positive.min():
        axes.set_yscale("log")
        style.plain_log(axes)
        axes.set_ylim(positive.min() / 1.6, positive.max() * 1.6)
    else:
        top = rows[["value", "high"]].astype(float).max(axis=1)
        axes.set_ylim(0, 1.1 * float(top.clip(upper=1.5 * positive.max()).max()))
    style.end_labels(axes, labels)


def _draw_curve(axes: Axes, rows: pd.DataFrame, look: Look) -> list[Label]:
    """Draw one curve; return the labels of its ends."""
    kinds = dict(iter(rows.groupby("kind")))
    labels = []
    if "ideal" in kinds:
        ideal = kinds["ideal"]
        axes.plot(ideal["ranks"], ideal["value"], "--", color=style.MUTED, lw=1.0, zorder=1)
        if len(ideal) > 1 and look.alone:
            labels.append(_label(ideal, "ideal", style.MUTED))
    for kind, dashes in (("fit", "-"), ("projected", ":")):
        if kind in kinds:
            line = kinds[kind]
            axes.plot(line["ranks"], line["value"], dashes, color=look.colour, lw=1.0, zorder=1)
    if "measured" in kinds:
        measured = kinds["measured"]
        between = "none" if "fit" in kinds else "-"
        axes.plot(
            measured["ranks"], measured["value"], linestyle=between, color=look.colour, zorder=2
        )
        error_bars(axes, measured, look.colour, look.marker)
        labels.append(_label(measured, look.name, look.colour))
    if "without DDP" in kinds:
        _draw_plain(axes, kinds["without DDP"], kinds.get("measured"), named=look.alone)
    for kind in ("flagged, measured", "flagged, without DDP"):
        if kind in kinds:
            error_bars(axes, kinds[kind], style.MUTED, "o", hollow=True)
            labels.append(_label(kinds[kind], "flagged", style.MUTED))
    return labels


def _label(rows: pd.DataFrame, text: str, colour: str) -> Label:
    last = rows.iloc[-1]
    return float(last["ranks"]), float(last["value"]), text, colour


def _draw_plain(
    axes: Axes, plain: pd.DataFrame, measured: pd.DataFrame | None, *, named: bool
) -> None:
    """The base case without DDP: a square of its own, left of the point with DDP."""
    error_bars(axes, plain, style.INK, "s", size=3.6, shift=-0.04)
    if not named:
        return
    row = plain.iloc[0]
    beside = None if measured is None else float(measured["value"].iloc[0])
    above = beside is None or row["value"] >= beside
    axes.annotate(
        "no DDP",
        (row["ranks"] * 0.96, row["value"]),
        xytext=(5, 9 if above else -9),
        textcoords="offset points",
        ha="right",
        va="bottom" if above else "top",
        color=style.INK,
        fontsize=7.5,
    )


def error_bars(
    axes: Axes,
    rows: pd.DataFrame,
    colour: str,
    marker: str,
    *,
    size: float = 5.0,
    hollow: bool = False,
    shift: float = 0.0,
) -> None:
    """Markers with their intervals; a point without an interval is a marker alone."""
    value = rows["value"].astype(float)
    low = rows["low"].astype(float).fillna(value)
    high = rows["high"].astype(float).fillna(value)
    ranks = rows["ranks"].astype(float) * (1 + shift)
    # An interval of two runs may be wider than the panel: it is cut at twice the value and the
    # table holds its ends.
    high, low = high.clip(upper=2 * value.max()), low.clip(lower=0)
    axes.errorbar(
        ranks,
        value,
        yerr=[value - low, high - value],
        fmt=marker,
        ms=size,
        color=colour,
        mfc=style.PAPER if hollow else colour,
        mec=colour if hollow else style.PAPER,
        mew=1.1 if hollow else 0.7,
        ecolor=colour,
        elinewidth=1.1,
        capsize=2.5,
        zorder=3,
    )
