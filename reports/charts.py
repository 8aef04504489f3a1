"""Charts of quality and time: numbers and final strings in, inline SVG out."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes

from reports.chart_labels import Box, place_labels, text_width
from reports.chart_style import DENSE, MARKERS, MUTED, PAPER, SKIP, WARN, Mark, Words, drawing


def quality_map(marks: Sequence[Mark], words: Words, limit: float | None, limit_label: str, off_scale: str) -> str:
    """Skip rate (x, counted work) against the rise of perplexity (y), with 95 % bars, controls and the chosen point.

    Points above the scale sit on its upper edge with their value written beside them: a random mask can be a hundred
    times worse than the sweep, and must not flatten the part of the chart that decides.

    Args:
        marks: points in drawing order; y and its bounds are fractions (0.02 = +2 %).
        words: strings of the chart.
        limit: registered limit of the rise, drawn as a line; None = none registered.
        limit_label: text on that line.
        off_scale: pattern with `{label}` and `{value}` for a point above the scale.
    """
    top = _scale_top([mark for mark in marks if mark.role in {"sweep", "chosen"}], marks, limit)
    bottom = min([0.0, *(mark.low if mark.low is not None else mark.y for mark in marks)])
    span = top - bottom
    right_edge = max([0.05, *(mark.x for mark in marks)]) * 1.25
    with drawing(words, 760, 440, (62, 26, 52, 40)) as (axes, out):
        axes.set_xlim(-right_edge * 0.03, right_edge)
        axes.set_ylim(bottom - span * 0.06, top + span * 0.1)
        axes.grid(True, linewidth=0.8)
        axes.axhline(0, color=MUTED, linewidth=1)
        if limit is not None and limit < top:
            axes.axhline(limit, color=WARN, linewidth=1.2, linestyle=(0, (5, 3)))
            axes.annotate(
                limit_label, (right_edge, limit), xytext=(-4, 7), textcoords="offset points", ha="right", color=WARN
            )
        labels: list[tuple[float, float, str]] = []
        bars: list[tuple[float, float, float]] = []
        for mark in marks:
            outside = mark.y > top
            y = top + span * 0.05 if outside else mark.y
            symbol, colour = MARKERS[mark.role]
            if not outside and mark.low is not None and mark.high is not None:
                bars.append((mark.x, mark.low, min(mark.high, top + span * 0.1)))
                axes.plot([mark.x, mark.x], bars[-1][1:], color=colour, linewidth=1.5)
            size = {"chosen": 13, "sweep": 8, "guards_off": 14}.get(mark.role, 10)
            edge = colour if symbol in "XP" else PAPER
            gid = None if mark.index is None else f"point-{mark.index}"
            axes.plot(
                [mark.x], [y], symbol, color=colour, markersize=size, markeredgecolor=edge, gid=gid, clip_on=False
            )
            text = off_scale.format(label=mark.label, value=f"{mark.y * 100:+,.0f}%").strip() if outside else mark.label
            labels.append((mark.x, y, text))
        place_labels(
            axes, labels, bars, _lines(axes, limit if limit is not None and limit < top else None, limit_label)
        )
        axes.xaxis.set_major_formatter(lambda value, _: f"{value * 100:.0f}%")
        axes.yaxis.set_major_formatter(lambda value, _: _signed_percent(value, span))
        axes.tick_params(length=3)
    return out[0]


def _lines(axes: Axes, limit: float | None, limit_label: str) -> list[Box]:
    """Places of the zero line, the limit line and the limit's text, for labels to keep clear of."""
    right, _ = axes.transAxes.transform((1.0, 0.0))
    boxes = []
    for value in (0.0, limit):
        if value is not None:
            column, row = axes.transData.transform((0.0, value))
            boxes.append(Box(column - 40, row - 1, right, row + 1))
    if limit is not None:
        row = boxes[-1].top
        boxes.append(Box(right - text_width(limit_label) - 8, row, right, row + 20))
    return boxes


def _signed_percent(value: float, span: float) -> str:
    digits = 0 if span > 0.04 else 1
    text = f"{abs(value) * 100:.{digits}f}%"
    return text if float(text[:-1]) == 0 else ("+" if value > 0 else "−") + text


def _scale_top(sweep: Sequence[Mark], marks: Sequence[Mark], limit: float | None) -> float:
    """Upper end of the y axis: all of it if the points are within one order, else what the sweep needs."""
    needed = max([0.02, (limit or 0) * 1.5, *sorted(mark.y for mark in sweep)[: max(1, (len(sweep) * 3 + 3) // 4)]])
    whole_sweep = max([needed, *(mark.high if mark.high is not None else mark.y for mark in sweep)])
    top = whole_sweep if whole_sweep <= needed * 4 else needed * 1.6
    everything = max([top, *(mark.high if mark.high is not None else mark.y for mark in marks)])
    return everything if everything <= top * 1.5 else top


def layer_bars(rates: Sequence[float], always_run: frozenset[int], words: Words, always_label: str) -> str:
    """Skip rate of each layer; layers that always run carry a symbol instead of an empty place."""
    with drawing(words, 760, 250, (54, 14, 52, 40)) as (axes, out):
        axes.bar(range(len(rates)), list(rates), color=SKIP, width=0.72)
        for layer in sorted(always_run):
            axes.plot([layer], [0], "|", color=DENSE, markersize=12, markeredgewidth=2, clip_on=False)
        top = max([0.05, *rates])
        axes.set_ylim(0, top * 1.15)
        axes.set_xlim(-0.7, len(rates) - 0.3)
        axes.grid(True, axis="y", linewidth=0.8)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value * 100:.0f}%")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True, nbins=16))
        axes.tick_params(length=3)
        if always_run:
            axes.figure.text(0.992, 0.93, f"┃ {always_label}", ha="right", va="center", color=MUTED)
    return out[0]


def time_chart(marks: Sequence[Mark], words: Words, unit: str) -> str:
    """Time per token against skip rate: measured skip and dense points, and the time the estimated ceiling implies."""
    top = max(mark.high if mark.high is not None else mark.y for mark in marks) * 1.12
    right_edge = max([0.05, *(mark.x for mark in marks)]) * 1.2
    with drawing(words, 760, 320, (62, 26, 52, 40)) as (axes, out):
        for role in ("dense", "estimate", "sweep"):
            line = sorted(((mark.x, mark.y) for mark in marks if mark.role == role), key=lambda pair: pair[0])
            symbol, colour = MARKERS[role]
            style = {"sweep": "-", "dense": ":", "estimate": "--"}[role]
            axes.plot([x for x, _ in line], [y for _, y in line], style, color=colour, linewidth=1.2)
            for mark in marks:
                if mark.role != role:
                    continue
                if mark.low is not None and mark.high is not None:
                    axes.plot([mark.x, mark.x], [mark.low, mark.high], color=colour, linewidth=1.6)
                axes.plot([mark.x], [mark.y], symbol, color=colour, markersize=9, markeredgewidth=1.5)
        for mark in marks:
            if mark.label:
                axes.axvline(mark.x, color=SKIP, linewidth=1, linestyle=(0, (1, 3)))
                axes.annotate(mark.label, (mark.x, 0), xytext=(7, 12), textcoords="offset points", va="center")
        axes.set_ylim(0, top)
        axes.set_xlim(-right_edge * 0.03, right_edge)
        axes.grid(True, linewidth=0.8)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value * 100:.0f}%")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.3g}{unit}")
        axes.tick_params(length=3)
    return out[0]
