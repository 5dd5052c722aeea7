"""The document as one HTML file: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trainyard.report import style

if TYPE_CHECKING:
    from trainyard.report.document import Document, Figure

TEMPLATES = Path(__file__).parent / "templates"
_NAMES = ("INK", "MUTED", "FAINT", "GRID", "PAPER", "BAND")
_HUES = ("BLUE", "ORANGE", "GREEN", "PURPLE", "AMBER", "SKY")
_COLOURS = {getattr(style, name): name.lower() for name in (*_NAMES, *_HUES)}


def render_html(document: Document, drawings: dict[str, str]) -> str:
    """Return the page; *drawings* are SVG texts by figure name."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["safe_href"] = safe_href
    figures = document.figures()
    inlined = {
        figure.name: Markup(inline_svg(drawings[figure.name], figure))  # noqa: S704 - our own SVG
        for figure in figures
    }
    numbers = {figure.name: place for place, figure in enumerate(figures, 1)}
    css = Markup((TEMPLATES / "report.css").read_text())  # noqa: S704 - our own style sheet
    page = environment.get_template("report.html.j2")
    return page.render(document=document, drawings=inlined, numbers=numbers, css=css)


def safe_href(url: str) -> str:
    """Return *url* when it is an http or https address, else "": no script in a link."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return url if parts.scheme in {"http", "https"} and parts.netloc else ""


def inline_svg(svg: str, figure: Figure) -> str:
    """Return *svg* fit for a page: named for screen readers, scaling, in the page's colours.

    Ids are made unique per figure, since a page has several figures and ids are global.
    """
    prefix = re.sub(r"[^a-z0-9]+", "-", figure.name)
    svg = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", svg)
    for colour, name in _COLOURS.items():
        svg = svg.replace(f": {colour}", f": var(--fig-{name}, {colour})")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    label = escape(figure.alt, quote=True)
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
