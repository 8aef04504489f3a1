"""Charts of money: monthly cost and the tornado of assumptions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes

from reports.chart_labels import text_width
from reports.chart_style import DENSE, INK, MUTED, PAPER, RIVAL, SKIP, WARN, Words, drawing


@dataclass(frozen=True)
class Bar:
    """One horizontal bar: name, length, printed value, role."""

    name: str
    value: float
    text: str
    role: str


def money_bars(bars: Sequence[Bar], words: Words) -> str:
    """Horizontal bars from zero with their value written at the end."""
    colours = {"dense": DENSE, "skip": SKIP, "api": RIVAL}
    top = max([1.0, *(bar.value for bar in bars)])
    with drawing(words, 760, 46 * len(bars) + 22, (200, 20, 8, 8)) as (axes, out):
        for row, bar in enumerate(bars):
            axes.barh([row], [bar.value], color=colours[bar.role], height=0.58)
            axes.annotate(bar.text, (bar.value, row), xytext=(7, 0), textcoords="offset points", va="center")
            axes.annotate(bar.name, (0, row), xytext=(-10, 0), textcoords="offset points", ha="right", va="center")
        _bare(axes, len(bars))
        axes.set_xlim(0, top * 1.3)
        axes.axvline(0, color=MUTED, linewidth=1)
    return out[0]


@dataclass(frozen=True)
class Swing:
    """One factor of the tornado: result at its low and at its high value, with the printed texts."""

    name: str
    low: float
    high: float
    low_text: str
    high_text: str


def tornado(swings: Sequence[Swing], words: Words, centre: float, centre_label: str) -> str:
    """How far one factor at a time moves the result, widest first; the zero line separates gain from loss.

    Every text stands outside its bar. When both ends lie on one side of the centre their texts stand side by side
    behind the longer bar, and ends that print alike share one text.
    """
    notes = [note for row, swing in enumerate(swings) for note in _notes(row, swing, centre)]
    with drawing(words, 760, 40 * len(swings) + 60, (200, 20, 30, 30)) as (axes, out):
        for row, swing in enumerate(swings):
            ends = [(swing.low, WARN), (swing.high, SKIP)]
            for value, colour in sorted(ends, key=lambda end: -abs(end[0] - centre)):  # the shorter one in front
                axes.barh([row], [value - centre], left=centre, color=colour, height=0.56)
            axes.annotate(
                swing.name,
                (0, row),
                xycoords=("axes fraction", "data"),
                xytext=(-10, 0),
                textcoords="offset points",
                ha="right",
                va="center",
            )
        _bare(axes, len(swings))
        axes.set_xlim(*_limits(swings, notes, centre, 540.0))
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.axvline(centre, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        for note in notes:
            axes.annotate(
                note.text,
                (note.value, note.row),
                xytext=(-6 if note.is_left else 6, 0),
                textcoords="offset points",
                ha="right" if note.is_left else "left",
                va="center",
                fontsize=_NOTE_SIZE,
                bbox=_NOTE_BOX,
            )
        axes.annotate("0", (0, len(swings) - 0.45), ha="center", va="top", color=MUTED, annotation_clip=False)
        axes.annotate(centre_label, (centre, -0.55), ha="center", va="bottom", annotation_clip=False)
    return out[0]


_NOTE_SIZE = 11.5
_NOTE_BOX: Any = {"facecolor": PAPER, "edgecolor": "none", "pad": 1.0}
"""Background of a text, so that the zero line does not strike through it."""


@dataclass(frozen=True)
class _Note:
    """A text at the outer end of a bar."""

    row: int
    value: float
    text: str
    is_left: bool


def _notes(row: int, swing: Swing, centre: float) -> list[_Note]:
    low, high = f"▽ {swing.low_text}", f"▲ {swing.high_text}"
    ends = sorted([(swing.low - centre, low), (swing.high - centre, high)])
    if swing.low_text == swing.high_text:
        outer = max(ends, key=lambda end: abs(end[0]))[0]
        return [_Note(row, centre + outer, f"▽▲ {swing.low_text}", outer < 0)]
    (first, left), (second, right) = ends
    if first < 0 < second:
        return [_Note(row, centre + first, left, True), _Note(row, centre + second, right, False)]
    is_left = second <= 0
    return [_Note(row, centre + (first if is_left else second), f"{left}  {right}", is_left)]


def _limits(swings: Sequence[Swing], notes: Sequence[_Note], centre: float, width: float) -> tuple[float, float]:
    """Ends of the money axis that leave room for every text; `width` is that of the axes in pixels."""
    values = [value for swing in swings for value in (swing.low, swing.high)] + [0.0, centre]
    low, high = min(values), max(values)
    pad = (high - low or 1.0) * 0.02
    low, high = low - pad, high + pad
    for _ in range(40):  # more room for a text makes every pixel worth more money; settles quickly
        per_pixel = (high - low) / width
        for note in notes:
            needed = (text_width(note.text, _NOTE_SIZE) + 12) * per_pixel
            if note.is_left:
                low = min(low, note.value - needed)
            else:
                high = max(high, note.value + needed)
    return low, high


def _bare(axes: Axes, n_rows: int) -> None:
    axes.set_ylim(n_rows - 0.5, -0.5)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
