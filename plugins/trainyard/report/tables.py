"""The tables of a report: points, comparisons, fits, attribution. Texts only."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trainyard.report.document import Cell, Column, Table, Tone
from trainyard.report.figures_runs import label_of
from trainyard.report.text import (
    NOTHING,
    clean,
    interval,
    minus,
    percent,
    scaled,
    shares,
)

if TYPE_CHECKING:
    from trainyard.analysis import Analysis, Curve
    from trainyard.analysis.accuracy import AccuracyVerdict
    from trainyard.analysis.attribution import Part
    from trainyard.analysis.scaling import Comparison
    from trainyard.analysis.selection import Point

MOST_POINTS = 60
MOST_REASONS = 2
REASON_LENGTH = 140


def cells(*texts: str, tone: Tone = "") -> tuple[Cell, ...]:
    """Return a row of plain cells."""
    return tuple(Cell(text=text, tone=tone) for text in texts)


def columns(*titles: str) -> tuple[Column, ...]:
    """Return headings; ``>`` before a title sets it flush right, ``<`` gives it the spare room."""
    return tuple(
        Column(title=title.lstrip("<>"), numeric=title[0] == ">", wide=title[0] == "<")
        for title in titles
    )


def compact(table: Table) -> Table:
    """Return *table* without the spare-room columns in which no row says anything."""
    keep = [
        place
        for place, column in enumerate(table.columns)
        if not column.wide or any(row[place].text for row in table.rows)
    ]
    return replace(
        table,
        columns=tuple(table.columns[place] for place in keep),
        rows=tuple(tuple(row[place] for place in keep) for row in table.rows),
    )


def points_table(analysis: Analysis) -> Table:
    """Every configuration: median, interval, n and what was kept out."""
    shown = analysis.points[:MOST_POINTS]
    rows = tuple(_point_row(point) for point in shown)
    notes = [
        "Median over valid runs with its 95 % interval. A row in grey has no valid run: its "
        "numbers are those of flagged runs, marked †, and enter no comparison."
    ]
    if any(point.valid == 1 for point in shown):
        notes.append("A single run has no interval.")
    if len(analysis.points) > len(shown):
        notes.append(f"{len(analysis.points) - len(shown)} further configurations are in the CSV.")
    table = Table(
        caption="Every configuration, with the runs behind it",
        columns=columns(
            "Configuration",
            ">Ranks",
            ">Batch per rank",
            ">Images/s",
            ">95 % interval",
            ">Time per step, ms",
            ">95 % interval",
            ">CV",
            ">Valid runs",
            "<Kept out",
        ),
        rows=rows,
        note=" ".join(notes),
        csv="tables/points.csv",
    )
    return compact(table)


def _point_row(point: Point) -> tuple[Cell, ...]:
    valid = point.step_time is not None
    rate = point.throughput if valid else point.flagged_throughput
    time = point.step_time if valid else point.flagged_step_time
    mark = "" if valid or time is None else " †"
    spread = NOTHING if time is None or time.cv is None else percent(time.cv)
    rate_text, rate_ends = scaled(rate)
    time_text, time_ends = scaled(time, 1e3)
    out = "; ".join(shorten(reason) for reason in point.reasons[:MOST_REASONS])
    more = len(point.reasons) - MOST_REASONS
    return cells(
        clean(point.name) or label_of(point),
        str(point.ranks),
        str(point.per_rank_batch),
        rate_text + mark,
        rate_ends,
        time_text + mark,
        time_ends,
        spread,
        f"{point.valid} of {point.planned}",
        out + (f"; {more} more" if more > 0 else ""),
        tone="" if valid else "quiet",
    )


def shorten(text: str, length: int = REASON_LENGTH) -> str:
    """Return *text* in one clean line of at most *length* characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _comparison_row(item: Comparison, *, leads: bool) -> tuple[Cell, ...]:
    if item.reason:
        nothing = [NOTHING] * 6
        return cells(item.base, str(item.ranks), *nothing, shorten(item.reason), tone="quiet")
    serial, ends = scaled(item.karp_flatt, digits=2)
    return cells(
        item.base,
        str(item.ranks),
        *scaled(item.speedup, digits=3),
        *shares(item.efficiency),
        serial if ends == NOTHING else f"{serial} {ends}",
        "" if item.efficiency is None else f"{item.efficiency.n}",
        "",
        tone="" if leads else "quiet",
    )


