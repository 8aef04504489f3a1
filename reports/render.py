"""View -> one self-contained HTML file. The only file that imports Jinja2.

The page makes no request: style, script and charts are inside it, and a content security policy that allows exactly
these two blocks by hash says so to the browser. Same result and language give the same bytes.
"""

import base64
import hashlib
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from reports.errors import ReportError
from reports.messages import Catalog
from reports.result import validate
from reports.view import build_view

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
    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; style-src '{_sha256(style)}'; script-src '{_sha256(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            view=build_view(result, catalog),
            t=catalog.text,
            style=Markup(style),
            script=Markup(script),
            policy=policy,
        )
    )


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


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def write_report(result: dict[str, Any], path: Path, language: str) -> None:
    """Render a result into a file, replacing it in one step: a reader never sees half a report.

    Raises:
        ReportError: as `render`, or when the file cannot be written.
    """
    html = render(result, language)
    handle, name = -1, ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(html)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise ReportError(
            f"expected a writable place for the report, got {error} at {path}; free space or permissions"
        ) from error
