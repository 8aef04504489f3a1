"""The demo page in a real browser: two answers, their colours and times, by keyboard, with nothing let in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from skipmodel.serve.config import ServeConfig
from tests.unit.skipmodel.serve.helpers import Running, make_served, running

pytestmark = pytest.mark.browser
CONFIG = ServeConfig(port=0, slots=2, context=256, max_tokens=128, has_demo=True)
XSS = "<img src=x onerror=alert(1)><script>alert(2)</script>\"'><svg onload=alert(3)> javascript:alert(4)"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(make_served(tmp_path_factory.mktemp("base")), CONFIG) as started:
        yield started


@pytest.fixture
def opened(browser: Any, server: Running) -> Iterator[tuple[Any, list[str]]]:
    """The page, and what it should not do: requests elsewhere, messages, dialogs."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page, problems = context.new_page(), []
    page.set_default_timeout(60_000)
    page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: None if request.url.startswith(server.url) else problems.append(request.url))
    page.goto(f"{server.url}/demo")
    page.wait_for_selector("#run:not([disabled])")
    yield page, problems
    context.close()


def write(page: Any) -> None:
    """Press the button and wait for both answers."""
    page.locator("#run").click()
    page.wait_for_selector("body[data-state=done]")


def test_both_answers_are_written_with_colours_and_times(opened: tuple[Any, list[str]], server: Running) -> None:
    """Dense beside skip: tokens in place, coloured where layers were skipped, four figures each, and a sentence."""
    page, problems = opened
    write(page)
    tokens = {arm: page.locator(f"#{arm}-answer .token").count() for arm in ("dense", "skip")}
    assert min(tokens.values()) >= 1
    assert page.locator("#dense-facts dt").count() == 4
    assert page.locator("#skip-facts dt").count() == 6
    classes = page.eval_on_selector_all("#skip-answer .token", "nodes => nodes.map(node => node.className)")
    assert any(name != "token s0" for name in classes)
    assert page.locator("#dense-answer .token.s1, #dense-answer .token.s3").count() == 0
    assert page.evaluate("document.querySelector('#map').height") == 8 * 6
    said = page.locator("#conclusion").text_content()
    assert "倍速く" in said or "速くはありませんでした" in said
    prompt = page.locator("#prompt").input_value()
    status, dense = server.post(
        "/v1/completions", {"prompt": prompt, "max_tokens": 48, "temperature": 0, "skip_level": 0}
    )
    assert status == 200
    assert page.locator("#dense-answer").text_content() == prompt + dense["choices"][0]["text"]
    assert problems == []


def test_the_level_moves_what_is_skipped(opened: tuple[Any, list[str]]) -> None:
    """Level 0 skips nothing and answers what dense answers; level 100 skips more than level 30."""
    page, problems = opened
    rates = []
    for level in ("0", "30", "100"):
        page.locator("#level").fill(level)
        write(page)
        rates.append(page.evaluate("state.results.skip.rate"))
        if level == "0":
            assert page.locator("#dense-answer").text_content() == page.locator("#skip-answer").text_content()
    assert rates[0] == 0 < rates[1] < rates[2]
    assert problems == []


def test_everything_works_by_keyboard(opened: tuple[Any, list[str]]) -> None:
    """Tab reaches every control in order; arrows move the level; Enter on the button writes."""
    page, problems = opened
    page.locator("#prompt").focus()
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        if reached[-1] == "level":
            page.keyboard.press("ArrowRight")
        if reached[-1] == "run":
            page.keyboard.press("Enter")
            break
    assert reached[-3:] == ["level", "length", "run"]
    assert page.locator("#level-value").text_content() == "35"
    page.wait_for_selector("body[data-state=done]")
    page.locator("#skip-answer").focus()
    page.keyboard.press("ArrowRight")
    first = page.locator("#token-told").text_content()
    page.keyboard.press("ArrowRight")
    assert "6 層中" in first
    assert page.locator("#token-told").text_content() != first
    assert page.locator("#skip-answer .picked").count() == 1
    assert problems == []


def test_language_changes_everything_but_the_answers(opened: tuple[Any, list[str]]) -> None:
    """No word of the other language is left, answers and figures stay."""
    page, problems = opened
    write(page)
    before = page.locator("#skip-answer").text_content()
    page.locator("[data-language=en]").click()
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator("h1").text_content() == "Layer skipping, hands on"
    words = page.locator("body").evaluate(
        "body => { const copy = body.cloneNode(true); copy.querySelectorAll('.answer, .languages, textarea')"
        ".forEach(node => node.remove()); return copy.textContent; }"
    )
    assert not any("\u3040" <= letter <= "\u9fff" for letter in words)
    assert page.locator("#skip-answer").text_content() == before
    assert problems == []


def test_markup_is_text(opened: tuple[Any, list[str]]) -> None:
    """A prompt full of markup, which comes back in the page: shown letter by letter, nothing runs, nothing loads."""
    page, problems = opened
    page.locator("#prompt").fill(XSS)
    write(page)
    assert page.locator("#dense-answer .given").text_content() == XSS
    assert page.locator("main img, main svg, main script").count() == 0
    assert problems == []


def test_stopping_gives_the_answer_up(opened: tuple[Any, list[str]], server: Running) -> None:
    """The button ends the answer in the page and in the server."""
    page, _ = opened
    real = server.scheduler.rows.run
    server.scheduler.rows.run = lambda *a: (page_pause(), real(*a))[1]  # type: ignore[method-assign]
    try:
        page.locator("#run").click()
        page.wait_for_selector("#dense-answer .token")
        page.locator("#stop").click()
        page.wait_for_selector("#run:not([disabled])")
        assert page.locator("#status").text_content() == "止めました"
        server.wait_idle()
    finally:
        server.scheduler.rows.run = real  # type: ignore[method-assign]


def page_pause() -> None:
    """Make a pass slow enough to be stopped in."""
    import time

    time.sleep(0.1)


@pytest.mark.parametrize("width", [1280, 390])
def test_no_fault_of_accessibility(opened: tuple[Any, list[str]], width: int) -> None:
    """Nothing found by axe, before and after writing, in both languages; a phone scrolls only downwards."""
    api = pytest.importorskip("axe_playwright_python.sync_playwright",
                              reason="axe not found; run: pip install axe-playwright-python")  # fmt: skip
    page, problems = opened
    page.set_viewport_size({"width": width, "height": 844})
    for language in ("ja", "en"):
        page.locator(f"[data-language={language}]").click()
        write(page)
        # axe puts its own script and styles in, which the policy of the page forbids: it is told so by messages
        found = api.Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [problem for problem in problems if "Content Security Policy" not in problem] == []


def test_a_key_is_asked_for_in_the_page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """With a key set the page asks for it, and works once it has it."""
    with running(make_served(tmp_path_factory.mktemp("base")), CONFIG, "s3cret") as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{server.url}/demo")
        page.locator("#key").fill("s3cret")
        page.locator("#key").press("Tab")
        page.wait_for_selector("#run:not([disabled])")
        page.locator("#length").fill("4")
        write(page)
        context.close()
