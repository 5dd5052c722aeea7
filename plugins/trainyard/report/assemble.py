"""``build``: from a study's data to a folder with everything a reader can ask for."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from trainyard.analysis import Analysis, StudyData, analyse
from trainyard.report import style
from trainyard.report.exports import analysis_json, csv_text, frame_json, tables_of
from trainyard.report.html import render_html
from trainyard.report.pdf import render_pdf
from trainyard.report.sections import document_of

if TYPE_CHECKING:
    from trainyard.report.document import Document, Figure, Section


@dataclass(kw_only=True, slots=True, frozen=True)
class ReportFiles:
    """What ``build`` wrote."""

    folder: Path
    """Holds everything."""
    html: Path
    """The report in one self-contained file."""
    pdf: Path
    """The same report for print."""
    figures: tuple[Path, ...]
    """SVG, PNG, CSV and JSON of every figure."""
    tables: tuple[Path, ...]
    """CSV of the full tables, and analysis.json."""


def build(
    data: StudyData,
    folder: Path,
    *,
    timings: dict[str, float] | None = None,
    more: tuple[Section, ...] = (),
) -> ReportFiles:
    """Write the report on *data* as *folder*, replacing an older one in one step.

    The same data give the same bytes in every HTML, SVG, PNG, CSV and JSON file. Partial data give
    a report that says what is missing. Raises ``OSError`` when the folder cannot be written; the
    older report is then still there. *timings*, when given, receives the seconds of each part;
    *more* are sections at the end.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        aside.chmod(0o755)
        names = _write(data, aside, {} if timings is None else timings, more)
        replace_folder(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return ReportFiles(
        folder=folder,
        html=folder / "report.html",
        pdf=folder / "report.pdf",
        figures=tuple(folder / name for name in names if name.startswith("figures/")),
        tables=tuple(folder / name for name in names if not name.startswith("figures/")),
    )


def _write(
    data: StudyData, folder: Path, timings: dict[str, float], more: tuple[Section, ...]
) -> list[str]:
    with _timed(timings, "analysis"):
        analysis = analyse(data)
        document = document_of(data, analysis)
        document = replace(document, sections=(*document.sections, *more))
    with _timed(timings, "tables"):
        names = _tables(data, analysis, folder)
    with _timed(timings, "figures"):
        drawings = draw_all(document, folder, names)
    with _timed(timings, "html"):
        (folder / "report.html").write_text(render_html(document, drawings), encoding="utf-8")
    with _timed(timings, "pdf"):
        (folder / "report.pdf").write_bytes(render_pdf(document, drawings))
    return names


@contextmanager
def _timed(timings: dict[str, float], part: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    timings[part] = time.perf_counter() - began


def _tables(data: StudyData, analysis: Analysis, folder: Path) -> list[str]:
    (folder / "tables").mkdir()
    names = []
    for name, frame in tables_of(data, analysis).items():
        (folder / "tables" / f"{name}.csv").write_text(csv_text(frame), encoding="utf-8")
        names.append(f"tables/{name}.csv")
    (folder / "analysis.json").write_text(analysis_json(data, analysis), encoding="utf-8")
    return [*names, "analysis.json"]


def draw_all(document: Document, folder: Path, names: list[str]) -> dict[str, str]:
    """Write four files per figure; return the SVG texts by figure name."""
    (folder / "figures").mkdir()
    drawings = {}
    with style.context():
        for figure in document.figures():
            svg, png = draw(figure)
            drawings[figure.name] = svg
            about = {"title": figure.title, "caption": figure.caption}
            contents = {
                "svg": svg.encode(),
                "png": png,
                "csv": csv_text(figure.frame).encode(),
                "json": frame_json(figure.frame, about).encode(),
            }
            for ending, content in contents.items():
                names.append(f"figures/{figure.name}.{ending}")
                (folder / names[-1]).write_bytes(content)
    return drawings


def draw(figure: Figure) -> tuple[str, bytes]:
    """Return *figure* as SVG text and PNG bytes; call it under ``style.context()``."""
    canvas = style.canvas(figure.height)
    figure.draw(canvas, figure.frame)
    svg = style.svg(canvas)
    canvas.set_layout_engine("none")  # both files share the one layout, computed once
    return svg, style.png(canvas)


def replace_folder(aside: Path, folder: Path) -> None:
    """Put *aside* in the place of *folder*; a reader sees the old or the new, never a mixture."""
    if not folder.exists():
        aside.rename(folder)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    folder.rename(old / "report")
    try:
        aside.rename(folder)
    except OSError:
        (old / "report").rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
