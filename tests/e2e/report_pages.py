"""What the browser tests of the report share: hand-made results as files, a headless Chromium, an opened page."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from reports.render import write_report

FIXTURES = Path(__file__).parents[1] / "unit" / "reports" / "fixtures.py"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--font-render-hinting=none",
)
UNFOLD = "document.querySelectorAll('details').forEach(node => { node.open = true; })"


@cache
def fixtures() -> ModuleType:
    """The module of hand-made results."""
    spec = importlib.util.spec_from_file_location("report_fixtures_for_browser", FIXTURES)
    assert spec is not None, FIXTURES
    assert spec.loader is not None, FIXTURES
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def result(name: str) -> dict[str, Any]:
    """A hand-made result; `hostile-N` has hostile strings everywhere, shifted by N."""
    module = fixtures()
    built: dict[str, Any] = (
        module.hostile(int(name.partition("-")[2])) if name.startswith("hostile") else module.BUILDERS[name]()
    )
    return built


def write(folder: Path, name: str, language: str) -> Path:
    """A report on disk, as a manager would open it; written once per folder."""
    path = folder / f"{name}.{language}.html"
    if not path.exists():
        write_report(result(name), path, language)
    return path


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless Chromium of this machine, or a skip that says how to get one."""
    found = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if found is None:
        pytest.skip("Chromium not found; on Debian: apt-get install -y chromium fonts-ipaexfont-gothic")
    api = pytest.importorskip("playwright.sync_api", reason="playwright not found; run: pip install playwright")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield started
        started.close()


@contextmanager
def opened(
    browser: Any, path: Path, width: int = 1440, height: int = 900, *, scripting: bool = True, scheme: str = "light"
) -> Iterator[tuple[Any, list[str]]]:
    """A page and the list of everything that it said to the console, asked of the network or raised."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        java_script_enabled=scripting,
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    page.on(
        "request", lambda request: problems.append(f"request: {request.url}") if request.url != path.as_uri() else None
    )
    page.goto(path.as_uri())
    yield page, problems
    context.close()
