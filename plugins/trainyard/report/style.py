"""How figures look: one palette, one type scale, files that are equal bit for bit."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2
PNG_DPI = 160

INK = "#1f2733"
MUTED = "#66717f"
FAINT = "#c9d0d8"
GRID = "#e8ebef"
PAPER = "#ffffff"
BAND = "#d5e4f0"

# Okabe & Ito's colours, darkened until each has 3:1 against white; told apart under all common
# forms of colour blindness, and always paired with a direct label or a marker.
BLUE = "#0b67a6"
ORANGE = "#c55a11"
GREEN = "#0f7d5c"
PURPLE = "#8a4f7d"
AMBER = "#d99a1c"
SKY = "#4c9fd0"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER)
MARKERS = ("o", "s", "D", "^", "v", "P")
PARTS = {"compute": BLUE, "input": AMBER, "communication": ORANGE}

FONTS = "'Inter','Helvetica Neue',Helvetica,Arial,'DejaVu Sans',sans-serif"
_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.labelsize": 8.0,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "text.color": INK,
    "axes.titlecolor": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
    "svg.hashsalt": "trainyard",
    "axes.unicode_minus": True,
}


def canvas(height: float) -> Figure:
    """Return an empty figure of the report's width; *height* in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def context() -> AbstractContextManager[None]:
    """Return the context manager under which figures are made and saved."""
    from matplotlib import rc_context

    return rc_context(_RC)


def svg(figure: Figure) -> str:
    """Return the figure as SVG text: no dates, no generated ids outside their use, web fonts.

    The text stays text (searchable, readable aloud) and takes the reader's own sans-serif face;
    positions were computed with a wider one, so that nothing can collide.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    # Group ids count up from the axes on and would repeat in a page with several figures.
    text = re.sub(r'<g id="[A-Za-z0-9_.]+_\d+">', "<g>", text)
    return re.sub(r"'DejaVu Sans'(, [^;\"]*)?", FONTS, text)


def png(figure: Figure) -> bytes:
    """Return the figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return buffer.getvalue()


def rank_axis(axes: Axes, ranks: list[int]) -> None:
    """Set the horizontal axis for numbers of ranks: those measured are the ticks."""
    axes.set_xlabel("ranks (training processes)")
    shown = sorted(set(ranks))
    if shown and shown[-1] > 4 * max(1, shown[0]):
        axes.set_xscale("log", base=2)
        axes.minorticks_off()
        axes.set_xlim(shown[0] / 1.5, shown[-1] * 1.7)
    elif shown:
        room = max(0.35, 0.12 * (shown[-1] - shown[0]))
        axes.set_xlim(shown[0] - room, shown[-1] + 2 * room)
    axes.set_xticks(shown, [str(n) for n in shown])
    axes.grid(visible=False, axis="x")


def plain_log(axes: Axes) -> None:
    """Label a logarithmic vertical axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _place: f"{value:,.10g}".replace(",", "\u202f"))


def end_labels(axes: Axes, labels: list[tuple[float, float, str, str]]) -> None:
    """Write (x, y, text, colour) labels right of their points, moved apart where they would touch.

    Call it once the axes have their limits: the places are found in shares of the axes' height.
    """
    apart = 0.068
    flat = axes.transData + axes.transAxes.inverted()
    places = [(float(flat.transform((x, y))[1]), x, text, colour) for x, y, text, colour in labels]
    below = -1.0
    for place, x, text, colour in sorted(places):
        below = max(place, below + apart)
        axes.annotate(
            text,
            (x, below),
            xycoords=("data", "axes fraction"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=7.5,
            annotation_clip=False,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8},
        )


def nothing(axes: Axes, why: str) -> None:
    """Say in an empty panel why it is empty."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.text(
        0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=MUTED, wrap=True
    )
