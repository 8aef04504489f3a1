"""Where the engagement rule skips and where not, in the summary of the speed section."""

import pytest

from reports import view_speed
from reports.messages import Catalog, messages
from reports.render import render_with
from reports.result import validate
from reports.view_parts import Reader


def _summary(result, language):
    return view_speed.build(Reader(result, Catalog(language))).summary.text


@pytest.fixture
def result(fx):
    """A result whose first row is dense by the rule and whose second skips."""
    made = fx.go()
    made["speed"][0] |= {"engaged": False, "measured_speedup_without_rule": 0.93}
    made["speed"][1] |= {"engaged": True, "measured_speedup_without_rule": 1.25}
    return made


def test_the_report_says_where_skipping_engages(result, language):
    """One sentence per row with a rule; where it runs densely, what skipping would have been."""
    validate(result)
    text, words = _summary(result, language), messages(language)
    first = {part for key in ("rule_on", "rule_off") for part in words[f"speed.summary.{key}"].split("{")[:1]}

    assert all(text.count(part) == 1 for part in first)
    assert "0.93" in text
    assert "1.25" not in text
    assert "0.93" in render_with(result, Catalog(language))


@pytest.mark.parametrize("rows", [{}, {"engaged": None, "measured_speedup_without_rule": None}])
def test_a_result_without_a_rule_says_nothing_of_it(fx, result, language, rows):
    """Rows of an earlier version, and random routing, get no sentence."""
    plain = fx.go()
    for row in plain["speed"]:
        row.update(rows)
    without = _summary(plain, language)

    assert _summary(result, language).startswith(without)
    assert len(_summary(result, language)) > len(without)
