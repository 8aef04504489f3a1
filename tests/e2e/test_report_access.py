"""Everybody can read the report: axe-core at WCAG 2.1 AA, contrast, colours under three kinds of colour blindness."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reports.chart_style import MARKERS, SYMBOLS
from reports.render import render_history
from tests.e2e.report_pages import UNFOLD, fixtures, opened, write

pytestmark = pytest.mark.browser

_RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
_PAGES = [
    ("functional_check_no_go", "ja", "light"),
    ("functional_check_no_go", "en", "dark"),
    ("go", "en", "light"),
    ("go", "ja", "dark"),
    ("insufficient_evidence", "ja", "dark"),
]
_SIMULATED = {
    # Machado, Oliveira and Fernandes 2009, severity 1.0, for linear RGB
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
_STATES = ("pass", "fail", "inconclusive", "not_measured", "info")


@pytest.fixture(scope="module")
def axe() -> Any:
    module = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="run: pip install axe-playwright-python"
    )
    return module.Axe()


def _violations(axe: Any, page: Any) -> list[str]:
    # axe is put into the page by the test, past the page's policy; the page itself stays as it is
    found = axe.run(page, options=_RULES).response["violations"]
    return [
        f"{item['id']}: {node['html'][:160]} {node['failureSummary'][:200]}" for item in found for node in item["nodes"]
    ]


@pytest.mark.parametrize("case", _PAGES, ids="-".join)
def test_axe_finds_no_violation_of_wcag_2_1_aa(
    browser: Any, folder: Path, axe: Any, case: tuple[str, str, str]
) -> None:
    """Both languages, light and dark, everything unfolded and the map in use: axe-core has nothing to say."""
    name, language, scheme = case
    with opened(browser, write(folder, name, language), scheme=scheme) as (page, _):
        page.evaluate(UNFOLD)
        if page.locator(".tokens").count():
            page.locator(".tokens").first.focus()
        assert _violations(axe, page) == []


def test_axe_finds_a_planted_violation(browser: Any, folder: Path, axe: Any) -> None:
    """The check can fail: grey text on white is reported."""
    with opened(browser, write(folder, "go", "en")) as (page, _):
        page.evaluate("document.querySelector('.lead').style.color = '#c9c9c9'")
        assert any(line.startswith("color-contrast") for line in _violations(axe, page))


def test_the_comparison_of_runs_is_accessible_and_loads_nothing(browser: Any, axe: Any, tmp_path: Path) -> None:
    """The history page: no violation, no request, no message, no sideways scrolling on a phone."""
    module = fixtures()
    path = tmp_path / "history.html"
    path.write_text(render_history([module.go(), module.no_go(), module.everything_missing()], "ja"), "utf-8")
    with opened(browser, path) as (page, problems):
        assert _violations(axe, page) == []
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert problems == []


def _colours(page: Any) -> dict[str, Any]:
    """The colours of the style sheet as the browser has them, linear RGB."""
    names = ("ink", "muted", "paper", "skip", "dense", "warn", "rival", "good", "bad", "open", "doubt")
    names += ("good-bg", "bad-bg", "open-bg", "info-bg", "none-bg", "doubt-bg", "l1", "l2", "l3", "l4", "l5")
    script = "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue('--' + n).trim())"
    return {name: _linear(text) for name, text in zip(names, page.evaluate(script, list(names)), strict=True)}


def _linear(text: str) -> Any:
    digits = text.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(letter * 2 for letter in digits)
    assert re.fullmatch("[0-9a-f]{6}", digits), text
    srgb = np.array([int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)])
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _seen(colour: Any, kind: str) -> Any:
    return colour if kind == "normal" else np.clip(np.array(_SIMULATED[kind]) @ colour, 0, 1)


def _luminance(colour: Any) -> float:
    return float(np.array([0.2126, 0.7152, 0.0722]) @ colour)


def _contrast(one: Any, other: Any) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_shades_hold_under_colour_blindness(browser: Any, folder: Path, scheme: str) -> None:
    """To four kinds of eyes every state is readable on its ground, and the shades of the map keep their order."""
    with opened(browser, write(folder, "go", "ja"), scheme=scheme) as (page, _):
        colours = _colours(page)
    pairs = [("good", "good-bg"), ("bad", "bad-bg"), ("open", "open-bg"), ("skip", "info-bg"), ("muted", "none-bg")]
    pairs += [("doubt", "doubt-bg"), ("ink", "paper"), ("muted", "paper"), ("ink", "l1"), ("ink", "l3"), ("ink", "l5")]
    for kind in ("normal", *_SIMULATED):
        seen = {name: _seen(colour, kind) for name, colour in colours.items()}
        # a simulated eye sees a little less of some pairs than the norm asks of the colours themselves
        least = 4.5 if kind == "normal" else 4.0
        contrasts = {pair: round(_contrast(seen[pair[0]], seen[pair[1]]), 2) for pair in pairs}
        assert {pair: value for pair, value in contrasts.items() if value < least} == {}, kind
        shades = [_luminance(seen[name]) for name in ("paper", "l1", "l2", "l3", "l4", "l5")]
        assert shades == sorted(shades, reverse=scheme == "light"), kind
        series = [seen[name] for name in ("skip", "dense", "warn", "rival", "good")]
        assert min(_contrast(colour, seen["paper"]) for colour in series) >= 3, kind


def test_nothing_is_told_by_colour_alone(browser: Any, folder: Path) -> None:
    """Two states never share icon and word, two chart series never share a symbol, critical tokens carry a mark."""
    with opened(browser, write(folder, "functional_check_no_go", "ja")) as (page, _):
        texts: dict[str, set[str]] = {}
        for state in _STATES:
            found = page.locator(f".state.s-{state} .icon").all_text_contents()
            texts[state] = set(found)
        mark = page.evaluate("getComputedStyle(document.querySelector('.tokens .crit'), '::before').content")
        width = page.evaluate("getComputedStyle(document.querySelector('.tokens .crit')).outlineWidth")
    for one, other in itertools.combinations(_STATES, 2):
        assert texts[one].isdisjoint(texts[other] - {"!"}), (one, other)
    assert len(set(SYMBOLS.values())) == len(SYMBOLS) == len(MARKERS)
    assert len({marker for marker, _ in MARKERS.values()}) == len(MARKERS)
    assert (mark, width) == ('"◎"', "2px")
