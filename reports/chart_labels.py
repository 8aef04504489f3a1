"""Labels of a chart that keep clear of each other, of the marks and of the lines; far ones get a leader line."""

import itertools
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from reports.chart_style import MUTED

HEIGHT = 16.0
"""Height of a label, page pixels."""


@dataclass(frozen=True)
class Box:
    """A rectangle in page pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box") -> float:
        """Shared area, square pixels."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.top, other.top) - max(self.bottom, other.bottom)
        return width * height if width > 0 and height > 0 else 0.0


def text_width(text: str, size: float = 12.5) -> float:
    """Estimated width of a label, page pixels: full-width characters one em, others 0.58 em."""
    return size * sum(1.0 if unicodedata.east_asian_width(character) in "WF" else 0.58 for character in text)


def place_labels(
    axes: Axes, points: Sequence[tuple[float, float, str]], bars: Sequence[tuple[float, float, float]], lines: list[Box]
) -> list[Box]:
    """Write labels beside their points, each at the nearest free place, and return the places.

    Greedy, from the crowded end (lowest skip rate) on. A label never covers another label or a mark as long as the
    drawing has room; keeping off interval bars and lines comes second, nearness third.

    Args:
        axes: finished axes; limits must be set.
        points: x, y and label of every mark; marks without a label are obstacles only.
        bars: x, low and high of every interval bar.
        lines: further places to keep clear of, in page pixels.
    """
    to_page = axes.transData.transform
    centres = [tuple(to_page((x, y))) for x, y, _ in points]
    marks = [Box(x - 8, y - 8, x + 8, y + 8) for x, y in centres]
    soft = list(lines)
    for x, low, high in bars:
        (column, foot), (_, head) = to_page((x, low)), to_page((x, high))
        soft.append(Box(column - 2, foot, column + 2, head))
    (left, bottom), (right, top) = axes.transAxes.transform((0.0, 0.0)), axes.transAxes.transform((1.0, 1.0))
    frame = Box(left, bottom - 4, right + 20, top + 10)
    taken: list[Box] = []
    order = sorted((centre, text) for centre, (_, _, text) in zip(centres, points, strict=True) if text)
    for (column, row), text in order:
        width = text_width(text)
        candidates = [_beside(column, row, width, radius, turn) for radius, turn in _DIRECTIONS]

        def cost(item: tuple[int, Box]) -> tuple[float, float, int]:
            place = item[1]
            outside = (place.right - place.left) * HEIGHT - place.overlap(frame)
            hard = outside + sum(place.overlap(other) for other in (*taken, *marks))
            return round(hard), round(sum(place.overlap(other) for other in soft)), item[0]

        place = min(enumerate(candidates), key=cost)[1]
        taken.append(place)
        _write(axes, (column, row), place, text)
    return taken


_DIRECTIONS = tuple(itertools.product((11.0, 20.0, 32.0, 46.0, 62.0, 80.0, 100.0), range(16)))
"""Distance in pixels and sixteenth of a turn (0 = to the right, then alternately up and down), nearest first."""


def _beside(column: float, row: float, width: float, radius: float, turn: int) -> Box:
    angle = (turn + 1) // 2 * (1 if turn % 2 else -1) * math.pi / 8
    x, y = column + radius * math.cos(angle), row + radius * math.sin(angle)
    if abs(math.cos(angle)) < 0.3:  # above or below: centred
        left, middle = x - width / 2, y + math.copysign(HEIGHT / 2, math.sin(angle)) * 0.6
    else:
        left, middle = (x if math.cos(angle) > 0 else x - width), y
    return Box(left, middle - HEIGHT / 2, left + width, middle + HEIGHT / 2)


def _write(axes: Axes, point: tuple[float, float], place: Box, text: str) -> None:
    column, row = point
    middle = (place.bottom + place.top) / 2
    is_left = (place.left + place.right) / 2 < column
    anchor = place.right if is_left else place.left
    # The point of the label's edge that is nearest to the mark.
    end_x = min(max(column, place.left), place.right)
    end_y = min(max(row, place.bottom + 3), place.top - 3)
    if math.hypot(end_x - column, end_y - row) > 15:
        to_data = axes.transData.inverted().transform
        (x0, y0), (x1, y1) = to_data((column, row)), to_data((end_x, end_y))
        axes.plot([x0, x1], [y0, y1], color=MUTED, linewidth=0.9, zorder=1.6, clip_on=False)
    axes.annotate(
        text,
        tuple(axes.transData.inverted().transform((column, row))),
        xytext=(anchor - column, middle - row),
        textcoords="offset points",
        ha="right" if is_left else "left",
        va="center",
    )
