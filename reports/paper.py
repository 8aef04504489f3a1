"""The report as WeasyPrint can print it: plain layout, and the colours of the charts written out.

WeasyPrint lays nested grids out wrongly and does not apply the page's classes inside SVG, so it gets a style sheet
without grids and charts whose classes are turned back into the attributes they stand for.
"""

import importlib
import logging
import re
from pathlib import Path
from typing import Any

from reports.errors import ReportError
from reports.svg import PALETTE

STYLE = Path(__file__).with_name("templates") / "paper.css"
_SVG = re.compile(r"<svg.*?</svg>", re.DOTALL)
_CLASS = re.compile(r' class="([^"]*)"')
_COLOURS = {name: colour for colour, name in PALETTE.items()}
_DRAWN = {
    "how-run": f'fill="{_COLOURS["skip"]}"',
    "how-run-text": 'fill="#ffffff"',
    "how-skip": f'fill="none" stroke="{_COLOURS["muted"]}" stroke-dasharray="5 4"',
    "how-extra": f'fill="{_COLOURS["warn"]}"',
    "how-axis": f'fill="none" stroke="{_COLOURS["muted"]}"',
    "how-limit": f'stroke="{_COLOURS["warn"]}" stroke-dasharray="6 4"',
    "how-curve": f'fill="none" stroke="{_COLOURS["skip"]}"',
    "how-cross": f'stroke="{_COLOURS["warn"]}" stroke-width="3"',
    "grid-back": 'fill="#e3eefa"',
    "grid-cells": f'fill="none" stroke="{_COLOURS["skip"]}" stroke-width="0.82"',
    "grid-crit": f'fill="none" stroke="{_COLOURS["ink"]}" stroke-width="0.8"',
    "small": 'font-size="12.5"',
}


def by_weasyprint(html: Path) -> bytes:
    """PDF of a page, printed by WeasyPrint.

    Raises:
        ReportError: it is not installed.
    """
    try:
        weasyprint: Any = importlib.import_module("weasyprint")
    except ImportError as error:
        raise ReportError(
            "expected Chromium or WeasyPrint for the PDF, found neither; install chromium, or run "
            "pip install 'skiplayer-poc[pdf]', or print report.html from any browser"
        ) from error
    logging.getLogger("weasyprint").setLevel(logging.CRITICAL)  # rules of the page that only screens need
    page = coloured(html.read_text(encoding="utf-8"))
    plain = weasyprint.CSS(string=STYLE.read_text(encoding="utf-8"))
    document = weasyprint.HTML(string=page, url_fetcher=_refuse)
    content: bytes = document.write_pdf(stylesheets=[plain], pdf_identifier=b"skiplayer-poc")
    return content


def _refuse(url: str, *_: Any, **__: Any) -> Any:
    raise ReportError(f"expected a report that loads nothing, got a request for {url[:80]}")


def coloured(page: str) -> str:
    """The page with the classes of its drawings written as fill and stroke."""
    return _SVG.sub(lambda svg: _CLASS.sub(_attributes, svg[0]), page)


def _attributes(match: re.Match[str]) -> str:
    found = []
    for name in match[1].split():
        kind, _, colour = name.partition("-")
        if name in _DRAWN:
            found.append(_DRAWN[name])
        elif kind in {"f", "s"} and colour in _COLOURS:
            found.append(f'{"fill" if kind == "f" else "stroke"}="{_COLOURS[colour]}"')
    return "".join(f" {attribute}" for attribute in found)
