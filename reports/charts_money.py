"""Charts of money: monthly cost and the tornado of assumptions."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from reports.chart_style import DENSE, INK, LABEL_BOX, MUTED, RIVAL, SKIP, WARN, Words, drawing


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
    """How far one factor at a time moves the result, widest first; the zero line separates gain from loss."""
    values = [value for swing in swings for value in (swing.low, swing.high)] + [0.0, centre]
    span = (max(values) - min(values)) or 1.0
    with drawing(words, 760, 40 * len(swings) + 60, (200, 20, 30, 30)) as (axes, out):
        for row, swing in enumerate(swings):
            for value, text, colour in ((swing.low, swing.low_text, WARN), (swing.high, swing.high_text, SKIP)):
                axes.barh([row], [value - centre], left=centre, color=colour, height=0.56)
                is_left = value < centre or (value == centre and text == swing.low_text)
                axes.annotate(
                    text,
                    (value, row),
                    xytext=(-6 if is_left else 6, 0),
                    textcoords="offset points",
                    ha="right" if is_left else "left",
                    va="center",
                    fontsize=11.5,
                    bbox=LABEL_BOX,
                )
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
        axes.set_xlim(min(values) - span * 0.24, max(values) + span * 0.24)
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.axvline(centre, color=INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.annotate("0", (0, len(swings) - 0.45), ha="center", va="top", color=MUTED, annotation_clip=False)
        axes.annotate(centre_label, (centre, -0.55), ha="center", va="bottom", annotation_clip=False)
    return out[0]


def _bare(axes: Axes, n_rows: int) -> None:
    axes.set_ylim(n_rows - 0.5, -0.5)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_xticks([])
    axes.set_yticks([])
