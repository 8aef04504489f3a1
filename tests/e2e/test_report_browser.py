"""The report in a real browser: nothing loaded, nothing broken, the verdict in sight, everything by keyboard."""

import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.report_pages import UNFOLD, fixtures, opened, write

pytestmark = pytest.mark.browser

_SITUATIONS = (*sorted(fixtures().BUILDERS), "hostile-0", "hostile-3", "hostile-6")
_CASES = [(name, "en" if position % 2 else "ja") for position, name in enumerate(_SITUATIONS)]
_REAL = ("functional_check_no_go", "ja")


@pytest.mark.parametrize("case", _CASES, ids="-".join)
def test_every_situation_shows_its_verdict_first_on_every_screen(
    browser: Any, folder: Path, case: tuple[str, str]
) -> None:
    """Four verdicts, missing parts, hostile text: verdict in sight, no request, no message, no sideways scrolling."""
    with opened(browser, write(folder, *case)) as (page, problems):
        for selector in (".verdict .stamp", ".verdict .reason"):
            box = page.locator(selector).bounding_box()
            assert box["y"] + box["height"] <= 900, selector
        for width, height in ((1440, 900), (768, 1024), (390, 844)):
            page.set_viewport_size({"width": width, "height": height})
            if not case[0].startswith("hostile"):
                box = page.locator(".verdict .stamp").bounding_box()
                assert box["y"] + box["height"] <= height, width
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate(UNFOLD)
        for width in (390, 768, 1440):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert problems == []


@pytest.mark.parametrize("case", [_REAL, ("functional_check_conditional", "en"), ("go", "ja")], ids="-".join)
def test_tiles_end_within_the_first_screen(browser: Any, folder: Path, case: tuple[str, str]) -> None:
    """At 1440 x 900 evidence, next actions, and value, interval, limit and state of all five KPIs are in sight."""
    with opened(browser, write(folder, *case)) as (page, _):
        for selector in (".verdict .evidence", ".verdict .next", ".tiles"):
            box = page.locator(selector).first.bounding_box()
            assert box["y"] + box["height"] <= 900, selector


@pytest.mark.parametrize("width", [1440, 390])
def test_a_section_link_leaves_the_heading_below_the_navigation(browser: Any, folder: Path, width: int) -> None:
    """After following each link of the contents the heading stands clear of the bar that stays on top."""
    with opened(browser, write(folder, *_REAL), width, 844) as (page, _):
        for name in ("evidence", "speed", "cost", "risks", "roadmap", "details"):
            page.evaluate("name => document.getElementById(name).scrollIntoView({behavior: 'instant'})", name)
            bar = page.locator("nav.contents").bounding_box()
            heading = page.locator(f"#{name}-heading").bounding_box()
            assert heading["y"] >= bar["y"] + bar["height"], name
            assert heading["y"] < 844, name


def test_the_slider_moves_tiles_chart_and_token_map_together_by_keyboard(browser: Any, folder: Path) -> None:
    """One key press takes the next measured setting everywhere: both sliders, tiles, chart, tables, tokens, layers."""
    with opened(browser, write(folder, *_REAL)) as (page, problems):
        tiles = page.locator(".level-tiles [data-column]")
        before = tiles.all_inner_texts()
        path = page.locator(".grid-cells").first.get_attribute("d")
        page.locator("#level").focus()
        page.keyboard.press("ArrowRight")
        for row in ("#levels tr", "#sweep tr", "#sweep-all tr", "#chart-map .point"):
            assert page.locator(f"{row}.picked").get_attribute("data-point") == "4"
        cells = page.locator("#levels tr.picked > *").all_text_contents()
        assert tiles.all_text_contents() == [cells[k] for k in (1, 2, 3, 5, 6, 7)]
        assert tiles.all_inner_texts() != before
        counts = page.locator("#tokens-1 tbody tr > :nth-child(8)").all_text_contents()
        assert page.locator(".tokens").first.locator("i").all_text_contents() == [text.strip() for text in counts]
        assert page.locator(".grid-cells").first.get_attribute("d") != path
        assert page.locator("#token-level").input_value() == "4"
        assert re.search(r"0\.\d{3} .* / ", page.locator("#token-level").get_attribute("aria-valuetext"))
        assert problems == []


def test_the_slider_back_at_the_chosen_setting_draws_what_the_page_came_with(browser: Any, folder: Path) -> None:
    """The script's drawing of a setting is the one that the page has without a script: nothing is computed anew."""
    path = write(folder, "go", "ja")
    shown = "Array.from(document.querySelectorAll('.tokens > span'), token => token.className + token.textContent)"
    with opened(browser, path, scripting=False) as (page, _):
        static = page.locator(".tokens > span").evaluate_all("nodes => nodes.map(n => n.className + n.textContent)")
    with opened(browser, path) as (page, _):
        assert page.evaluate(shown) == static
        page.locator("#level").focus()
        page.keyboard.press("End")
        assert page.evaluate(shown) != static
        page.keyboard.press("ArrowLeft")
        page.locator("#level").fill("3")
        assert page.evaluate(shown) == static


