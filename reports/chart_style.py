"""What all charts share: colours, symbols and the frame of a drawing.

Text stays text (readable, searchable, and the reader's browser has the Japanese font that this machine may lack).
Positions therefore never depend on the width of a label as measured here: labels are single lines anchored at a
point, axis titles stand above the axes, and legends are HTML. Nothing is told by colour alone: every series has
its own symbol. Deterministic: fixed salt for ids, no date, no random choice.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from reports.svg import inline_svg

INK, MUTED, GRID = "#1b2430", "#566273", "#d5dbe3"
SKIP, DENSE, WARN, RIVAL, GOOD, PAPER = "#0b5fa5", "#737d8c", "#b4540a", "#6d3fc4", "#0f7a55", "#ffffff"
MARKERS: dict[str, tuple[str, str]] = {
    "sweep": ("o", SKIP),
    "chosen": ("D", SKIP),
    "dense": ("s", DENSE),
    "random_mask": ("X", WARN),
    "static_drop": ("v", RIVAL),
    "base_untuned": ("P", DENSE),
    "all_executed": ("^", GOOD),
    "guards_off": ("*", WARN),
    "estimate": ("_", MUTED),
}
"""Role -> matplotlib marker and colour; the HTML legend uses the same symbols."""
SYMBOLS = {
    "sweep": "●",
    "chosen": "◆",
    "dense": "■",
    "random_mask": "✖",
    "static_drop": "▼",
    "base_untuned": "✚",
    "all_executed": "▲",
    "guards_off": "★",
    "estimate": "―",
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "skiplayer-poc",
    "text.parse_math": False,
    "font.size": 12.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.unicode_minus": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "grid.color": GRID,
    "axes.axisbelow": True,
}
_PIXELS_PER_INCH = 72


@dataclass(frozen=True)
class Mark:
    """One measured point: position, 95 % bounds of y (None = not measured), role, label, and sweep index."""

    x: float
    y: float
    low: float | None
    high: float | None
    role: str
    label: str = ""
    index: int | None = None


@dataclass(frozen=True)
class Words:
    """Strings of a chart: accessible title and description, axis titles."""

    name: str
    title: str
    description: str
    x: str = ""
    y: str = ""


@contextmanager
def drawing(
    words: Words, width: int, height: int, margins: tuple[int, int, int, int]
) -> Iterator[tuple[Axes, list[str]]]:
    """Axes of a chart in page pixels; the finished SVG is appended to the yielded list.

    Margins are left, right, bottom and top, in pixels.
    """
    left, right, bottom, top = margins
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # a matplotlibrc on this machine must not change the page
        mpl.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font", category=UserWarning)
        figure = Figure(figsize=(width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH), dpi=_PIXELS_PER_INCH)
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_axes(
            (left / width, bottom / height, (width - left - right) / width, (height - bottom - top) / height)
        )
        axes.patch.set_visible(False)
        out: list[str] = []
        yield axes, out
        if words.y:
            figure.text(6 / width, 1 - 16 / height, words.y, ha="left", va="center", color=INK)
        if words.x:
            figure.text((width - right) / width, 12 / height, words.x, ha="right", va="center", color=INK)
        target = io.StringIO()
        figure.savefig(target, format="svg", metadata={"Date": None})
    out.append(inline_svg(target.getvalue(), words.name, words.title, words.description))
