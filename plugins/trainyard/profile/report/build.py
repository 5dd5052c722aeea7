"""``build``: a profile's folder, replaced in one step."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from trainyard.profile.report.comparison import comparison_document
from trainyard.profile.report.document import document_of
from trainyard.profile.report.export import exported_steps, write_perfetto
from trainyard.profile.report.parts import columns_of
from trainyard.profile.report.timeline import timeline_html
from trainyard.report.assemble import draw_all, replace_folder
from trainyard.report.exports import csv_text, json_text
from trainyard.report.html import render_html
from trainyard.report.pdf import render_pdf

if TYPE_CHECKING:
    from trainyard.profile.compare import Comparison
    from trainyard.profile.result import ProfileAnalysis, RankAnalysis
    from trainyard.report.document import Document, Section


@dataclass(kw_only=True, slots=True, frozen=True)
class ProfileFiles:
    """What was written."""

    folder: Path
    """Holds everything."""
    html: Path
    """The report."""
    pdf: Path
    """The same for print."""
    timeline: Path | None
    """Every event, zoomable; None for a comparison."""
    trace: Path | None
    """The trace for Perfetto; None for a comparison."""
    json: Path
    """Every number."""


def build(
    analysis: ProfileAnalysis,
    folder: Path,
    *,
    title: str = "Profile of a training step",
    more: tuple[Section, ...] = (),
) -> ProfileFiles:
    """Write the report on *analysis* as *folder*, replacing an older one in one step.

    *more* are sections at its end. Raises ``OSError`` when the folder cannot be written; the older
    one is then still there.
    """

    def write(aside: Path) -> None:
        document = document_of(analysis, title)
        _write(replace(document, sections=(*document.sections, *more)), aside)
        for name, frame in tables_of(analysis).items():
            (aside / "tables" / f"{name}.csv").write_text(csv_text(frame), encoding="utf-8")
        (aside / "analysis.json").write_text(json_text(numbers_of(analysis)), encoding="utf-8")
        (aside / "timeline.html").write_text(timeline_html(analysis, title), encoding="utf-8")
        write_perfetto(analysis, aside / "trace.json.gz", steps=exported_steps(analysis))

    folder = _replaced(folder, write)
    return ProfileFiles(
        folder=folder,
        html=folder / "report.html",
        pdf=folder / "report.pdf",
        timeline=folder / "timeline.html",
        trace=folder / "trace.json.gz",
        json=folder / "analysis.json",
    )


def build_comparison(
    found: Comparison,
    before: ProfileAnalysis,
    after: ProfileAnalysis,
    folder: Path,
    *,
    title: str = "Two profiles compared",
    more: tuple[Section, ...] = (),
    first: tuple[str, ...] = (),
) -> ProfileFiles:
    """Write the report on a comparison as *folder*, replacing an older one in one step.

    *more* are sections before the others, *first* are sentences before the summary.
    """

    def write(aside: Path) -> None:
        document = comparison_document(found, before, after, title)
        summary = (*first, *document.summary)
        sections = (*more, *document.sections)
        _write(replace(document, summary=summary, sections=sections), aside)
        rows = [_flat(item) for item in found.kernels]
        (aside / "tables" / "kernels.csv").write_text(
            csv_text(pd.DataFrame(rows)), encoding="utf-8"
        )
        (aside / "comparison.json").write_text(json_text(found), encoding="utf-8")

    folder = _replaced(folder, write)
    return ProfileFiles(
        folder=folder,
        html=folder / "report.html",
        pdf=folder / "report.pdf",
        timeline=None,
        trace=None,
        json=folder / "comparison.json",
    )


def _replaced(folder: Path, write: Callable[[Path], None]) -> Path:
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        aside.chmod(0o755)
        (aside / "tables").mkdir()
        write(aside)
        replace_folder(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return folder


def _write(document: Document, folder: Path) -> None:
    names: list[str] = []
    drawings = draw_all(document, folder, names)
    (folder / "report.html").write_text(render_html(document, drawings), encoding="utf-8")
    (folder / "report.pdf").write_bytes(render_pdf(document, drawings))


def _flat(item: Any) -> dict[str, Any]:
    row = asdict(item)
    lost = row.pop("lost")
    return {**row, **{f"lost_{key}": lost[key] for key in ("value", "low", "high")}}


def tables_of(analysis: ProfileAnalysis) -> dict[str, pd.DataFrame]:
    """Return the full tables by file name without ending."""
    parts, fractions, kernels, operators = [], [], [], []
    for item in analysis.ranks:
        frame = (item.frame / 1e6).assign(rank=item.rank)
        parts.append(frame.reset_index(names="step"))
        for name, found in item.fractions.items():
            row = {"rank": item.rank, "fraction": name}
            known = asdict(found) if found else {}
            fractions.append({**row, **{key: known.get(key) for key in ("value", "low", "high")}})
        for kernel in item.kernels.kernels if item.kernels else ():
            row = asdict(kernel)
            row.pop("per_step")
            kernels.append({"rank": item.rank, **row, "mean_ns": kernel.mean_ns})
        operators += [{"rank": item.rank, **asdict(found)} for found in item.operators]
    made = {
        "parts": pd.concat(parts, ignore_index=True),
        "fractions": pd.DataFrame(fractions),
    }
    for name, rows in (("kernels", kernels), ("operators", operators)):
        if rows:
            made[name] = pd.DataFrame(rows)
    return made


def numbers_of(analysis: ProfileAnalysis) -> dict[str, Any]:
    """Return every number of the analysis as plain values; times of parts in ms per step."""
    verdict = analysis.verdict
    return {
        "mode": analysis.mode,
        "ranks": [_rank_numbers(item) for item in analysis.ranks],
        "stragglers": _waiting(analysis),
        "verdict": {
            "bound": verdict.bound,
            "headline": verdict.headline,
            "slow_rank": verdict.slow_rank,
            "shares": {part.value: found for part, found in verdict.shares.items()},
            "findings": verdict.findings,
            "controls": verdict.controls,
            "controls_bound": verdict.controls_bound,
            "recoverable": verdict.recoverable,
            "suggestions": verdict.suggestions,
        },
        "notes": analysis.notes,
        "counters": analysis.counters,
        "events": analysis.trace.total,
    }


def _rank_numbers(item: RankAnalysis) -> dict[str, Any]:
    return {
        "rank": item.rank,
        "steps": len(item.windows.start),
        "named_steps": item.windows.named,
        "step_ms": item.step_ms,
        "parts_ms": {part: float(item.frame[part].mean()) / 1e6 for part in columns_of(item.mode)},
        "fractions": item.fractions,
        "pageable": item.pageable,
        "data_basis": item.data_basis,
        "residual_ms": item.residual_ms,
        "residual_limit_ms": item.residual_limit_ms,
        "profiler_overhead": item.overhead,
        "kernels": item.kernels,
        "operators": item.operators,
    }


def _waiting(analysis: ProfileAnalysis) -> dict[str, Any]:
    found = analysis.stragglers
    if found is None:
        return {"unknown_because": analysis.no_stragglers}
    return {
        "matched": found.matched,
        "unmatched": found.unmatched,
        "basis": found.basis,
        "last": found.last.tolist(),
        "waiting_ms": (found.waiting.mean(axis=1) / 1e6).tolist(),
        "exposed_ms": (found.exposed.mean(axis=1) / 1e6).tolist(),
    }
