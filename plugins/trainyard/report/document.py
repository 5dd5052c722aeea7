"""The report as data: one document, rendered to HTML and to PDF from the same texts.

Every text in here is plain. The renderers escape; nothing is ever markup.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure as Canvas

Tone = Literal["", "good", "warn", "bad", "quiet"]


@dataclass(kw_only=True, slots=True, frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    """What it says."""
    tone: Tone = ""
    """How it is set."""
    href: str = ""
    """Where it leads; http and https alone are rendered as links."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Column:
    """One column of a table."""

    title: str
    """Heading, with the unit."""
    numeric: bool = False
    """Set flush right with even digits."""
    wide: bool = False
    """May take the room the others leave."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Table:
    """A table with a caption, and the file that holds all of it."""

    caption: str
    """What it shows."""
    columns: tuple[Column, ...]
    """Headings."""
    rows: tuple[tuple[Cell, ...], ...]
    """Cells by row."""
    note: str = ""
    """Below the table: what was left out, what the marks mean."""
    csv: str = ""
    """File beside the report with every row."""
    kind: str = "table"


@dataclass(kw_only=True, slots=True, frozen=True)
class Figure:
    """A figure, drawn from one frame alone; that frame is written beside it."""

    name: str
    """File name without its ending."""
    title: str
    """What is shown; names the scaling mode."""
    caption: str
    """How to read it."""
    alt: str
    """What it says to somebody who does not see it."""
    frame: pd.DataFrame
    """The data behind it."""
    draw: Callable[[Canvas, pd.DataFrame], None]
    """Draws *frame* on an empty canvas."""
    height: float
    """Inches; the width is the style's."""
    kind: str = "figure"


@dataclass(kw_only=True, slots=True, frozen=True)
class Paragraph:
    """Running text."""

    text: str
    """What it says."""
    tone: Tone = ""
    """``warn`` and ``bad`` set it as a notice."""
    kind: str = "paragraph"


@dataclass(kw_only=True, slots=True, frozen=True)
class Bullets:
    """A list."""

    items: tuple[str, ...]
    """Its entries."""
    kind: str = "bullets"


@dataclass(kw_only=True, slots=True, frozen=True)
class Log:
    """The tail of a log."""

    title: str
    """Whose log."""
    text: str
    """The lines, as they are."""
    kind: str = "log"


Block = Table | Figure | Paragraph | Bullets | Log


@dataclass(kw_only=True, slots=True, frozen=True)
class Section:
    """A headed part of the report."""

    anchor: str
    """Name for links."""
    title: str
    """Heading."""
    blocks: tuple[Block, ...]
    """What it holds, in order."""


@dataclass(kw_only=True, slots=True, frozen=True)
class KeyFigure:
    """One number worth seeing first."""

    value: str
    """The number."""
    label: str
    """What it is."""
    detail: str
    """Interval and n."""


@dataclass(kw_only=True, slots=True, frozen=True)
class Document:
    """A whole report."""

    title: str
    """Names the scaling modes."""
    subtitle: str
    """Study, machine and time in a line."""
    summary: tuple[str, ...]
    """A few sentences made from the numbers."""
    key_figures: tuple[KeyFigure, ...]
    """At most four."""
    sections: tuple[Section, ...]
    """Everything else."""
    links: tuple[Cell, ...] = field(default=())
    """Pages of MLflow and Airflow."""
    files: tuple[tuple[str, str], ...] = (
        ("PDF", "report.pdf"),
        ("analysis.json", "analysis.json"),
        ("all runs, CSV", "tables/runs.csv"),
    )
    """Label and path of the files beside the page."""
    explained: str = "docs/report.md"
    """The page of the documentation that says how each number is made."""

    def figures(self) -> tuple[Figure, ...]:
        """Return every figure in order."""
        return tuple(
            block
            for section in self.sections
            for block in section.blocks
            if isinstance(block, Figure)
        )
