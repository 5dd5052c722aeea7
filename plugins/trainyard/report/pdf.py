"""The document as PDF, set by typst. Texts travel as JSON, so none of them can be markup."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainyard.report.html import safe_href

if TYPE_CHECKING:
    from trainyard.report.document import Block, Cell, Document, Table

TEMPLATES = Path(__file__).parent / "templates"


def render_pdf(document: Document, drawings: dict[str, str]) -> bytes:
    """Return the PDF; *drawings* are SVG texts by figure name.

    Uses the fonts that typst and matplotlib bring, never the machine's, so that a page breaks in
    the same place everywhere.
    """
    import matplotlib as mpl
    import typst

    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    with tempfile.TemporaryDirectory(prefix="trainyard-pdf-") as name:
        folder = Path(name)
        (folder / "report.typ").write_text((TEMPLATES / "report.typ").read_text())
        (folder / "report.json").write_text(json.dumps(plain(document), ensure_ascii=False))
        for figure, svg in drawings.items():
            (folder / f"{figure}.svg").write_text(svg, encoding="utf-8")
        compiler = typst.Compiler(
            str(folder / "report.typ"),
            root=name,
            font_paths=[str(fonts)],
            ignore_system_fonts=True,
        )
        made = compiler.compile(format="pdf", timestamp=0)
    if not isinstance(made, bytes):
        raise TypeError(f"typst returned {type(made).__name__} instead of one PDF")
    return made


def plain(document: Document) -> dict[str, Any]:
    """Return the document as JSON values; figures become the names of their SVG files."""
    return {
        "title": document.title,
        "subtitle": document.subtitle,
        "summary": list(document.summary),
        "keys": [
            {"value": key.value, "label": key.label, "detail": key.detail}
            for key in document.key_figures
        ],
        "links": [_cell(cell) for cell in document.links],
        "sections": [
            {"title": section.title, "blocks": [_block(block) for block in section.blocks]}
            for section in document.sections
        ],
    }


def _cell(cell: Cell) -> dict[str, str]:
    return {"text": cell.text, "tone": cell.tone, "href": safe_href(cell.href)}


def _block(block: Block) -> dict[str, Any]:
    kind = block.kind
    if kind == "table":
        return _table(block)  # type: ignore[arg-type]
    known = ("name", "title", "caption", "alt", "text", "tone")
    made: dict[str, Any] = {name: getattr(block, name) for name in known if hasattr(block, name)}
    if kind == "bullets":
        made["items"] = list(block.items)  # type: ignore[union-attr]
    return {"kind": kind, **made}


def _table(table: Table) -> dict[str, Any]:
    return {
        "kind": "table",
        "caption": table.caption,
        "note": table.note,
        "csv": table.csv,
        "columns": [
            {"title": column.title, "numeric": column.numeric, "wide": column.wide}
            for column in table.columns
        ],
        "rows": [[_cell(cell) for cell in row] for row in table.rows],
    }
