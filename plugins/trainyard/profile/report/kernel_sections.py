"""What the report says of kernels and operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainyard.profile.report.figures import figures_of, shortened
from trainyard.report.document import Paragraph, Section, Table
from trainyard.report.tables import cells, columns
from trainyard.report.text import NOTHING, clean, number, percent

if TYPE_CHECKING:
    from trainyard.profile.result import ProfileAnalysis, RankAnalysis

TABLES = {"kernels": "kernels, CSV", "operators": "operators, CSV"}
MOST_KERNELS = 20


def kernel_sections(analysis: ProfileAnalysis) -> list[Section]:
    """Return the section on kernels, or none where the first rank ran none."""
    rank = analysis.ranks[0]
    if rank.kernels is None or not rank.kernels.kernels:
        return []
    names = {"kernel_ranking", "roofline"}
    figures = [item for item in figures_of(analysis) if item.name in names]
    table = rank.kernels
    efficiency = (
        f"Kernel efficiency (time-weighted SOL over 95 % of the time): {table.efficiency:.0f} %. "
        if table.efficiency is not None
        else ""
    )
    text = (
        f"{efficiency}{table.launches_per_step:.0f} launches a step, "
        f"{percent(table.short_share, 0)} of them under 10 us; {percent(table.tensor_share, 0)} of "
        "the compute time is in kernels that use tensor cores."
    )
    return [
        Section(
            anchor="kernels",
            title="Kernels",
            blocks=(Paragraph(text=text), *figures, _kernel_table(rank)),
        )
    ]


def _kernel_table(rank: RankAnalysis) -> Table:
    kernels = rank.kernels.kernels if rank.kernels else ()
    steps = len(rank.windows.start)
    rows = [
        cells(
            shortened(clean(kernel.name)),
            number(kernel.calls / steps),
            number(kernel.total_ns / steps / 1e6),
            number(kernel.mean_ns / 1e3),
            percent(kernel.share),
            "communication" if kernel.collective else kernel.limit,
            {True: "yes", False: "no", None: NOTHING}[kernel.tensor],
            number(kernel.sol) if kernel.sol is not None else NOTHING,
        )
        for kernel in kernels[:MOST_KERNELS]
    ]
    return Table(
        caption=f"Kernels of rank {rank.rank}",
        columns=columns(
            "<kernel", ">calls per step", ">ms per step", ">mean, us", ">share", "limit", "tensor",
            ">SOL, %",
        ),
        rows=tuple(rows),
        note="A dash or unknown: counters unavailable for this kernel.",
        csv="tables/kernels.csv",
    )  # fmt: skip


def tables_with_rows(analysis: ProfileAnalysis) -> list[str]:
    """Return the tables that this profile has rows for."""
    rank = analysis.ranks[0]
    kernels = rank.kernels.kernels if rank.kernels is not None else ()
    return [name for name, rows in (("kernels", kernels), ("operators", rank.operators)) if rows]


def operator_sections(analysis: ProfileAnalysis) -> list[Section]:
    """Return the section on operators, or none where no trace has them."""
    rank = analysis.ranks[0]
    if not rank.operators:
        return []
    steps = len(rank.windows.start)
    rows = [
        cells(
            shortened(clean(item.name)),
            number(item.calls / steps),
            number(item.self_ns / steps / 1e6),
            percent(item.share),
        )
        for item in rank.operators[:MOST_KERNELS]
    ]
    table = Table(
        caption=f"Operators of rank {rank.rank} by the time they spend themselves",
        columns=columns("<operator", ">calls per step", ">ms per step", ">share"),
        rows=tuple(rows),
        note="On all threads, without the operators that an operator calls.",
        csv="tables/operators.csv",
    )
    return [Section(anchor="operators", title="Operators", blocks=(table,))]
