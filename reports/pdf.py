"""The HTML report as PDF: by a headless Chromium of this machine, else by WeasyPrint (optional extra `pdf`).

Both print the same file with the style sheet's rules for paper. Nothing is fetched: the page has its own policy
against it, and WeasyPrint is given a fetcher that refuses.
"""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from reports.errors import ReportError
from reports.files import write_whole
from reports.paper import by_weasyprint

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_S = 300
_DATE = re.compile(rb"/(CreationDate|ModDate) \(D:(\d{14})")
_FLAGS = (
    "--headless",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-pdf-header-footer",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)


def write_pdf(html: Path, pdf: Path, created_at: str) -> str:
    """Print a report and return the name of the program that did.

    Args:
        html: finished report.
        pdf: file to write, replaced in one step.
        created_at: ISO time of the result, which the PDF carries instead of the time of printing, so that the same
            report printed by the same program gives the same bytes.

    Raises:
        ReportError: no program for it is installed, or it failed.
    """
    browser = find_browser()
    content, program = (by_chromium(html, browser), "chromium") if browser else (by_weasyprint(html), "weasyprint")
    write_whole(pdf, dated(content, created_at))
    return program


def find_browser() -> str | None:
    """Path of a Chromium or Chrome of this machine, if there is one."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def by_chromium(html: Path, browser: str) -> bytes:
    """PDF of a page, printed by a browser that gets a profile of its own and no network.

    Raises:
        ReportError: it did not come to its end, or printed nothing.
    """
    with tempfile.TemporaryDirectory(prefix="skip-poc-pdf-") as folder:
        out = Path(folder) / "report.pdf"
        flags = [*_FLAGS, f"--user-data-dir={folder}/profile", f"--print-to-pdf={out}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:  # Chromium refuses its sandbox to root, as in containers
            flags.append("--no-sandbox")
        command = [browser, *flags, html.resolve().as_uri()]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=TIMEOUT_S, check=False, env=_environment(folder)
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ReportError(f"expected a PDF from {browser}, got {error}; run the command again") from error
        if done.returncode or not out.is_file():
            last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no message"]
            raise ReportError(f"expected a PDF from {browser}, got exit code {done.returncode} ({last[0][:200]})")
        return out.read_bytes()


def _environment(folder: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "FONTCONFIG_PATH") if name in os.environ}
    return kept | {"HOME": folder, "XDG_CONFIG_HOME": folder, "XDG_CACHE_HOME": folder}


def dated(content: bytes, created_at: str) -> bytes:
    """The same PDF with every date of printing replaced by the time of the result."""
    stamp = re.sub(r"\D", "", created_at[:19]).ljust(14, "0").encode("ascii")
    return _DATE.sub(lambda match: b"/%s (D:%s" % (match[1], stamp), content)
