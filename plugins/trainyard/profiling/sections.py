"""What a report says beyond the trace: the profiler's cost, and a change that was tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainyard.report.document import Cell, Paragraph, Section, Table
from trainyard.report.tables import cells, columns
from trainyard.report.text import clean, number, scaled, shares

if TYPE_CHECKING:
    from trainyard.analysis.statistics import Estimate
    from trainyard.profiling.collect import Profiled
    from trainyard.profiling.pairs import Overhead
    from trainyard.store.profiles import ProfileRow


def overhead_section(found: Overhead, profiler: str) -> Section:
    """Return what *profiler* cost, by the paired runs."""
    rows = []
    for label, value, what in (
        ("before the captured steps", found.outside, "timed steps with and without it"),
        ("captured steps", found.inside, "captured and timed steps of the same runs"),
    ):
        share, ends = shares(value)
        rows.append(cells(label, share, ends, str(value.n if value else 0), what))
    table = Table(
        caption=f"Slowdown by {profiler}",
        columns=columns("<part of the run", ">slower by", ">95 % interval", ">runs", "<compared"),
        rows=tuple(rows),
        note="Ratio of medians over runs less 1. One pair has no interval: repeat it.",
    )
    return Section(anchor="overhead", title="What profiling cost", blocks=(table,))


def tried_section(
    change: str, before: list[float], after: list[float], speedup: Estimate | None
) -> Section:
    """Return what the change did to runs that no profiler watched, in images per second."""
    from trainyard.analysis.statistics import estimate

    rows = []
    for label, rates in (("before", before), ("after", after)):
        value, ends = scaled(estimate(rates))
        rows.append(cells(label, value, ends, str(len(rates))))
    table = Table(
        caption="Throughput without profiler",
        columns=columns("<runs", ">image/s", ">95 % interval", ">n"),
        rows=tuple(rows),
        note="Median over runs.",
    )
    return Section(
        anchor="tried",
        title="Before and after",
        blocks=(Paragraph(text=clean(tried_sentence(change, speedup))), table),
    )


def tried_sentence(change: str, speedup: Estimate | None) -> str:
    """Return the outcome in one sentence."""
    if speedup is None:
        return f"{change}: no run without profiler measured a throughput on both sides."
    ends = ""
    if speedup.low is not None and speedup.high is not None:
        ends = f" (95 % interval {number(speedup.low)} to {number(speedup.high)})"
    doubt = ""
    if speedup.contains(1.0):
        doubt = " The interval holds 1: these runs cannot tell it from no change; more pairs can."
    return f"{change}: {number(speedup.value)} times the throughput{ends}.{doubt}"


def linked_section(row: ProfileRow, found: Profiled, url: str) -> Section:
    """Return what a study's report says about the profile taken after its runs, with the link."""
    verdict = found.analysis.verdict
    rows = [
        (*cells("report on the profile"), Cell(text=row.report_uri, href=url)),
        cells("configuration", f"{found.member.row.spec.ranks} ranks, run {row.run_id}"),
        cells("profiler", f"{row.profiler}, {row.steps} captured steps"),
    ]
    rows += [
        cells("could be saved per step", f"{item.name}: {number(item.ms.value)} ms at most")
        for item in verdict.recoverable
    ]
    if row.suggestion_field:
        tried = f"{row.suggestion_field} = {row.suggestion_to}: {row.suggestion_why}"
        rows.append(cells("try next", clean(tried)))
    table = Table(
        caption="The profile of one configuration",
        columns=columns("what", "<found"),
        rows=tuple(rows),
        note="Taken after the measured runs; none of its times is among them. The link holds a "
        "week, the address in the object store stays.",
    )
    headline = Paragraph(text=clean(f"{verdict.headline}."))
    return Section(anchor="profile", title="Where a step's time goes", blocks=(headline, table))


def missing_section(why: str) -> Section:
    """Return what a study's report says when its profile cannot be read."""
    text = Paragraph(text=clean(f"No profile: {why}"), tone="warn")
    return Section(anchor="profile", title="Where a step's time goes", blocks=(text,))
