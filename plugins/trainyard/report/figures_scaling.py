"""Figures over ranks: throughput, time per step and efficiency. Each draws from its frame alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

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
MOST_LABELLED = 3


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
            + (" Dotted: projected by the best fit, not measured." if projected else "")
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
    for ranks in sorted({point.ranks for point in curve.series.points}):
        if panel == RATE:
            yield ranks, base.throughput.value * ranks
        else:
            fall = ranks if curve.series.mode == STRONG else 1
            yield ranks, base.step_time.value / fall


def _fit_rows(head: list[Any], curve: Curve, fit: Fit, panel: str) -> Iterator[list[Any]]:
    for kind, line in (("fit", fit.curve), ("projected", fit.projected)):
        for ranks, seconds in line:
            images = curve.series.batch * (1 if curve.series.mode == STRONG else ranks)
            value = images / seconds if panel == RATE else seconds
            yield [*head, kind, ranks, value, None, None, None]


def _draw_scaling(canvas: Canvas, frame: pd.DataFrame) -> None:
    panels = canvas.subplots(1, 2, width_ratios=(1, 1))
    titles = {RATE: "Throughput, images/s", TIME: "Time per step, ms"}
    for axes, (panel, title) in zip(panels, titles.items(), strict=True):
        rows = frame[frame["panel"] == panel].copy()
        axes.set_title(title)
        if rows.empty:
            style.nothing(axes, "no run was timed")
            continue
        if panel == TIME:
            rows[["value", "low", "high"]] = rows[["value", "low", "high"]].astype(float) * 1e3
        ranked = rows.loc[rows["kind"].isin(("fit", "projected")) == False, "ranks"]  # noqa: E712
        style.rank_axis(axes, [int(n) for n in ranked])
        mode = str(rows["mode"].iloc[0])
        for place, (batch, group) in enumerate(rows.groupby("batch", sort=True)):
            _draw_curve(axes, group, place, mode, several=rows["batch"].nunique() > 1)
            del batch
        axes.set_ylim(bottom=0)
        axes.margins(y=0.12)
        if axes.get_xscale() == "log" and panel == RATE:
            _wide_range(axes, rows)


def _wide_range(axes: Axes, rows: pd.DataFrame) -> None:
    """Use a logarithmic scale where a linear one would press the first points together."""
    positive = rows.loc[rows["value"] > 0, "value"]
    if positive.max() > 12 * positive.min():
        axes.set_yscale("log")
        axes.set_ylim(positive.min() / 1.6, positive.max() * 1.6)


def _draw_curve(axes: Axes, rows: pd.DataFrame, place: int, mode: str, *, several: bool) -> None:
    first = style.BLUE if mode == STRONG else style.ORANGE
    colour = style.CYCLE[place % len(style.CYCLE)] if several else first
    kinds = dict(iter(rows.groupby("kind")))
    ideal = kinds.get("ideal")
    if ideal is not None:
        axes.plot(ideal["ranks"], ideal["value"], "--", color=style.MUTED, lw=1.0, zorder=1)
        if len(ideal) > 1 and not several:
            say(axes, ideal.iloc[-1], "ideal", style.MUTED)
    for kind, look in (("fit", "-"), ("projected", ":")):
        line = kinds.get(kind)
        if line is not None:
            axes.plot(line["ranks"], line["value"], look, color=colour, lw=1.0, alpha=0.6, zorder=1)
    measured = kinds.get("measured")
    if measured is not None:
        look = "none" if "fit" in kinds else "-"
        axes.plot(measured["ranks"], measured["value"], linestyle=look, color=colour, zorder=2)
        error_bars(axes, measured, colour, style.MARKERS[place % len(style.MARKERS)])
        said = f"batch {rows['batch'].iloc[0]}" if several else "measured"
        say(axes, measured.iloc[-1], said, colour)
    if "without DDP" in kinds:
        plain = kinds["without DDP"]
        error_bars(axes, plain, style.INK, "s", size=3.6, shift=-0.035)
        if not several:
            say(axes, plain.iloc[0], "without DDP", style.INK, left=True)
    for kind in ("flagged, measured", "flagged, without DDP"):
        if kind in kinds:
            error_bars(axes, kinds[kind], style.MUTED, "o", hollow=True)
            say(axes, kinds[kind].iloc[-1], "flagged", style.MUTED)


def say(axes: Axes, row: pd.Series, text: str, colour: str, *, left: bool = False) -> None:
    """Label a point where it stands instead of in a legend."""
    axes.annotate(
        text,
        (row["ranks"], row["value"]),
        xytext=(-6 if left else 7, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        color=colour,
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
