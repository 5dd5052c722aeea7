"""From data and analysis to the document: which sections, in which order, with which words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainyard.analysis.fits import best_of
from trainyard.analysis.selection import STRONG, WEAK
from trainyard.report import records, summary, tables, tables_fits
from trainyard.report.document import Block, Bullets, Document, Figure, Paragraph, Section, Table
from trainyard.report.figures_efficiency import efficiency_figure
from trainyard.report.figures_order import order_figure
from trainyard.report.figures_runs import accuracy_figure, attribution_figure
from trainyard.report.figures_scaling import scaling_figure
from trainyard.report.tables import cells, columns
from trainyard.report.text import clean, count_of, number, p_value, percent

if TYPE_CHECKING:
    from trainyard.analysis import Analysis, Curve, StudyData

MOST_SETTINGS = 4
MOST_CURVES = 8


def document_of(data: StudyData, analysis: Analysis) -> Document:
    """Return the whole report as data."""
    sections = (
        _scaling(analysis),
        _attribution(analysis),
        _accuracy(data, analysis),
        _runs(data, analysis),
        _validity(analysis),
        records.provenance_section(data),
        _method(data, analysis),
    )
    return Document(
        title=summary.title_of(data, analysis),
        subtitle=summary.subtitle_of(data),
        summary=summary.summary_of(data, analysis),
        key_figures=summary.key_figures_of(analysis),
        sections=sections,
        links=summary.links_of(data),
    )


def _settings(analysis: Analysis) -> list[tuple[str, list[Curve]]]:
    """Group the curves by what they ran on; each group has its own figures."""
    found: dict[tuple[str, ...], list[Curve]] = {}
    for curve in analysis.curves:
        found.setdefault(curve.series.work, []).append(curve)
    if len(found) == 1:
        return [("", curves) for curves in found.values()]
    return [(f" ({clean(' '.join(work[:3] + work[4:6]))})", found[work]) for work in found]


def _scaling(analysis: Analysis) -> Section:
    blocks: list[Block] = []
    if not analysis.curves:
        blocks.append(
            Paragraph(
                text="The study holds no strong or weak scaling runs, so there is no curve.",
                tone="warn",
            )
        )
    groups = _settings(analysis)
    for place, (setting, curves) in enumerate(groups[:MOST_SETTINGS]):
        suffix = f"-{place + 1}" if place else ""
        blocks += _figures(curves, setting, suffix)
    if len(groups) > MOST_SETTINGS:
        left = len(groups) - MOST_SETTINGS
        blocks.append(
            Paragraph(text=f"{left} further settings are in tables/points.csv, without figures.")
        )
    if analysis.points:
        blocks.append(tables.points_table(analysis))
    for curve in analysis.curves[:MOST_CURVES]:
        blocks += _curve_blocks(curve)
    if len(analysis.curves) > MOST_CURVES:
        left = len(analysis.curves) - MOST_CURVES
        blocks.append(Paragraph(text=f"{count_of(left, 'further curve')} in tables/*.csv."))
    return Section(anchor="scaling", title="Scaling", blocks=tuple(blocks))


def _figures(curves: list[Curve], setting: str, suffix: str) -> list[Figure]:
    made = []
    for mode in (STRONG, WEAK):
        chosen = [curve for curve in curves if curve.series.mode == mode]
        if chosen:
            made.append(scaling_figure(chosen, f"{mode}_scaling{suffix}", setting))
    efficiency = efficiency_figure(curves, f"efficiency{suffix}", setting)
    return [*made, efficiency] if efficiency is not None else made


def _curve_blocks(curve: Curve) -> list[Block]:
    blocks: list[Block] = []
    if curve.comparisons:
        blocks.append(tables.comparison_table(curve))
    else:
        blocks.append(
            Paragraph(
                text=f"{curve.series.title}: there is no run with one rank, so speed-up and "
                "efficiency have no base.",
                tone="warn",
            )
        )
    if curve.series.twins:
        names = ", ".join(sorted({clean(point.name) for point in curve.series.twins}))
        blocks.append(Paragraph(text=f"Not on the curve, as its ranks are already taken: {names}."))
    blocks += tables_fits.fit_blocks(curve)
    best = best_of(curve.fits)
    if best is not None and best.projected:
        blocks.append(tables_fits.projection_table(curve, best))
    return blocks


def _attribution(analysis: Analysis) -> Section:
    figure = attribution_figure(analysis)
    blocks: tuple[Block, ...]
    if figure is None:
        text = "No valid run repeated its windows under a control, so a step cannot be taken apart."
        blocks = (Paragraph(text=text, tone="warn"),)
    else:
        blocks = (figure, tables.attribution_table(analysis))
    return Section(anchor="time", title="Where the time goes", blocks=blocks)


def _accuracy(data: StudyData, analysis: Analysis) -> Section:
    blocks: list[Block] = []
    figure = accuracy_figure(data, analysis)
    if figure is not None:
        blocks.append(figure)
    if analysis.accuracies:
        blocks.append(tables.accuracy_table(analysis))
    else:
        blocks.append(Paragraph(text="No sane run measured its test accuracy.", tone="warn"))
    verdicts = [item for curve in analysis.curves[:MOST_CURVES] for item in curve.accuracy]
    if verdicts:
        blocks.append(tables.verdict_table(verdicts))
    if any(item.mode == WEAK for item in verdicts):
        text = "Under weak scaling the global batch grows with the ranks, so accuracy may move."
        blocks.append(Paragraph(text=text))
    return Section(anchor="accuracy", title="Accuracy", blocks=tuple(blocks))


def _runs(data: StudyData, analysis: Analysis) -> Section:
    blocks: list[Block] = []
    figure = order_figure(data, analysis)
    if figure is not None:
        blocks.append(figure)
    if data.runs.empty:
        blocks.append(Paragraph(text="No run is recorded for this study.", tone="bad"))
    else:
        blocks += [*records.failure_blocks(data), records.runs_table(data, analysis)]
    return Section(anchor="runs", title="Every run", blocks=tuple(blocks))


def _validity(analysis: Analysis) -> Section:
    blocks: list[Block] = []
    if analysis.flags:
        blocks.append(_flags(analysis))
    else:
        blocks.append(Paragraph(text="No run carries a validity flag."))
    drift = analysis.drift
    if drift is not None:
        said = "a drift" if drift.p_value < 0.05 else "no drift"  # noqa: PLR2004 - 5 % level
        blocks.append(
            Paragraph(
                text=f"Over {drift.runs} sane runs in order of their start, {said} was seen: "
                f"Spearman {number(drift.correlation, 2)} with p = {p_value(drift.p_value)}; "
                f"the last third took {percent(drift.change)} longer per step than the first."
            )
        )
    if analysis.missing:
        blocks.append(
            Table(
                caption="What could not be measured, and why",
                columns=columns("<Missing", "<Why", "<What would measure it"),
                rows=tuple(
                    cells(clean(item.what), clean(item.why), clean(item.needed))
                    for item in analysis.missing
                ),
            )
        )
    return Section(anchor="validity", title="Validity", blocks=tuple(blocks))


def _flags(analysis: Analysis) -> Table:
    return Table(
        caption="Validity flags",
        columns=columns("Flag", ">Runs", "<Measured, for example"),
        rows=tuple(
            cells(
                clean(item.flag).replace("_", " "),
                str(item.runs),
                "; ".join(tables.shorten(detail) for detail in item.details),
            )
            for item in analysis.flags
        ),
        note="A flagged run is kept and shown; it enters no fit and no comparison.",
    )


def _method(data: StudyData, analysis: Analysis) -> Section:
    study = data.study
    seed = "unknown" if study.order_seed is None else str(study.order_seed)
    items = [
        f"One fresh process group per run; {study.repeats or 'an unknown number of'} runs planned "
        f"per configuration, in blocks of random order (seed {seed}).",
        "Time per step: median over a run's timed windows of the slowest rank's seconds over "
        "steps, after warm-up. Throughput: all images over all those seconds.",
        "A number here is the median over runs. With five runs or more its interval is a smoothed "
        "percentile bootstrap of the median over runs; with two to four it is Student's t on the "
        "logarithms, which assumes normal scatter; with one there is none. Ratios: joint "
        "bootstrap, or Welch's t on logarithms below five runs.",
        "Input = T(real) − T(synthetic data), exposed communication = T(sync) − T(no sync), both "
        "paired within each run.",
        "Laws are fitted on run times, weighted by variance, with four or more valid numbers of "
        "ranks; otherwise they are refused.",
        "Sanity comes first: a run that did not reach its end, whose ranks disagree or whose loss "
        "is not finite has no valid number.",
    ]
    blocks: list[Block] = [Bullets(items=tuple(items))]
    if analysis.deviations:
        blocks.append(Paragraph(text="Where this study departs from the protocol:", tone="warn"))
        blocks.append(Bullets(items=analysis.deviations))
    return Section(anchor="method", title="Method", blocks=tuple(blocks))
