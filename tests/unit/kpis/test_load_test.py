from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpis.errors import RecordError
from kpis.limits import GateLimits
from kpis.load_test import (
    LoadRequest,
    LoadTest,
    asked_per_s,
    is_at_target,
    is_elsewhere,
    load_responses,
    offered_per_s,
    same_device,
)  # fmt: skip
from kpis.speed import percentiles

LIMITS = GateLimits(min_p99_samples=100, slo_ttft_s=1.0, slo_tpot_s=0.1)


def rows(n: int, per_s: float = 2.0, n_failed: int = 0, arm: str = "skip", ttft_s: float = 0.5) -> list[dict[str, Any]]:
    """Requests at a steady rate, the last of which failed."""
    return [
        {"arm": arm, "arrival_s": i / per_s, "ok": i < n - n_failed, "ttft_s": ttft_s if i < n - n_failed else None,
         "tpot_s": 0.05 if i < n - n_failed else None}
        for i in range(n)
    ]  # fmt: skip


def read(requests: list[dict[str, Any]], **changes: Any) -> LoadTest:
    """A load test as it is read from its file."""
    record = {"schema_version": 1, "device_name": "L4", "n_replicas": 1, "requests": requests}
    return LoadTest.from_json(record | changes)


def test_the_rate_is_that_of_the_arrivals() -> None:
    """Two requests a second are two a second whatever the order of the rows; one instant is no rate."""
    requests = list(read(rows(11)).requests)

    assert offered_per_s(requests) == pytest.approx(2.0)
    assert offered_per_s(requests[::-1]) == pytest.approx(2.0)
    with pytest.raises(RecordError, match="arrival_s"):
        offered_per_s([requests[0]] * 3)


def test_replicas_share_the_peak() -> None:
    """Two of ten planned replicas must carry a fifth of the peak; more than planned carry all of it."""
    assert asked_per_s(5.0, 10, 2) == 1.0
    assert asked_per_s(5.0, 10, 20) == 5.0


@pytest.mark.parametrize(("per_s", "reached"), [(1.99, False), (2.0, True), (3.0, True)])
def test_the_load_must_reach_what_the_plan_asks_for(per_s: float, reached: bool) -> None:
    """Answers at less than the asked rate show nothing about the peak."""
    shown = load_responses(read(rows(201, per_s)), LIMITS, 2.0, "NVIDIA L4")

    assert shown["load_test"]["is_at_target"] is reached
    assert is_at_target(shown) is reached
    assert not is_at_target(None)
    assert not is_at_target({"load_test": None})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("L40S", "NVIDIA L40S", True),
        ("nvidia  l40s", "NVIDIA L40S", True),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel Xeon CPU @ 2.20 GHz", False),
        ("AMD EPYC", "EPYC", True),
        ("NVIDIA L4", "NVIDIA L40S", False),
        ("NVIDIA A100", "NVIDIA A100-SXM4-80GB", False),
        ("A100 SXM4 80GB", "NVIDIA A100-SXM4-80GB", True),
        ("NVIDIA", "NVIDIA", False),
        ("", "", False),
    ],
)
def test_devices_are_the_same_by_their_words(one: str, other: str, same: bool) -> None:
    """Maker and case do not count; a memory size does, and a name that says nothing is no device."""
    assert same_device(one, other) is same
    assert same_device(other, one) is same


@pytest.mark.parametrize("run_device", ["NVIDIA L40S", ""])
def test_a_load_test_of_another_device_shows_nothing(run_device: str) -> None:
    """However fast the load was: what another device answers, or one that nobody named, is no evidence."""
    shown = load_responses(read(rows(201, 9.0)), LIMITS, 2.0, run_device)

    assert (shown["load_test"]["device_name"], shown["load_test"]["run_device_name"]) == ("L4", run_device)
    assert shown["load_test"]["is_at_target"]
    assert (is_at_target(shown), is_elsewhere(shown)) == (False, True)
    assert not is_elsewhere({"load_test": None})
    assert not is_elsewhere(None)


def test_shares_and_goodput_by_hand() -> None:
    """Of 200 requests at 2 per second 20 failed: 90 % within the promises, 1.8 a second, p99 among the failed."""
    shown = load_responses(read(rows(200, n_failed=20)), LIMITS, 2.0, "L4")

    kept = shown["load_test"]["within_slo"]
    assert (kept["value"], kept["n"], shown["load_test"]["n_failed"]) == (0.9, 200, 20)
    assert kept["low"] < 0.9 < kept["high"]
    assert shown["load_test"]["goodput_per_s"] == pytest.approx(1.8)
    assert shown["ttft_s"]["skip"] == {"p50": 0.5, "p90": None, "p99": None, "n": 200}
    assert shown["ttft_s"]["dense"] == {"p50": None, "p90": None, "n": 0}


def test_slow_answers_miss_the_promise_without_failing() -> None:
    """An answer after the promised time counts as missed although it came."""
    both = rows(150) + rows(50, ttft_s=1.5) + rows(30, arm="dense")

    shown = load_responses(read(both), LIMITS, 2.0, "L4")
    assert shown["load_test"]["within_slo"]["value"] == 0.75
    assert shown["ttft_s"]["dense"]["n"] == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arm": "other"}, r"arm.*expected"),
        ({"ttft_s": None}, "ttft_s and tpot_s"),
        ({"tpot_s": -0.1}, "ttft_s and tpot_s"),
        ({"ok": False}, "null times"),
        ({"ok": 1}, "ok"),
        ({"arrival_s": float("nan")}, "arrival_s"),
        ({"more": 1}, "more"),
    ],
)
def test_impossible_rows_are_refused(changes: dict[str, Any], message: str) -> None:
    """A row with a wrong arm, without times or with an unknown key is an error, never skipped."""
    with pytest.raises(RecordError, match=message):
        read([*rows(5), rows(1)[0] | changes])


def test_a_load_test_without_the_skip_model_is_refused() -> None:
    """Only the dense model under load says nothing about the skip model; neither do zero replicas or a new version."""
    with pytest.raises(RecordError, match="skip model"):
        read(rows(50, arm="dense"))
    with pytest.raises(RecordError, match="n_replicas"):
        read(rows(5), n_replicas=0)
    with pytest.raises(RecordError, match="schema_version"):
        read(rows(5), schema_version=2)


@settings(deadline=None)
@given(times=st.lists(st.floats(0.0, 10.0), min_size=1, max_size=60), n_failed=st.integers(0, 20))
def test_a_failed_request_never_makes_a_percentile_better(times: list[float], n_failed: int) -> None:
    """With failures every percentile is at least as large as without, or undefined; n counts all requests."""
    without, found = percentiles(times, 10), percentiles(times, 10, n_failed)

    assert found["n"] == len(times) + n_failed
    for name in ("p50", "p90"):
        assert found[name] is None or found[name] >= without[name] - 1e-12
    assert list(percentiles([], 10, n_failed).values())[:2] == [None, None]


@settings(deadline=None)
@given(per_s=st.floats(0.1, 50.0), asked=st.floats(0.1, 50.0), shift=st.floats(-1e3, 1e3))
def test_the_zero_of_the_clock_does_not_matter(per_s: float, asked: float, shift: float) -> None:
    """Arrivals counted from any moment give the same rate."""
    test = read(rows(20, per_s))
    moved = [replace(row, arrival_s=row.arrival_s + shift) for row in test.requests]

    assert offered_per_s(moved) == pytest.approx(offered_per_s(test.requests), rel=1e-6)
    assert LoadRequest.from_json(test.requests[0].to_json()) == test.requests[0]
