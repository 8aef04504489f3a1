"""The month's record and gates: locked plans, one opening, stops, the line of status."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import month_gates
from flows.errors import PocError
from flows.month_record import Gate, Month
from kpis.limits import GateLimits

PLAN: dict[str, Any] = {
    "month": "m1", "plan_sha256": "a" * 64, "code_sha256": "c" * 64, "registered_at": "2027-01-04T07:00:00+09:00",
    "settings": {"gates.min_speedup": 1.1, "report.language": "ja"},
    "input_sha256": {"corpus": "d" * 64, "prices": "e"},
}  # fmt: skip
CONFIRM = {"sweep": "s", "threshold_logit": 0.5}
PASS = Gate("pass", "fine", "all is well")
STOP = Gate("stop", "no_threshold", "no threshold passes")


@pytest.fixture
def month(tmp_path):
    """A month whose plan is locked."""
    month = Month.named(tmp_path, "m1")
    assert month.register(PLAN)
    return month


def test_a_plan_is_locked_once(month):
    """The same plan may be registered again; the file stays as it was, and nobody may write it."""
    before = (month.folder / "plan.json").read_bytes()

    assert not month.register(PLAN | {"registered_at": "2027-02-01T07:00:00+09:00"})
    assert (month.folder / "plan.json").read_bytes() == before
    assert (month.folder / "plan.json").stat().st_mode & 0o222 == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"plan_sha256": "b", "settings": PLAN["settings"] | {"gates.min_speedup": 1.0}}, "min_speedup: 1.1 -> 1.0"),
        ({"input_sha256": {"corpus": "f" * 64, "prices": "e"}}, "content of corpus"),
        ({"input_sha256": {"corpus": "d" * 64}}, "content of prices"),
    ],
)  # fmt: skip
def test_another_plan_is_refused_by_name(month, change, named):
    """A changed limit or input after week 0 ends in a message that names it, when registering and when comparing."""
    for refuse in (month.compare, month.register):
        with pytest.raises(PocError, match="locked on 2027-01-04") as caught:
            refuse(PLAN | change)
        assert named in caught.value.what


def test_what_decides_nothing_may_change(month):
    """The report's language, and a load test made during the month, are no other plan."""
    month.compare(PLAN | {"settings": PLAN["settings"] | {"report.language": "en"},
                          "input_sha256": PLAN["input_sha256"] | {"load_test": "x"}})  # fmt: skip


def test_the_test_split_is_opened_once(month):
    """The same confirmation may go on after a kill; another one is refused, and so is a split read before the month."""
    month.open_test(CONFIRM, [])
    month.open_test(CONFIRM, [])

    with pytest.raises(PocError, match="was opened on"):
        month.open_test(CONFIRM | {"threshold_logit": 0.6}, [])


def test_a_split_that_was_read_before_is_refused(month):
    """An opening by an earlier run counts: nothing is written, the month stays closed."""
    with pytest.raises(PocError, match="opened 1 times before"):
        month.open_test(CONFIRM, ["0123456789abcdef"])
    assert not (month.folder / "opening.json").exists()


def test_a_stop_ends_the_month(month):
    """The first gate that stops is told, whatever comes after it."""
    month.record("W1", PASS)
    assert month.stopped() is None
    month.record("W2", STOP)

    assert month.stopped() == ("W2", STOP)
    assert month.status(datetime.date(2027, 1, 20)).endswith(
        "W2 stop (no threshold passes); stopped; test split closed"
    )


def test_the_status_says_what_is_next_and_how_late(month):
    """Weeks are due seven days apart from the day of registration."""
    month.record("W1", PASS)

    assert "next tune-and-sweep, due 2027-01-18;" in month.status(datetime.date(2027, 1, 18))
    assert "due 2027-01-18, 3 days late" in month.status(datetime.date(2027, 1, 21))


@settings(deadline=None)
@given(n=st.integers(0, 5000), stops=st.booleans())
def test_items_are_enough_from_the_planned_number_on(n, stops):
    """Below it the gate stops or warns, as registered; it never passes."""
    limits = GateLimits()
    gate = month_gates.enough_items(n, limits, stops=stops)

    assert (gate.state == "pass") == (n >= month_gates.needed_items(limits))
    assert gate.stops == (stops and n < month_gates.needed_items(limits))


@settings(deadline=None)
@given(low=st.floats(0.3, 2.0), width=st.floats(0.0, 1.0), stops=st.booleans())
def test_speed_stops_the_month_only_when_the_whole_interval_is_below(low, width, stops):
    """Open intervals go on; a refuted speed-up stops where the plan says so."""
    limits, high = GateLimits(), low + width
    gate = month_gates.speed_not_refuted(
        {"low": low, "measured_speedup": low + width / 2, "high": high}, limits, stops=stops
    )

    assert gate.stops == (stops and high < limits.min_speedup)
    assert (gate.state == "pass") == (low >= limits.min_speedup)


def test_speed_without_an_interval_is_open():
    """Too few pairs refute nothing."""
    row = {"low": None, "measured_speedup": 1.0, "high": None}

    assert month_gates.speed_not_refuted(row, GateLimits(), stops=True).code == "speed_not_measured"


@pytest.mark.parametrize(("threshold", "state"), [(0.4, "pass"), (None, "stop")])
def test_no_threshold_stops(threshold, state):
    """Without a passing threshold there is nothing to confirm."""
    choice = {"threshold": threshold, "reason": "first_setting_fails"}

    assert month_gates.threshold_found(choice, stops=True).state == state