def comparison_table(curve: Curve) -> Table:
    """Speed-up, efficiency and serial fraction of one curve against both base cases."""
    table = Table(
        caption=f"{curve.series.title}: against both base cases",
        columns=columns(
            "Base case",
            ">Ranks",
            ">Speed-up",
            ">95 % interval",
            ">Efficiency",
            ">95 % interval",
            ">Karp–Flatt serial fraction",
            ">Runs",
            "<Why not",
        ),
        rows=tuple(
            _comparison_row(item, leads=item.base == curve.base) for item in curve.comparisons
        ),
        note="Intervals are joint over the runs of both points. Runs: the smaller number of the "
        "two. The serial fraction is defined for strong scaling on two ranks or more.",
        csv="tables/comparisons.csv",
    )
    return compact(table)


def attribution_table(analysis: Analysis) -> Table:
    """The parts of a step as measured, negative ones too."""
    rows = []
    for item in analysis.attributions[:MOST_POINTS]:
        parts = {part.name: part for part in item.parts}
        rows.append(
            cells(
                label_of(item.point),
                *scaled(item.step_time, 1e3),
                *scaled(parts["compute"].seconds, 1e3),
                *_part(parts["input"]),
                *_part(parts["communication"]),
                str(item.step_time.n),
            )
        )
    return Table(
        caption="The parts of a step, in milliseconds, with 95 % intervals over runs",
        columns=columns(
            "Configuration",
            ">Step",
            ">Interval",
            ">Compute",
            ">Interval",
            ">Input",
            ">Interval",
            ">Exposed communication",
            ">Interval",
            ">Runs",
        ),
        rows=tuple(rows),
        note="‡ below resolution: the interval reaches zero, so the part cannot be told from "
        "nothing. The parts are medians of paired differences and need not add up to the median "
        "step.",
        csv="figures/attribution.csv",
    )


def _part(part: Part) -> tuple[str, str]:
    if part.seconds is None:
        return NOTHING, NOTHING
    value, ends = scaled(part.seconds, 1e3, digits=3)
    return value if part.resolved else f"{value} ‡", ends


def accuracy_table(analysis: Analysis) -> Table:
    """Test accuracy per configuration with both intervals."""
    rows = []
    for item in analysis.accuracies[:MOST_POINTS]:
        known = item.low is not None and item.high is not None
        ends = NOTHING
        if known and item.low is not None and item.high is not None:
            ends = interval(f"{100 * item.low:.2f}", f"{100 * item.high:.2f}")
        sampling = NOTHING
        if item.sampling:
            sampling = interval(*(f"{100 * end:.2f}" for end in item.sampling))
        rows.append(
            cells(
                label_of(item.point), percent(item.mean, 2), ends, sampling, str(len(item.values))
            )
        )
    return Table(
        caption="Test accuracy, mean over runs",
        columns=columns(
            "Configuration", ">Accuracy", ">Over runs, %", ">For the test set's size, %", ">Runs"
        ),
        rows=tuple(rows),
        note="Over runs: Student's t. For the test set's size: Wilson's interval, what another "
        "test set as large could have given.",
        csv="figures/accuracy.csv",
    )


def verdict_table(verdicts: list[AccuracyVerdict]) -> Table:
    """Whether more ranks learnt the same as one, and what the comparison could have seen."""
    rows = []
    for item in verdicts:
        low, difference, high = (
            minus(f"{100 * value:+.2f}") for value in (item.low, item.difference, item.high)
        )
        rows.append(
            (
                *cells(
                    f"{item.mode}, batch {item.batch}",
                    str(item.ranks),
                    difference,
                    interval(low, high),
                    f"{100 * item.detectable:.2f}",
                ),
                Cell(
                    text="same within its interval" if item.same else "different",
                    tone="good" if item.same else "warn",
                ),
            )
        )
    return Table(
        caption="Test accuracy against one rank, in percentage points",
        columns=columns(
            "Curve", ">Ranks", ">Difference", ">95 % interval", ">Smallest detectable", "<Verdict"
        ),
        rows=tuple(rows),
        note="Welch's interval over runs, no variance below that of the test set's size. Smallest "
        "detectable: the true difference such a comparison sees 8 times in 10.",
    )
