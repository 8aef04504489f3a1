"""The command `skip-poc report`: report, summary and PDF of a finished run again, or several runs side by side.

Jinja and matplotlib are imported inside the functions: the parser of every other command reads this file too.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.errors import PocError
from flows.store import read_json

LANGUAGES = ("ja", "en")
RESULT = "result.json"


@dataclass(frozen=True)
class Written:
    """Files of one report."""

    html: Path
    summary: Path
    pdf: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All of them, for a tracking server."""
        return [self.html, self.summary] + ([] if self.pdf is None else [self.pdf])


def add_arguments(report: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    report.add_argument("run_dir", type=Path, nargs="?", help="run folder, such as runs/latest")
    report.add_argument("--lang", choices=LANGUAGES, default="ja", help="language of the report")
    report.add_argument("--out", type=Path, help="HTML file to write; default: report.LANG.html in the run folder")
    report.add_argument("--redact", action="store_true", help="leave out every word of in-house documents")
    report.add_argument("--pdf", action="store_true", help="write a PDF as well (Chromium, or the extra `pdf`)")
    report.add_argument("--compare", type=Path, nargs="+", metavar="RUN", default=(), help="run folders to set side by "
                        "side, as the history of the month; writes history.LANG.html")  # fmt: skip


def run(arguments: argparse.Namespace) -> list[Path]:
    """Write what the arguments ask for and return the files.

    Raises:
        PocError: Neither a run nor runs to compare were named.
        ReportError: A result is not readable, or a file cannot be written.
    """
    from reports.redact import redact

    if arguments.compare:
        folders = [*([] if arguments.run_dir is None else [arguments.run_dir]), *arguments.compare]
        return [write_history(folders, arguments.lang, arguments.out)]
    if arguments.run_dir is None:
        raise PocError("no run was named", where="skip-poc report", todo="name a run folder, such as runs/latest")
    result = load(arguments.run_dir)
    html = arguments.out or arguments.run_dir / f"report.{arguments.lang}.html"
    return write_all(redact(result) if arguments.redact else result, html, arguments.lang, with_pdf=arguments.pdf).files


def load(folder: Path) -> dict[str, Any]:
    """Return the valid result.json of a run folder.

    Raises:
        PocError: It is missing or no JSON.
        ResultError: It does not follow the contract of the report.
    """
    from reports.result import validate

    result: dict[str, Any] = read_json(folder / RESULT)
    validate(result)
    return result


def summary_of(html: Path) -> Path:
    """Return where the summary of a report stands."""
    return html.with_name(html.name.replace("report", "summary", 1)).with_suffix(".md")


def write_all(result: dict[str, Any], html: Path, language: str, *, with_pdf: bool = False) -> Written:
    """Write the report and, beside it, its summary (.md) and its PDF when asked for.

    Args:
        result: Parsed result.json.
        html: File of the report; the others get its name with another ending.
        language: ja or en.
        with_pdf: Print it, which needs Chromium or WeasyPrint.
    """
    from reports import pdf
    from reports.files import write_whole
    from reports.render import render
    from reports.summary import render_summary

    write_whole(html, render(result, language).encode("utf-8"))
    summary = summary_of(html)
    write_whole(summary, render_summary(result, language).encode("utf-8"))
    if not with_pdf:
        return Written(html, summary)
    printed = html.with_suffix(".pdf")
    pdf.write_pdf(html, printed, result["run"]["created_at"])
    return Written(html, summary, printed)


def write_history(folders: Sequence[Path], language: str, out: Path | None = None) -> Path:
    """Write the comparison of several runs; a run that is named twice counts once."""
    from reports.files import write_whole
    from reports.render import render_history

    real = list(dict.fromkeys(folder.resolve() for folder in folders))
    path = out or real[-1].parent / f"history.{language}.html"
    write_whole(path, render_history([load(folder) for folder in real], language).encode("utf-8"))
    return path
