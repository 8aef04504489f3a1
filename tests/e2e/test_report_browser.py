"""The report in a real browser: nothing loaded, nothing broken, the verdict in sight."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reports.render import write_report

pytestmark = pytest.mark.browser

_FIXTURES = Path(__file__).parents[1] / "unit" / "reports" / "fixtures.py"
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
_CASES = (
    ("functional_check_no_go", "ja"),
    ("functional_check_conditional", "en"),
    ("everything_missing", "ja"),
    ("hostile", "ja"),
)


def _result(name: str) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("report_fixtures_for_browser", _FIXTURES)
    assert spec is not None, _FIXTURES
    assert spec.loader is not None, _FIXTURES
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    built: dict[str, Any] = module.hostile(0) if name == "hostile" else module.BUILDERS[name]()
    return built


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium of this machine, or a skip that says how to get one."""
    chromium = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if chromium is None:
        pytest.skip("Chromium not found; on Debian: apt-get install -y chromium fonts-ipaexfont-gothic")
    playwright_api = pytest.importorskip(
        "playwright.sync_api", reason="playwright not found; run: pip install playwright"
    )
    with playwright_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=list(_ARGUMENTS))
        yield started
        started.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    """Reports on disk, as a manager would open them."""
    folder = tmp_path_factory.mktemp("reports")
    paths = {}
    for name, language in _CASES:
        paths[name, language] = folder / f"{name}.{language}.html"
        write_report(_result(name), paths[name, language], language)
    return paths


def _open(browser: Any, path: Path, width: int, height: int, *, scripting: bool = True) -> tuple[Any, list[str]]:
    context = browser.new_context(viewport={"width": width, "height": height}, java_script_enabled=scripting)
    page = context.new_page()
    problems: list[str] = []
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("dialog", lambda dialog: problems.append(f"dialog: {dialog.message}"))
    page.on(
        "request", lambda request: problems.append(f"request: {request.url}") if request.url != path.as_uri() else None
    )
    page.goto(path.as_uri())
    return page, problems


@pytest.mark.parametrize("case", _CASES, ids="-".join)
def test_a_desktop_shows_the_decision_without_scrolling(
    browser: Any, files: dict[tuple[str, str], Path], case: tuple[str, str]
) -> None:
    """At 1440 x 900: verdict in the first screen, no request, no console message, no sideways scrolling."""
    page, problems = _open(browser, files[case], 1440, 900)
    for selector in (".verdict .stamp", ".verdict .reason"):
        box = page.locator(selector).bounding_box()
        assert box["y"] + box["height"] <= 900, selector
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440
    assert problems == []
    page.context.close()


@pytest.mark.parametrize("case", [_CASES[0], _CASES[1]], ids="-".join)
def test_tiles_end_within_the_first_screen(
    browser: Any, files: dict[tuple[str, str], Path], case: tuple[str, str]
) -> None:
    """At 1440 x 900 value, interval, limit and state of all five KPIs are in sight as well."""
    page, _ = _open(browser, files[case], 1440, 900)
    box = page.locator(".tiles").bounding_box()
    assert box["y"] + box["height"] <= 900
    page.context.close()


@pytest.mark.parametrize("case", _CASES, ids="-".join)
def test_a_phone_scrolls_only_downwards(
    browser: Any, files: dict[tuple[str, str], Path], case: tuple[str, str]
) -> None:
    """At 390 px nothing sticks out sideways with everything unfolded; the verdict comes first."""
    page, problems = _open(browser, files[case], 390, 844)
    page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    if case[0] != "hostile":
        box = page.locator(".verdict .stamp").bounding_box()
        assert box["y"] + box["height"] <= 844
    assert problems == []
    page.context.close()


@pytest.mark.parametrize("width", [1440, 390])
def test_a_section_link_leaves_the_heading_below_the_navigation(
    browser: Any, files: dict[tuple[str, str], Path], width: int
) -> None:
    """After following each link of the contents the heading stands clear of the bar that stays on top."""
    page, _ = _open(browser, files[_CASES[0]], width, 844)
    for name in ("evidence", "speed", "cost", "risks", "roadmap", "details"):
        page.evaluate("name => document.getElementById(name).scrollIntoView({behavior: 'instant'})", name)
        bar = page.locator("nav.contents").bounding_box()
        heading = page.locator(f"#{name}-heading").bounding_box()
        assert heading["y"] >= bar["y"] + bar["height"], name
        assert heading["y"] < 844, name
    page.context.close()


def test_the_slider_moves_between_measured_settings_by_keyboard(
    browser: Any, files: dict[tuple[str, str], Path]
) -> None:
    """One key press marks the next sweep row and its point in the chart, and says its figures."""
    page, problems = _open(browser, files[_CASES[0]], 1440, 900)
    slider = page.locator("#level")
    before = page.locator("#level-text").text_content()
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#level-text").text_content() != before
    assert page.locator("#sweep tr.picked").get_attribute("data-point") == "4"
    assert page.locator("#chart-map .point.picked").get_attribute("data-point") == "4"
    assert problems == []
    page.context.close()


def test_detail_tables_sort_by_number(browser: Any, files: dict[tuple[str, str], Path]) -> None:
    """A click on a header sorts by the plain number behind the cells, a second one turns it round."""
    page, _ = _open(browser, files[_CASES[0]], 1440, 900)
    page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
    button = page.locator("#classes thead button").nth(1)
    rates = "Array.from(document.querySelectorAll('#classes tbody tr')).map(row => Number(row.cells[1].dataset.sort))"
    button.click()
    ascending = page.evaluate(rates)
    assert ascending == sorted(ascending)
    button.click()
    assert page.evaluate(rates) == sorted(ascending, reverse=True)
    page.context.close()


def test_without_scripting_every_figure_is_readable(browser: Any, files: dict[tuple[str, str], Path]) -> None:
    """JavaScript off: the same figures are there, and no control that would do nothing."""
    page, problems = _open(browser, files[_CASES[0]], 1440, 900, scripting=False)
    assert page.locator(".slider").is_visible() is False
    assert page.locator("#sweep tbody tr").count() == 7
    assert page.locator("[data-path]").count() > 300
    assert problems == []
    page.context.close()
