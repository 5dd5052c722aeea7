"""The report on a profile as a document: the same texts for HTML and PDF."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainyard.profile.report.export import exported_steps
from trainyard.profile.report.figures import figures_of
from trainyard.profile.report.kernel_sections import (
    TABLES,
    kernel_sections,
    operator_sections,
    tables_with_rows,
)
from trainyard.profile.report.parts import LABELS, columns_of
from trainyard.report.document import (
    Block,
    Bullets,
    Cell,
    Document,
    KeyFigure,
    Paragraph,
    Section,
    Table,
)
from trainyard.report.tables import cells, columns
from trainyard.report.text import NOTHING, clean, count_of, number, percent, scaled, shares

if TYPE_CHECKING:
    from trainyard.profile.result import Bound, ProfileAnalysis

FILES = (
    ("PDF", "report.pdf"),
    ("timeline, zoomable", "timeline.html"),
    ("trace for Perfetto", "trace.json.gz"),
    ("analysis.json", "analysis.json"),
)
EXPLAINED = "docs/profiles.md"
FRACTIONS = {
    "gpu_busy": "GPU busy",
    "overlap": "communication hidden by compute",
    "exposed_comm": "exposed communication",
    "exposed_h2d": "exposed copies to the device",
    "data_gap": "data gap",
    "host_gap": "host gap (late launches)",
    "sync_gap": "synchronisation gap",
    "idle": "idle in all",
    "unexplained": "idle without explanation",
    "data_wait": "waiting for data",
    "forward": "forward",
    "backward": "backward",
    "optimizer": "optimizer",
    "host_time": "outside any phase",
}


def document_of(analysis: ProfileAnalysis, title: str) -> Document:
    """Return the report on one profile."""
    verdict = analysis.verdict
    summary = [f"{verdict.headline}."]
    summary += [_sentence(item.text) for item in verdict.findings if item.raised][:5]
    steps = len(analysis.ranks[0].windows.start)
    return Document(
        title=clean(title),
        subtitle=(
            f"{count_of(len(analysis.ranks), 'rank')}, {count_of(steps, 'step')} each, "
            f"{analysis.trace.total:,} events, {analysis.trace.ranks[0].format} traces"
        ),
        summary=tuple(clean(text) for text in summary),
        key_figures=_keys(analysis),
        sections=(
            _verdict(analysis),
            _where(analysis),
            *kernel_sections(analysis),
            *operator_sections(analysis),
            _limits(analysis),
        ),
        files=(
            *FILES,
            *((TABLES[name], f"tables/{name}.csv") for name in tables_with_rows(analysis)),
        ),
        explained=EXPLAINED,
    )


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _keys(analysis: ProfileAnalysis) -> tuple[KeyFigure, ...]:
    rank = analysis.ranks[0]
    value, ends = scaled(rank.step_ms)
    keys = [KeyFigure(value=f"{value} ms", label="per step, profiled", detail=ends)]
    for bound, estimate in sorted(analysis.verdict.shares.items(), key=lambda i: -i[1].value)[:3]:
        value, ends = shares(estimate)
        keys.append(KeyFigure(value=value, label=f"{_bound(bound)}, all ranks", detail=ends))
    return tuple(keys)


def _bound(bound: Bound) -> str:
    return {"host": "host and launches"}.get(bound.value, bound.value)


def _verdict(analysis: ProfileAnalysis) -> Section:
    verdict = analysis.verdict
    blocks: list[Block] = [_recoverable(analysis), _suggestions(analysis)]
    if verdict.controls:
        blocks.insert(0, _controls(analysis))
    else:
        text = (
            "No control was given: the class rests on the profile alone. Give the result of a run "
            "with --result, measured with controls = synthetic_input, no_sync"
        )
        blocks.append(Paragraph(text=text))
    blocks.append(
        Bullets(
            items=tuple(
                clean(f"{'raised' if item.raised else 'not raised'}: {item.text}")
                for item in verdict.findings
            )
        )
    )
    return Section(anchor="verdict", title="What the step is bound by", blocks=tuple(blocks))


def _controls(analysis: ProfileAnalysis) -> Table:
    rows = []
    for check in analysis.verdict.controls:
        value, ends = shares(check.profile)
        rows.append(
            (
                *cells(check.part.value, value, ends, percent(check.control)),
                Cell(text="yes" if check.agrees else "no", tone="good" if check.agrees else "bad"),
            )
        )
    return Table(
        caption="The profile against the controls that need no profiler",
        columns=columns("part", ">profile", ">95 % interval", ">control", "agree"),
        rows=tuple(rows),
        note="They agree when they differ by at most five points of the step beyond the interval.",
    )


def _recoverable(analysis: ProfileAnalysis) -> Table:
    rows = []
    for item in analysis.verdict.recoverable:
        value, ends = scaled(item.ms, digits=3)
        rows.append(cells(item.name, value, ends, item.how))
    return Table(
        caption="The largest recoverable times",
        columns=columns("cause", ">ms per step", ">95 % interval", "<what would have to change"),
        rows=tuple(rows),
        note="Upper bounds: what a step would save if the cause vanished and nothing else grew. "
        "Intervals are over the steps of this profile, not over runs.",
    )


def _suggestions(analysis: ProfileAnalysis) -> Table:
    rows = [
        cells(item.field or NOTHING, item.current or NOTHING, item.proposed or NOTHING, item.why)
        for item in analysis.verdict.suggestions
    ]
    return Table(
        caption="What to try next",
        columns=columns("field", "now", "try", "<why"),
        rows=tuple(rows),
    )


def _where(analysis: ProfileAnalysis) -> Section:
    figures = [
        item for item in figures_of(analysis) if item.name in {"step_timeline", "attribution"}
    ]
    return Section(
        anchor="step",
        title="Where the step goes",
        blocks=(*figures, _parts(analysis), _fractions(analysis), *_stragglers(analysis)),
    )


def _parts(analysis: ProfileAnalysis) -> Table:
    rows = []
    for part in columns_of(analysis.mode):
        values = [number(float(item.frame[part].mean()) / 1e6) for item in analysis.ranks[:6]]
        rows.append(cells(LABELS[part], *values))
    return Table(
        caption="Parts of the step, milliseconds",
        columns=columns("part", *(f">rank {item.rank}" for item in analysis.ranks[:6])),
        rows=tuple(rows),
        note="The parts overlap nowhere and add up to the step.",
        csv="tables/parts.csv",
    )


def _fractions(analysis: ProfileAnalysis) -> Table:
    rank = analysis.ranks[0]
    rows = []
    for name, estimate in rank.fractions.items():
        value, ends = shares(estimate)
        rows.append(cells(FRACTIONS[name], value, ends))
    if rank.pageable is not None:
        rows.append(cells("host-to-device bytes from pageable memory", percent(rank.pageable), ""))
    return Table(
        caption=f"Fractions of rank {rank.rank}",
        columns=columns("fraction", ">value", ">95 % interval"),
        rows=tuple(rows),
        note="Gaps may overlap each other here; the parts above do not. A dash: cannot be told.",
        csv="tables/fractions.csv",
    )


def _stragglers(analysis: ProfileAnalysis) -> list[Block]:
    found = analysis.stragglers
    if found is None:
        return [Paragraph(text=f"Waiting between ranks is not told: {analysis.no_stragglers}.")]
    rows = [
        cells(
            str(item.rank),
            str(int(found.last[place])),
            number(float(found.waiting[place].mean()) / 1e6),
            number(float(found.exposed[place].mean()) / 1e6),
        )
        for place, item in enumerate(analysis.ranks)
    ]
    note = f"{found.matched} collectives matched on all ranks, from {found.basis}"
    if found.unmatched:
        note += f"; {found.unmatched} of rank 0 have no partner and are left out"
    return [
        Table(
            caption="Who waits for whom",
            columns=columns(">rank", ">last to arrive", ">waits, ms per step", ">of it exposed"),
            rows=tuple(rows),
            note=f"{note}.",
        )
    ]


def _limits(analysis: ProfileAnalysis) -> Section:
    items = [clean(note.text) for note in analysis.notes]
    for rank in analysis.ranks:
        word = "within" if rank.explained else "above"
        items.append(
            f"Rank {rank.rank}: {number(rank.residual_ms)} ms of a step have no explanation, "
            f"{word} the limit of {number(rank.residual_limit_ms)} ms"
        )
    exported, steps = exported_steps(analysis), len(analysis.ranks[0].windows.start)
    if exported < steps:
        items.append(
            f"trace.json.gz holds the first {exported} of {steps} steps; python -m "
            "trainyard.profile export writes all of them"
        )
    items.append(
        "Times are of the profiled run: a profiler slows what it measures. Throughput comes from "
        "runs without one."
    )
    return Section(anchor="limits", title="What limits this", blocks=(Bullets(items=tuple(items)),))