def test_the_token_map_is_read_token_by_token_with_the_arrow_keys(browser: Any, folder: Path) -> None:
    """Focus, right, End and left move through the tokens; place, class, mark, count and layers are said."""
    with opened(browser, write(folder, *_REAL)) as (page, problems):
        box, said = page.locator(".tokens").first, page.locator(".said").first
        box.focus()
        assert said.text_content().startswith("位置: 1 / トークンの種類: 設定項目名 / 重要トークン: ◎")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert "位置: 4 / トークンの種類: そのほか" in said.text_content()
        assert "省略した層: 3, 4, 5" in said.text_content()
        page.keyboard.press("End")
        assert "位置: 18" in said.text_content()
        page.keyboard.press("Home")
        assert page.locator(".tokens .here").count() == 1
        assert problems == []


def test_detail_tables_sort_by_number_and_by_keyboard(browser: Any, folder: Path) -> None:
    """Enter on a header sorts by the plain number behind the cells, a second one turns it round and says so."""
    with opened(browser, write(folder, *_REAL)) as (page, _):
        page.evaluate(UNFOLD)
        button = page.locator("#classes thead button").nth(1)
        rates = "Array.from(document.querySelectorAll('#classes tbody tr'), row => Number(row.cells[1].dataset.sort))"
        button.focus()
        page.keyboard.press("Enter")
        ascending = page.evaluate(rates)
        assert ascending == sorted(ascending)
        assert page.locator("#classes th[aria-sort]").get_attribute("aria-sort") == "ascending"
        page.keyboard.press("Enter")
        assert page.evaluate(rates) == sorted(ascending, reverse=True)
        assert page.locator("table[data-sortable]").count() >= 6


def test_without_scripting_every_figure_is_readable(browser: Any, folder: Path) -> None:
    """JavaScript off: the same figures in the same places, and no control that would do nothing."""
    path = write(folder, *_REAL)
    figures = "nodes => nodes.map(n => n.dataset.path + n.textContent)"
    with opened(browser, path) as (page, _):
        with_script = page.locator("[data-path]").evaluate_all(figures)
    with opened(browser, path, scripting=False) as (page, problems):
        assert page.locator(".slider:visible").count() == 0
        assert page.locator("#sweep tbody tr").count() == 7
        assert page.locator("[data-path]").evaluate_all(figures) == with_script
        assert len(with_script) > 400
        assert page.locator("#tokens-1 tbody tr").count() == 18
        assert problems == []


def test_each_of_the_ten_questions_leads_to_its_answer(browser: Any, folder: Path) -> None:
    """One click on any question shows the place that answers it, unfolded if it was folded."""
    with opened(browser, write(folder, *_REAL)) as (page, problems):
        links = page.locator(".asked a")
        assert links.count() == 10
        for index in range(10):
            page.evaluate("scrollTo(0, 0)")
            target = links.nth(index).get_attribute("href")
            links.nth(index).click()
            box = page.locator(target).bounding_box()
            assert box["height"] > 0, target
            assert box["y"] < 900, target
            assert box["y"] + box["height"] > 0, target
        assert problems == []


def test_the_largest_page_is_ready_at_once(browser: Any, tmp_path: Path) -> None:
    """Twenty passages of 64 tokens at ten settings open about as fast as a page without any of them."""
    from reports.render import write_report

    module = fixtures()
    large = module.go()
    masks = [" ".join(f"{0b1001 << position % 7:x}" for position in range(64))] * 7
    passage = {"id": "p", "language": "ja", "tokens": ["語"] * 64, "n_tokens": 64, "critical": [False] * 64}
    passage |= {"classes": ["other"] * 64, "n_skipped": [[2] * 64] * 7, "masks": masks}
    large["token_map"] |= {"passages": [passage] * 20}
    seconds = {}
    for name, built in (("empty", module.everything_missing()), ("large", large)):
        write_report(built, tmp_path / f"{name}.html", "ja")
        times = []
        for _ in range(2):
            start = time.perf_counter()
            with opened(browser, tmp_path / f"{name}.html") as (page, _problems):
                page.evaluate("new Promise(done => requestAnimationFrame(() => done()))")
                times.append(time.perf_counter() - start)
        seconds[name] = min(times)
    assert seconds["large"] < 10 * seconds["empty"], seconds
