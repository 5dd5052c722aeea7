"""The figure of parallel efficiency; it draws from its frame alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from trainyard.analysis.selection import STRONG
from trainyard.report import style
from trainyard.report.document import Figure
from trainyard.report.figures_scaling import COLUMNS, MOST_DRAWN, Label, error_bars, numbers_of
from trainyard.report.text import listed, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from trainyard.analysis import Curve

STEEP = 0.05
"""Loss of efficiency to the next point that makes a line look steep."""
CLEAR = 0.92
"""Efficiency below which a label above its point does not touch the ideal line."""


def efficiency_figure(curves: list[Curve], name: str, setting: str) -> Figure | None:
    """Return strong and weak efficiency side by side, or None without a comparison."""
    rows = [row for curve in curves for row in _rows(curve)]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "leading"])
    if not (frame["ranks"] > 1).any():
        return None
    modes = listed([str(mode) for mode in dict.fromkeys(frame["mode"])])
    best = frame[(frame["leading"] == 1) & (frame["ranks"] > 1)]
    alt = "; ".join(
        f"{row['mode']}, batch {row['batch']}, {row['ranks']} ranks: {percent(row['value'])}"
        for row in best.to_dict("records")
    )
    return Figure(
        name=name,
        title=f"Parallel efficiency, {modes} scaling{setting}",
        caption=(
            "Strong: E = T(1) / (N · T(N)); weak: E = T(1) / T(N) per step. Filled: against "
            f"{curves[0].base}; open: against the other base case. Bars: 95 % joint interval over "
            "runs of both points. 100 % is ideal."
        ),
        alt=f"Efficiency. {alt}.",
        frame=frame,
        draw=_draw_efficiency,
        height=2.7,
    )


def _rows(curve: Curve) -> Iterator[list[Any]]:
    """Yield the comparisons that have a number; ``leading`` marks the base that comes first."""
    series = curve.series
    for item in curve.comparisons:
        if item.efficiency is not None:
            head = [series.mode, series.mode, series.batch, item.base, item.ranks]
            yield [*head, *numbers_of(item.efficiency), int(item.base == curve.base)]


def _draw_efficiency(canvas: Canvas, frame: pd.DataFrame) -> None:
    several = frame[frame["ranks"] > 1]
    modes = [mode for mode in ("strong", "weak") if (several["mode"] == mode).any()]
    panels = canvas.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for axes, mode in zip(panels, modes, strict=True):
        rows = frame[frame["mode"] == mode]
        fixed = "global batch" if mode == STRONG else "batch per rank"
        axes.set_title(f"{mode.capitalize()} scaling ({fixed} fixed)")
        style.rank_axis(axes, [int(n) for n in rows["ranks"]])
        axes.axhline(1.0, color=style.MUTED, lw=1.0, ls="--", zorder=1)
        batches = sorted(rows["batch"].unique())[:MOST_DRAWN]
        top = float(frame["high"].astype(float).fillna(frame["value"].astype(float)).max())
        axes.set_ylim(0, min(1.6, max(1.12, 1.06 * top)))
        labels = [
            _draw_efficiencies(
                axes, rows[rows["batch"] == batch], place, mode, several=len(batches) > 1
            )
            for place, batch in enumerate(batches)
        ]
        style.end_labels(axes, [label for label in labels if label is not None])
        axes.yaxis.set_major_formatter(lambda value, _place: f"{100 * value:.0f} %")


def _draw_efficiencies(
    axes: Axes, rows: pd.DataFrame, place: int, mode: str, *, several: bool
) -> Label | None:
    first = style.BLUE if mode == STRONG else style.ORANGE
    colour = style.CYCLE[place % len(style.CYCLE)] if several else first
    marker = style.MARKERS[place % len(style.MARKERS)]
    other = rows[rows["leading"] == 0]
    leading = rows[rows["leading"] == 1]
    if not other.empty and not several:
        axes.plot(other["ranks"], other["value"], ":", color=colour, lw=1.0, zorder=1)
        error_bars(axes, other.assign(low=None, high=None), colour, marker, hollow=True, size=4.0)
    axes.plot(leading["ranks"], leading["value"], "-", color=colour, zorder=2)
    error_bars(axes, leading, colour, marker)
    if several:
        last = leading.iloc[-1]
        name = f"batch {rows['batch'].iloc[0]}"
        return float(last["ranks"]), float(last["value"]), name, colour
    shares = leading["value"].astype(float).tolist()
    for at, (ranks, share) in enumerate(zip(leading["ranks"], shares, strict=True)):
        # A falling line leaves room above its points, a flat one below.
        falls = at + 1 < len(shares) and share - shares[at + 1] > STEEP and share < CLEAR
        axes.annotate(
            f"{100 * share:.1f} %",
            (ranks, share),
            xytext=(6, 5) if falls else (8, -11),
            textcoords="offset points",
            color=colour,
            fontsize=7.5,
        )
    return None
