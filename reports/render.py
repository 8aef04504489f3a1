"""View -> one self-contained HTML file. The only file that imports Jinja2.

The page makes no request: style, script and charts are inside it, and a content security policy that allows exactly
these two blocks by hash says so to the browser. Same result and language give the same bytes.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports.errors import ReportError
from reports.files import write_whole
from reports.messages import Catalog
from reports.result import validate
from reports.view import ReportView, build_view
from reports.view_history import History, build_history

TEMPLATES = Path(__file__).with_name("templates")


def render(result: dict[str, Any], language: str) -> str:
    """The management report of a result.

    Args:
        result: parsed result.json; validated here.
        language: `ja` or `en`.

    Raises:
        ResultError: when the result does not follow the contract.
        CatalogError: when the language is unknown.
    """
    return render_with(result, Catalog(language))


def render_with(result: dict[str, Any], catalog: Catalog) -> str:
    """As `render`, with a catalog of the caller's (whose record of used messages the tests read)."""
    validate(result)
    return _page("report.html.j2", build_view(result, catalog), catalog)


def render_history(results: Sequence[dict[str, Any]], language: str) -> str:
    """One page that sets several results of a PoC side by side, oldest first.

    Raises:
        ReportError: no result is given, one does not follow the contract, or the language is unknown.
    """
    if not results:
        raise ReportError("expected at least one result to compare, got none; name the run folders")
    for result in results:
        validate(result)
    catalog = Catalog(language)
    return _page("history.html.j2", build_history(results, catalog), catalog)


def _page(template: str, view: ReportView | History, catalog: Catalog) -> str:
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8") + _page_marker(view.marker)
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    values = {"view": view, "t": catalog.text, "style": Markup(style), "script": Markup(script), "policy": policy}
    return _environment().get_template(template).render(values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Charts are built by reports.svg, which escapes every string it is given.
    environment.filters["inline"] = Markup
    return environment


def _page_marker(marker: str) -> str:
    """Margin boxes of printed pages: whether in-house text is shown, and the page number.

    Args:
        marker: sentence out of the catalog, without quotes and backslashes (a test holds it to that).
    """
    return (
        f'@page {{ @bottom-left {{ content: "{marker}"; font-size: 8px; color: #566273; }} '
        '@bottom-right { content: counter(page) " / " counter(pages); font-size: 8px; color: #566273; } }\n'
    )


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def write_report(result: dict[str, Any], path: Path, language: str) -> None:
    """Render a result into a file, replacing it in one step: a reader never sees half a report.

    Raises:
        ReportError: as `render`, or when the file cannot be written.
    """
    write_whole(path, render(result, language).encode("utf-8"))
