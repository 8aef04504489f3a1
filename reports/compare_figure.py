"""The figure of a comparison: quality against executed work, every method with its intervals, as an SVG file.

Unlike the charts of the report it stands alone: it brings its colours, a legend and a background along. The vertical
scale is linear up to 2 % and logarithmic beyond, since a random mask can be a thousand times worse than the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from reports.chart_style import GRID, INK, MUTED, Words, drawing
from reports.messages import Catalog
from reports.svg import PALETTE

Row = Mapping[str, Any]
LINEAR_UP_TO = 0.02
WIDTH, HEIGHT = 1040, 600
MARGINS = (70, 330, 54, 44)
_STRIP_STEP = 0.011
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 100.0, 1000.0, 1e4, 1e6)

STYLES: dict[str, tuple[str, str, str]] = {
    "skiplayer": ("o", "#0b5fa5", "-"),
    "skiplayer_guards_off": ("*", "#3a9bdc", "--"),
    "skiplayer_closed_form": ("D", "#3a9bdc", ":"),
    "static_path": ("v", "#6d3fc4", "-"),
    "static_identity": ("v", "#a98be0", "--"),
    "truncated": ("h", "#8c5a9e", ":"),
    "random_mask": ("X", "#b4540a", "-"),
    "mixture_of_depths": ("p", "#b3261e", "-"),
    "early_exit": (">", "#8a6d00", "-"),
    "linear_router": ("d", "#5d6b00", "-"),
    "dense_tuned": ("s", "#1b2430", ""),
    "dense_continued": ("s", "#737d8c", ""),
    "base_untuned": ("P", "#737d8c", ""),
    "int8": ("8", "#0f7a55", ""),
    "all_executed": ("^", "#0f7a55", ""),
    "path_identity": ("v", "#6d3fc4", "--"),
    "path_adapter": ("^", "#6d3fc4", "-"),
    "router_bottleneck": ("p", "#b4540a", "-"),
    "kv_drop": ("X", "#b3261e", "-"),
    "unit_attention": ("<", "#0f7a55", "-"),
    "unit_ffn": (">", "#0f7a55", "--"),
    "unit_sublayers": ("D", "#0f7a55", ":"),
    "lora_off": ("d", "#8a6d00", "-"),
    "lora_on": ("d", "#8a6d00", "--"),
}
"""Method -> marker, colour, line, in the order of the legend; no two methods share marker and line."""
ABLATIONS = ("path_identity", "path_adapter", "router_bottleneck", "kv_drop", "unit_attention", "unit_ffn",
             "unit_sublayers", "lora_off", "lora_on")  # fmt: skip


def write_figures(rows: Sequence[Row], folder: Path, language: str) -> list[Path]:
    """Write compare.svg, and compare_ablations.svg where ablations were made; return the files.

    Args:
        rows: Rows of compare.json.
        folder: Where they go.
        language: ja or en.

    Raises:
        CatalogError: The language is unknown.
    """
    catalog = Catalog(language)
    ablated = {row["method"] for row in rows} & set(ABLATIONS)
    parts = {"compare": [row for row in rows if row["method"] not in ABLATIONS]}
    if ablated:
        parts["compare_ablations"] = [row for row in rows if row["method"] in (*ABLATIONS, "skiplayer", "dense_tuned")]
    files = []
    for name, part in parts.items():
        files.append(folder / f"{name}.svg")
        files[-1].write_text(compare_figure(part, catalog, name), encoding="utf-8")
    return files


def compare_figure(rows: Sequence[Row], catalog: Catalog, name: str = "compare") -> str:
    """Return the figure as an SVG document.

    Args:
        rows: method, seed, target_skip_rate, skip_rate, ppl_rise, low and high of each row; fractions.
        catalog: Language of the labels.
        name: File name; prefix of the ids.
    """
    methods = [method for method in STYLES if any(row["method"] == method for row in rows)]
    methods += sorted({row["method"] for row in rows} - set(methods))
    title = catalog.text("control.chart.ablations" if name.endswith("ablations") else "control.chart")
    words = Words(name.replace("_", "-"), title, catalog.text("control.chart.desc", n=len(methods)),
                  catalog.text("control.chart.x"), catalog.text("axis.ppl_rise"))  # fmt: skip
    points = {method: list(_points([row for row in rows if row["method"] == method])) for method in methods}
    standing = [method for method in methods if all(x == 0 for x, *_ in points[method])]
    with drawing(words, WIDTH, HEIGHT, MARGINS) as (axes, out):
        strip = _STRIP_STEP * (len(standing) + 1)
        right = max([0.05, *(x for series in points.values() for x, *_ in series)]) * 1.04
        axes.set_xlim(-strip, right)
        _scale(axes, [value for series in points.values() for _, *values in series for value in values])
        axes.grid(True, linewidth=0.8)
        axes.axhline(0, color=MUTED, linewidth=1)
        axes.axvline(0, color=GRID, linewidth=1.5)
        for method in methods:
            place = -strip + _STRIP_STEP * (standing.index(method) + 1) if method in standing else None
            _draw(axes, method, points[method], place)
        _legend(axes, methods, catalog)
        ticks = [share / 20 for share in range(1, 20) if share / 20 <= right]
        axes.set_xticks([-strip / 2, *ticks], [catalog.text("control.chart.none"), *(f"{1 - x:.0%}" for x in ticks)])
        axes.tick_params(length=3)
    return _stand_alone(out[0])


def _points(rows: Sequence[Row]) -> Iterator[tuple[float, float, float, float]]:
    """Skip rate, rise, and bounds per target: means over seeds, the bounds of the widest reach."""
    for target in sorted({row["target_skip_rate"] for row in rows}):
        group = [row for row in rows if row["target_skip_rate"] == target]
        rises = [row["ppl_rise"] for row in group]
        lows = [row["ppl_rise"] if row["low"] is None else row["low"] for row in group]
        highs = [row["ppl_rise"] if row["high"] is None else row["high"] for row in group]
        yield sum(row["skip_rate"] for row in group) / len(group), sum(rises) / len(rises), min(lows), max(highs)


def _scale(axes: Axes, values: Sequence[float]) -> None:
    low, high = min([-0.002, *values]), max([LINEAR_UP_TO, *values])
    axes.set_yscale("symlog", linthresh=LINEAR_UP_TO, linscale=1.2)
    axes.set_ylim(low * 1.15, high * 1.25)
    ticks = sorted({0.0, *_TICKS, *(-tick for tick in _TICKS)})
    shown = [tick for tick in ticks if low * 1.15 <= tick <= high * 1.25]
    axes.set_yticks(shown, [_percent(tick) for tick in shown])
    axes.yaxis.set_minor_locator(NullLocator())


def _percent(value: float) -> str:
    return "0%" if value == 0 else f"{'+' if value > 0 else '−'}{abs(value) * 100:,.0f}%"


def _style(method: str) -> tuple[str, str, str]:
    return STYLES.get(method, ("o", MUTED, ":"))


def _draw(
    axes: Axes, method: str, points: Sequence[tuple[float, float, float, float]], place: float | None
) -> None:  # fmt: skip
    """Draw one method: a line with bars, or, where nothing is skipped, one mark in the strip on the left."""
    marker, colour, line = _style(method)
    xs = [x if place is None else place for x, *_ in points]
    own = method == "skiplayer"
    for x, (_, _, low, high) in zip(xs, points, strict=True):
        axes.plot([x, x], [low, high], color=colour, linewidth=2.2 if own else 1.2)
    axes.plot(
        xs, [y for _, y, *_ in points], linestyle=line or "none", color=colour, marker=marker,
        linewidth=2.4 if own else 1.2, markersize=9 if own else 7, markeredgewidth=0.8, markeredgecolor="#ffffff",
        zorder=3 if own else 2,
    )  # fmt: skip


def _legend(axes: Axes, methods: Sequence[str], catalog: Catalog) -> None:
    for number, method in enumerate(methods):
        marker, colour, line = _style(method)
        height = 0.985 - number * 0.0455
        axes.plot(
            [1.025, 1.045, 1.065], [height] * 3, linestyle=line or "none", color=colour, marker=marker, markevery=[1],
            markersize=8, linewidth=1.6, transform=axes.transAxes, clip_on=False,
        )  # fmt: skip
        axes.text(1.08, height, catalog.family("control", method), transform=axes.transAxes, va="center", color=INK)


def _stand_alone(svg: str) -> str:
    """Give an inline SVG what the page of the report would: name space, colours, font, background."""
    if "xmlns=" not in svg[: svg.index(">")]:
        svg = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    rules = "".join(f".f-{name}{{fill:{colour}}}.s-{name}{{stroke:{colour}}}" for colour, name in PALETTE.items())
    font = 'text{font-family:system-ui,"Noto Sans JP","Hiragino Sans","Yu Gothic",sans-serif}'
    extra = f'<style>{font}{rules}</style><rect width="100%" height="100%" fill="#ffffff"/>'
    return re.sub(r"(<svg[^>]*>)", lambda match: match[1] + extra, svg, count=1) + "\n"
