"""The figures of a profile, each drawn from one frame that is written beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from trainyard.profile import intervals as iv
from trainyard.profile.report.parts import (
    COLOURS,
    LABELS,
    coarse,
    columns_of,
    lanes_of,
    typical_step,
)
from trainyard.profile.report.roofline import roofline
from trainyard.report import style
from trainyard.report.document import Figure
from trainyard.report.text import count_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from trainyard.profile.result import ProfileAnalysis

PIXELS = 1500
"""Gaps narrower than this share of the step are closed in the static picture."""
MOST_RANKS, MOST_KERNELS = 16, 12
NAME_LENGTH = 46


def figures_of(analysis: ProfileAnalysis) -> tuple[Figure, ...]:
    """Return the figures that this profile has data for."""
    made = [timeline(analysis), attribution(analysis), kernel_ranking(analysis), roofline(analysis)]
    return tuple(item for item in made if item is not None)


def shortened(name: str) -> str:
    """Return a kernel's name fit for a label: both ends of a long one."""
    if len(name) <= NAME_LENGTH:
        return name
    return f"{name[: NAME_LENGTH - 13]}…{name[-12:]}"


def timeline(analysis: ProfileAnalysis) -> Figure:
    """Return one typical step of every rank."""
    step = typical_step(analysis)
    base = analysis.ranks[0].windows.start[step]
    rows = []
    for item in analysis.ranks[:MOST_RANKS]:
        place = min(step, len(item.windows.start) - 1)
        low, high = int(item.windows.start[place]), int(item.windows.end[place])
        # Ranks whose clocks do not compare each begin at their own step.
        origin = int(base) if analysis.trace.aligned else low
        for lane, parts in lanes_of(item).items():
            for part in parts:
                spans = coarse(iv.clip(item.spans[part], low, high), (high - low) // PIXELS)
                rows += [
                    (item.rank, lane, part, (a - origin) / 1e6, (b - origin) / 1e6)
                    for a, b in zip(spans.start.tolist(), spans.end.tolist(), strict=True)
                ]
    frame = pd.DataFrame(rows, columns=["rank", "lane", "part", "start_ms", "end_ms"])
    lanes = frame[["rank", "lane"]].drop_duplicates()
    shown = min(len(analysis.ranks), MOST_RANKS)
    more = (
        f"; {shown} of {len(analysis.ranks)} ranks are drawn" if shown < len(analysis.ranks) else ""
    )
    return Figure(
        name="step_timeline",
        title="A typical step, rank by rank",
        caption=(
            f"The step whose length is nearest the median of rank {analysis.ranks[0].rank}'s"
            f"{more}. Gaps too narrow to see are closed; timeline.html shows every event."
        ),
        alt=f"Timeline of one step with {len(lanes)} lanes.",
        frame=frame,
        draw=_draw_timeline,
        height=0.9 + 0.21 * max(2, len(lanes)) + 0.12 * shown,
    )


def _draw_timeline(canvas: Canvas, frame: pd.DataFrame) -> None:
    axes = canvas.subplots()
    ticks, labels, height = [], [], 0.0
    for rank, group in frame.groupby("rank", sort=True):
        lanes = list(dict.fromkeys(group["lane"]))
        for lane in lanes:
            rows = group[group["lane"] == lane]
            for part, each in rows.groupby("part", sort=False):
                width = each["end_ms"] - each["start_ms"]
                bars = list(zip(each["start_ms"], width, strict=True))
                axes.broken_barh(bars, (height + 0.1, 0.8), color=COLOURS[str(part)], lw=0)
            ticks.append(height + 0.5)
            labels.append(f"rank {rank}  {lane}" if lane == lanes[0] else lane)
            height += 1
        height += 0.5
    axes.set_yticks(ticks, labels)
    axes.set_ylim(height, -0.3)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("ms from the begin of the step")
    _legend(axes, list(dict.fromkeys(frame["part"])))


def _legend(axes: Axes, parts: list[str]) -> None:
    from matplotlib.patches import Patch

    known = {LABELS[part]: COLOURS[part] for part in parts}
    axes.legend(
        handles=[Patch(color=colour, label=label) for label, colour in known.items()],
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=4,
        frameon=False,
        fontsize=7.5,
        handlelength=1.0,
        borderpad=0.1,
    )


def attribution(analysis: ProfileAnalysis) -> Figure:
    """Return where the step of every rank went, stacked."""
    rows = [
        (item.rank, part, float(item.frame[part].mean()) / 1e6)
        for item in analysis.ranks[:MOST_RANKS]
        for part in columns_of(item.mode)
    ]
    frame = pd.DataFrame(rows, columns=["rank", "part", "ms"])
    frame = frame[frame.groupby("part")["ms"].transform("max") > 0].reset_index(drop=True)
    steps = len(analysis.ranks[0].windows.start)
    return Figure(
        name="attribution",
        title="Where a step goes",
        caption=(
            f"Milliseconds per step, mean over {steps} steps. The parts overlap nowhere and add up "
            "to the step; communication that compute hides counts as compute."
        ),
        alt=f"Stacked bars of {frame['part'].nunique()} parts for {frame['rank'].nunique()} ranks.",
        frame=frame,
        draw=_draw_attribution,
        height=1.15 + 0.3 * frame["rank"].nunique(),
    )


def _draw_attribution(canvas: Canvas, frame: pd.DataFrame) -> None:
    axes = canvas.subplots()
    wide = frame.pivot_table(index="rank", columns="part", values="ms", sort=False)
    left = [0.0] * len(wide)
    longest = float(wide.sum(axis=1).max())
    for part in wide.columns:
        values = wide[part].to_numpy()
        axes.barh(range(len(wide)), values, left=left, color=COLOURS[part], height=0.7, lw=0)
        for place, value in enumerate(values):
            if value > 0.07 * longest:
                axes.text(
                    left[place] + value / 2,
                    place,
                    f"{value:.3g}",
                    ha="center",
                    va="center",
                    color=style.PAPER,
                    fontsize=7,
                )
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_yticks(range(len(wide)), [f"rank {rank}" for rank in wide.index])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("ms per step")
    _legend(axes, list(wide.columns))


def kernel_ranking(analysis: ProfileAnalysis) -> Figure | None:
    """Return the kernels of the first rank that cost most, or None where it ran none."""
    item = analysis.ranks[0]
    if item.kernels is None or not item.kernels.kernels:
        return None
    steps = len(item.windows.start)
    frame = pd.DataFrame(
        [
            {
                "kernel": kernel.name,
                "ms_per_step": kernel.total_ns / steps / 1e6,
                "calls_per_step": kernel.calls / steps,
                "share": kernel.share,
                "part": "communication" if kernel.collective else "compute",
            }
            for kernel in item.kernels.kernels[:MOST_KERNELS]
        ]
    )
    rest = len(item.kernels.kernels) - len(frame)
    further = f"; {count_of(rest, 'further kernel')} cost less" if rest else ""
    return Figure(
        name="kernel_ranking",
        title=f"Kernels of rank {item.rank} by time",
        caption=f"Sum of durations per step{further}. Streams overlap, so the sums can exceed the "
        "step.",
        alt=f"Ranking of {len(frame)} kernels; the first takes "
        f"{100 * float(frame['share'].iloc[0]):.0f} % of kernel time.",
        frame=frame,
        draw=_draw_ranking,
        height=0.6 + 0.24 * len(frame),
    )


def _draw_ranking(canvas: Canvas, frame: pd.DataFrame) -> None:
    axes = canvas.subplots()
    places = range(len(frame))
    colours = [COLOURS[part] for part in frame["part"]]
    axes.barh(places, frame["ms_per_step"], color=colours, height=0.7, lw=0)
    for place, (value, calls) in enumerate(
        zip(frame["ms_per_step"], frame["calls_per_step"], strict=True)
    ):
        axes.annotate(
            f"{value:.3g} ms, {calls:.3g} calls",
            (value, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=style.MUTED,
        )
    axes.set_yticks(places, [shortened(name) for name in frame["kernel"]], fontsize=6.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.28 * float(frame["ms_per_step"].max()))
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("ms per step")
