"""The figure of a benchmark: measured speed-up and estimated ceiling against skip rate, as an SVG file.

One series per phase, batch and prompt length. The line at 1 is the dense model on the same engine. Like the figure of
a comparison it stands alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from reports.chart_style import GRID, INK, MUTED, Words, drawing
from reports.compare_figure import _stand_alone
from reports.messages import Catalog

Row = Mapping[str, Any]
Series = tuple[str, int, int, str, str, int]
WIDTH, HEIGHT = 1040, 600
MARGINS = (70, 330, 54, 44)
MARKERS = ("o", "s", "v", "D", "^", "P", "X", "h", "<", ">", "p", "*")
COLOURS = ("#0b5fa5", "#b4540a", "#0f7a55", "#6d3fc4", "#b3261e", "#8a6d00", "#5d6b00", "#3a9bdc")
LINES = {"decode": "-", "prefill": "--"}
MAX_LEGEND = 22


def write_bench_figure(rows: Sequence[Row], path: Path, language: str) -> Path:
    """Write the figure and return its file.

    Args:
        rows: Rows of a benchmark document.
        path: File to write.
        language: ja or en.

    Raises:
        CatalogError: The language is unknown.
    """
    path.write_text(bench_figure(rows, Catalog(language)), encoding="utf-8")
    return path


def bench_figure(rows: Sequence[Row], catalog: Catalog) -> str:
    """Return the figure as an SVG document; rows without a timing are not in it.

    Args:
        rows: Rows of a benchmark document.
        catalog: Language of the labels.
    """
    timed = [row for row in rows if row["speedup"] is not None]
    groups: dict[Series, list[Row]] = {}
    for row in timed:
        groups.setdefault(_series(row), []).append(row)
    words = Words("bench", catalog.text("control.bench"), catalog.text("control.bench.desc", n=len(groups)),
                  catalog.text("control.bench.x"), catalog.text("control.bench.y"))  # fmt: skip
    with drawing(words, WIDTH, HEIGHT, MARGINS) as (axes, out):
        right = max([0.1, *(row["skip_rate"] for row in timed)]) * 1.06
        values = [1.0, *(value for row in timed for value in (row["speedup"], row["ceiling"]))]
        low, high = min(values), max(values)
        room = 0.12 * (high - low) + 0.05
        axes.set_xlim(-0.02, right)
        axes.set_ylim(low - room, high + room)
        axes.grid(True, linewidth=0.8)
        axes.axhline(1.0, color=MUTED, linewidth=1.4)
        axes.axvline(0, color=GRID, linewidth=1.5)
        ticks = [share / 10 for share in range(10) if share / 10 <= right]
        axes.set_xticks(ticks, [f"{share:.0%}" for share in ticks])
        variants = {series[3:5] for series in groups}
        for number, (series, group) in enumerate(sorted(groups.items())):
            look = (MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)], LINES[series[0]])
            _draw(axes, group, look)
            if number < MAX_LEGEND:
                _legend(axes, number, look, _label(series, catalog, has_variants=len(variants) > 1))
        for line, key in enumerate(("control.bench.trained", "control.bench.ceiling")):
            height = 0.985 - (min(len(groups), MAX_LEGEND) + line) * 0.041
            axes.text(1.025, height, catalog.text(key), transform=axes.transAxes, va="center", color=MUTED)
    return _stand_alone(out[0])


def _series(row: Row) -> Series:
    return (row["phase"], row["batch"], row["prompt"], row["dtype"], row["weights"], row["group_rows"])


def _label(series: Series, catalog: Catalog, *, has_variants: bool) -> str:
    phase, batch, prompt, dtype, weights, group_rows = series
    label = catalog.text("control.bench.series", phase=catalog.family("phase", phase), batch=batch, prompt=prompt)
    if has_variants:
        label += " · " + catalog.text("control.bench.variant", dtype=dtype, weights=weights)
    return label if group_rows == 0 else f"{label} · {group_rows}"


def _draw(axes: Axes, rows: Sequence[Row], look: tuple[str, str, str]) -> None:
    """Draw one series: measured marks with bars, joined where the routing is random, and the ceiling as dashes."""
    marker, colour, line = look
    rows = sorted(rows, key=lambda row: (row["skip_rate"], row["routing"], row["speedup"]))
    for row in rows:
        x = row["skip_rate"]
        if row["low"] is not None:
            axes.plot([x, x], [row["low"], row["high"]], color=colour, linewidth=1.3)
        axes.plot([x], [row["ceiling"]], linestyle="none", marker="_", color=colour, markersize=13, alpha=0.8)
        if row["routing"] == "trained":
            axes.plot([x], [row["speedup"]], linestyle="none", marker="o", markersize=14, markerfacecolor="none",
                      markeredgecolor=colour)  # fmt: skip
    random = [row for row in rows if row["routing"] == "random"]
    axes.plot([row["skip_rate"] for row in random], [row["speedup"] for row in random], linestyle=line, color=colour,
              linewidth=1.5)  # fmt: skip
    axes.plot([row["skip_rate"] for row in rows], [row["speedup"] for row in rows], linestyle="none", color=colour,
              marker=marker, markersize=7, markeredgewidth=0.8, markeredgecolor="#ffffff", zorder=3)  # fmt: skip


def _legend(axes: Axes, number: int, look: tuple[str, str, str], label: str) -> None:
    marker, colour, line = look
    height = 0.985 - number * 0.041
    axes.plot([1.025, 1.045, 1.065], [height] * 3, linestyle=line, color=colour, marker=marker, markevery=[1],
              markersize=8, linewidth=1.6, transform=axes.transAxes, clip_on=False)  # fmt: skip
    axes.text(1.08, height, label, transform=axes.transAxes, va="center", color=INK)
