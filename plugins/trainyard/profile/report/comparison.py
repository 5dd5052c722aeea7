"""The report on two profiles as a document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainyard.profile.report.document import EXPLAINED, FRACTIONS
from trainyard.profile.report.figures import shortened
from trainyard.profile.report.kernel_sections import MOST_KERNELS
from trainyard.report.document import Cell, Document, KeyFigure, Section, Table
from trainyard.report.tables import cells, columns
from trainyard.report.text import clean, count_of, number, scaled, shares

if TYPE_CHECKING:
    from trainyard.profile.compare import Change, Comparison
    from trainyard.profile.result import ProfileAnalysis


def comparison_document(
    found: Comparison, before: ProfileAnalysis, after: ProfileAnalysis, title: str
) -> Document:
    """Return the report on two profiles."""
    value, ends = scaled(found.step.lost, digits=3)
    sections = [
        Section(
            anchor="parts",
            title="Parts of the step",
            blocks=(_changes("Time lost by part", found.parts, ""), _shares(found)),
        )
    ]
    if found.kernels:
        table = _changes("Kernels", found.kernels, "tables/kernels.csv")
        sections.append(Section(anchor="kernels", title="Kernels", blocks=(table,)))
    return Document(
        title=clean(title),
        subtitle=f"{count_of(len(before.ranks), 'rank')} each",
        summary=tuple(clean(text) for text in _summary(found, before, after)),
        key_figures=(
            KeyFigure(value=f"{value} ms", label="lost per step", detail=ends),
            KeyFigure(value=f"{number(found.step.before_ms)} ms", label="before", detail=""),
            KeyFigure(value=f"{number(found.step.after_ms)} ms", label="after", detail=""),
        ),
        sections=tuple(sections),
        files=(("PDF", "report.pdf"), ("comparison.json", "comparison.json")),
        explained=EXPLAINED,
    )


def _summary(
    found: Comparison, before: ProfileAnalysis, after: ProfileAnalysis
) -> tuple[str, str, str]:
    value, ends = scaled(found.step.lost, digits=3)
    slower = found.step.lost.value > 0
    # Of parts that change in both directions, only those of the step's own explain it.
    most = (max if slower else min)(found.parts, key=lambda item: item.lost.value)
    return (
        f"A step is {'slower' if slower else 'faster'} by {value.lstrip('−')} ms: from "
        f"{number(found.step.before_ms)} ms to {number(found.step.after_ms)} ms ({ends}).",
        f"Most of it: {most.name}, {number(most.before_ms)} to {number(most.after_ms)} ms; the "
        f"step {'gains' if slower else 'loses'} {number(abs(most.lost.value))} ms there.",
        f"Before: {before.verdict.headline}. After: {after.verdict.headline}.",
    )


def _changes(caption: str, changes: tuple[Change, ...], csv: str) -> Table:
    ranked = sorted(changes, key=lambda item: -abs(item.lost.value))[:MOST_KERNELS]
    rows = []
    for item in sorted(ranked, key=lambda item: -item.lost.value):
        value, ends = scaled(item.lost, digits=3)
        tone = ("bad" if item.lost.value > 0 else "good") if item.resolved else "quiet"
        rows.append(
            (
                *cells(shortened(clean(item.name)), number(item.before_ms), number(item.after_ms)),
                Cell(text=value, tone=tone),  # type: ignore[arg-type]
                *cells(ends),
            )
        )
    return Table(
        caption=caption,
        columns=columns("<what", ">before, ms", ">after, ms", ">lost, ms", ">95 % interval"),
        rows=tuple(rows),
        note="Per step, most time lost first; grey: cannot be told from no change.",
        csv=csv,
    )


def _shares(found: Comparison) -> Table:
    rows = []
    for name, first, second in found.fractions:
        (old, old_ends), (new, new_ends) = shares(first), shares(second)
        rows.append(cells(FRACTIONS.get(name, name), old, old_ends, new, new_ends))
    return Table(
        caption="Shares of the first rank",
        columns=columns("share", ">before", ">interval", ">after", ">interval"),
        rows=tuple(rows),
    )
