"""The charts of the report as files of their own, for a tracking server or a slide."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reports.messages import Catalog
from reports.result import validate
from reports.view import build_view
from reports.view_parts import Chart

SVG_NAMESPACE = 'xmlns="http://www.w3.org/2000/svg"'


def write_plots(result: dict[str, Any], folder: Path, language: str) -> list[Path]:
    """Write every chart of the report as `<name>.svg` and return the files, in the order of the report.

    Raises:
        ReportError: The result does not fit the schema, or the language is unknown.
    """
    validate(result)
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for chart in _charts(build_view(result, Catalog(language))):
        svg = str(chart.svg)
        if SVG_NAMESPACE not in svg:
            svg = svg.replace("<svg", f"<svg {SVG_NAMESPACE}", 1)
        files.append(folder / f"{chart.name}.svg")
        files[-1].write_text(svg, encoding="utf-8")
    return files


def _charts(value: Any) -> Iterator[Chart]:
    if isinstance(value, Chart):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _charts(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _charts(item)
