"""Chart of the weekly history: one figure of every run in order, with its interval and the registered limit."""

from collections.abc import Sequence

from reports.chart_style import DENSE, INK, SKIP, WARN, Words, drawing

Point = tuple[float, float | None, float | None]
"""Value and its bounds; None = no bound."""


def history_chart(points: Sequence[Point | None], words: Words, limit: float | None, unit: str, factor: float) -> str:
    """Values of the runs from left (oldest) to right.

    Args:
        points: one entry per run; None = not measured, which leaves a gap with a dash on the axis.
        words: strings of the chart.
        limit: registered limit, drawn as a dashed line; None = none.
        unit: written after each value of the axis.
        factor: from the stored value to the shown one (100 for per cent).
    """
    with drawing(words, 370, 210, (66, 16, 44, 34)) as (axes, out):
        measured = [(index, point) for index, point in enumerate(points) if point is not None]
        for index, (value, low, high) in measured:
            ends = (value if low is None else low, value if high is None else high)
            axes.plot([index, index], [end * factor for end in ends], color=SKIP, linewidth=1.6)
        axes.plot(
            [index for index, _ in measured], [p[0] * factor for _, p in measured], "o-", color=SKIP, markersize=7
        )
        for index, point in enumerate(points):
            if point is None:
                axes.plot([index], [0.02], "_", color=DENSE, markersize=12, transform=axes.get_xaxis_transform())
        if limit is not None:
            axes.axhline(limit * factor, color=WARN, linewidth=1.2, linestyle=(0, (5, 3)))
        axes.set_xlim(-0.5, len(points) - 0.5)
        axes.set_xticks(range(len(points)), [str(index + 1) for index in range(len(points))])
        axes.margins(y=0.15)
        axes.grid(True, axis="y", linewidth=0.8)
        axes.tick_params(length=3, labelcolor=INK)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.3g}{unit}".replace("-", "−"))
    return out[0]
