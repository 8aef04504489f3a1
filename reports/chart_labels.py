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
    drawing has room; then leader lines cross nothing, then labels keep off interval bars and lines, then they are near.

    Args:
        axes: finished axes; limits must be set.
        points: x, y and label of every mark; marks without a label are obstacles only.
        bars: x, low and high of every interval bar.
        lines: further places to keep clear of, in page pixels.
    """
    to_page = axes.transData.transform
    centres = [(float(column), float(row)) for column, row in (to_page((x, y)) for x, y, _ in points)]
    marks = [Box(x - 8, y - 8, x + 8, y + 8) for x, y in centres]
    soft = list(lines)
    for x, low, high in bars:
        (column, foot), (_, head) = to_page((x, low)), to_page((x, high))
        soft.append(Box(column - 2, foot, column + 2, head))
    (left, bottom), (right, top) = axes.transAxes.transform((0.0, 0.0)), axes.transAxes.transform((1.0, 1.0))
    frame = Box(left, bottom - 4, right + 20, top + 10)
    taken: list[Box] = []
    leaders: list[Box] = []
    order = sorted((centre, text) for centre, (_, _, text) in zip(centres, points, strict=True) if text)
    for centre, text in order:
        width = text_width(text)
        # A mark that all but coincides with this one cannot be kept clear of the leader line.
        others = [mark for mark in marks if math.hypot(mark.left + 8 - centre[0], mark.bottom + 8 - centre[1]) > 14]
        costs: list[tuple[int, int, int, int]] = []
        places = [_beside(*centre, width, radius, turn) for radius, turn in _DIRECTIONS]
        for rank, place in enumerate(places):
            leader = _leader(centre, place)
            outside = width * HEIGHT - place.overlap(frame)
            covered = outside + sum(place.overlap(other) for other in (*taken, *marks))
            crossed = sum(dot.overlap(other) for dot in leader for other in (*taken, *others, *leaders))
            touched = sum(place.overlap(other) for other in (*soft, *leaders))
            costs.append((round(covered), round(crossed), round(touched), rank))
        place = places[min(costs)[3]]
        taken.append(place)
        leaders.extend(_leader(centre, place))
        _write(axes, centre, place, text)
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


def _nearest(point: tuple[float, float], place: Box) -> tuple[float, float]:
    """Where a leader line from a mark meets its label."""
    column, row = point
    return min(max(column, place.left), place.right), min(max(row, place.bottom + 3), place.top - 3)


def _leader(point: tuple[float, float], place: Box) -> list[Box]:
    """The leader line of a label as a row of dots."""
    (x0, y0), (x1, y1) = point, _nearest(point, place)
    steps = [step / 12 for step in range(1, 12)]
    dots = [(x0 + (x1 - x0) * share, y0 + (y1 - y0) * share) for share in steps]
    return [Box(x - 2, y - 2, x + 2, y + 2) for x, y in dots]


def _write(axes: Axes, point: tuple[float, float], place: Box, text: str) -> None:
    column, row = point
    middle = (place.bottom + place.top) / 2
    is_left = (place.left + place.right) / 2 < column
    anchor = place.right if is_left else place.left
    end_x, end_y = _nearest(point, place)
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
