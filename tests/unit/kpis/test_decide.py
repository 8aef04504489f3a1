import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from kpis import codes
from kpis.catalog import IDS
from kpis.cost import cost
from kpis.decide import choose, gates, verdict
from kpis.errors import RecordError
from kpis.gate import KINDS
from kpis.limits import GateLimits
from kpis.prices import load_prices
from kpis.quality import bounds, confirmation
from kpis.records import Evidence, TimingPairs, VerdictContext
from kpis.speed import SpeedEstimate, responses, speed_row

Make = Callable[..., Any]
LIMITS = GateLimits()
CONTEXT = VerdictContext(functional_check=False, threshold_chosen=True)


@pytest.fixture
def poc(make_document: Make, make_items: Make, make_cost_inputs: Make) -> Make:
    """A PoC in which everything passes; each part can be replaced to break one thing."""

    def run(**changes: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        documents = changes.get("documents") or [make_document(document_id=f"d{i}") for i in range(20)]
        items = changes["items"] if "items" in changes else make_items(600, 4, 5, 391)
        limits = changes.get("limits", LIMITS)
        functional = changes.get("functional_check", False)
        confirmed = confirmation(
            documents, items, skip_rate=0.2, skip_positions_by_class={}, noise_floor_flips=None, limits=limits
        )
        skip_s = changes.get("skip_s", (1.0,) * 6)
        headline = speed_row(
            TimingPairs("decode", 1, (1.3, 1.31, 1.29, 1.3, 1.3, 1.3)[: len(skip_s)], skip_s),
            prompt_tokens=16,
            output_tokens=32,
            dtype="bfloat16",
            backend="graph",
            routing="trained",
            skip_rate=0.3,
            skippable_time_share=0.9,
            is_headline=True,
        )
        times = [0.05] * changes.get("n_requests", 1000)
        waited = responses(
            ttft_dense_s=times, ttft_skip_s=times, tpot_dense_s=times, tpot_skip_s=times,
            slo_ttft_s=2.0, slo_tpot_s=changes.get("slo_tpot_s", 0.1), load="peak",
        )  # fmt: skip
        book = load_prices()
        book = book.with_fx(150.0, date(2026, 11, 20), "finance department")
        if changes.get("placeholder_fx"):
            book = replace(book, fx=replace(book.fx, is_placeholder=True))
        money = cost(
            make_cost_inputs(speed=SpeedEstimate(changes.get("log_ratio", math.log(1.3)), 0.01, 6)),
            book,
            gpu_id="aws-g6-xlarge-us-east-1",
            api_id="groq-llama-3.1-8b",
            on=changes.get("on", date(2026, 11, 24)),
            limits=limits,
        )
        evidence = Evidence(
            bounds=bounds(documents, items, limits),
            functional_check=functional,
            hardware_matches_target=changes.get("hardware_matches_target", True),
            test_openings=changes.get("test_openings", 1),
            responses_at_target_load=changes.get("at_target_load", True),
            responses_on_other_device=changes.get("other_device", False),
        )
        rows = gates(confirmed, headline, waited, money, evidence, limits)
        context = VerdictContext(functional_check=functional, threshold_chosen=True, target_device_name="L4")
        return rows, verdict(rows, context)

    return run


def state(rows: list[dict[str, Any]], gate_id: str) -> tuple[str, str | None]:
    """State and reason of one gate."""
    row = next(row for row in rows if row["id"] == gate_id)
    return row["state"], row["reason"]


def test_everything_shown_is_a_go(poc: Make) -> None:
    """A PoC with enough of everything on its target hardware is a Go with one next step."""
    rows, decision = poc()

    assert [row["id"] for row in rows] == list(IDS)
    assert decision["code"] == "go"
    assert (decision["main_reason"], decision["evidence"], decision["banner"]) == ("all_gates_pass", "sufficient", None)
    assert decision["next_actions"] == [{"code": "start_pilot", "params": {}}]


def test_a_functional_check_is_never_a_go(poc: Make) -> None:
    """The same numbers from a CPU or quick run are at most a conditional Go, with a banner."""
    rows, decision = poc(functional_check=True)

    assert decision["code"] == "conditional_go"
    assert (decision["main_reason"], decision["evidence"], decision["banner"]) == (
        "functional_check",
        "insufficient",
        "functional_check",
    )
    assert state(rows, "D1") == ("fail", "functional_check")
    assert {state(rows, name) for name in ("C1", "C2", "C3", "C4")} == {("info", "functional_check")}
    assert {"code": "run_on_target_hardware", "params": {"target_device_name": "L4"}} in decision["next_actions"]


def test_a_model_made_worse_is_a_no_go(poc: Make, make_items: Make) -> None:
    """One answer in ten got worse: quality is refuted, and keeping the dense model is the first advice."""
    rows, decision = poc(items=make_items(500, 100, 0, 400))

    assert state(rows, "Q1") == ("fail", "quality_refuted")
    assert (decision["code"], decision["main_reason"]) == ("no_go", "quality_refuted")
    assert decision["next_actions"][0] == {"code": "keep_dense_model", "params": {}}


def test_a_slower_model_is_a_no_go_with_that_reason(poc: Make) -> None:
    """Slower than dense on every pair: the speed gate is refuted."""
    _, decision = poc(skip_s=(1.5,) * 6, log_ratio=math.log(1.3 / 1.5))

    assert (decision["code"], decision["main_reason"]) == ("no_go", "speed_refuted")


def test_too_few_items_are_insufficient_evidence(poc: Make, make_items: Make) -> None:
    """100 items without a flip neither show nor refute two points: 133 could, 819 were planned."""
    rows, decision = poc(items=make_items(60, both_wrong=40))

    assert state(rows, "Q1") == ("inconclusive", "quality_not_shown")
    assert (decision["code"], decision["evidence"]) == ("no_go_insufficient_evidence", "insufficient")
    assert rows[0]["required_n"] == 133
    assert {"code": "collect_items", "params": {"n": 100, "required_n": 819}} in decision["next_actions"]


def test_too_few_critical_tokens_are_insufficient_evidence(poc: Make, make_document: Make) -> None:
    """100 critical tokens without a failure cannot show 1 %: 299 are needed."""
    documents = [make_document(document_id=f"d{i}") for i in range(5)]

    rows, decision = poc(documents=documents)
    assert state(rows, "Q4") == ("inconclusive", "over_skip_not_shown")
    assert decision["code"] == "no_go_insufficient_evidence"
    assert {"code": "collect_critical_tokens", "params": {"n": 100, "required_n": 299}} in decision["next_actions"]


def test_no_items_at_all(poc: Make) -> None:
    """Without questions quality is not measured, never 0."""
    rows, decision = poc(items=[])

    assert state(rows, "Q1") == ("not_measured", "no_items")
    assert next(row for row in rows if row["id"] == "Q1")["value"] is None
    assert (decision["code"], decision["main_reason"]) == ("no_go_insufficient_evidence", "no_items")


def test_a_failed_must_pass_case_is_a_no_go(poc: Make, make_items: Make) -> None:
    """One listed case that fails stops the project, whatever the averages say."""
    items = make_items(600, 4, 5, 390) + make_items(harmful=1, must_pass=True)

    rows, decision = poc(items=items)
    assert state(rows, "Q6") == ("fail", "must_pass_failed")
    assert (decision["code"], decision["main_reason"]) == ("no_go", "must_pass_failed")


@pytest.mark.parametrize(
    ("changes", "gate_id", "reason", "action"),
    [
        ({"skip_s": (1.0, 1.0, 1.0)}, "S1", "too_few_pairs", "run_more_pairs"),
        ({"skip_s": (1.0, 1.3, 1.0, 1.0, 1.3, 1.0)}, "S1", "speed_not_shown", "run_more_pairs"),
        ({"n_requests": 200}, "S3", "too_few_samples_for_p99", "measure_responses"),
        ({"at_target_load": False}, "S3", "not_at_target_load", "measure_at_target_load"),
        ({"other_device": True}, "S3", "load_test_other_device", "measure_at_target_load"),
        ({"on": date(2027, 6, 1)}, "C3", "price_blocked", "update_prices"),
        ({"on": date(2027, 3, 15)}, "D1", "price_old", "update_prices"),
        ({"placeholder_fx": True}, "D1", "price_unconfirmed", "update_prices"),
        ({"hardware_matches_target": False}, "D1", "hardware_not_target", "run_on_target_hardware"),
        ({"test_openings": 2}, "D1", "test_opened_again", "renew_test_split"),
    ],
)
def test_one_open_point_makes_it_conditional(
    poc: Make, changes: dict[str, Any], gate_id: str, reason: str, action: str
) -> None:
    """Each thing not shown yet turns Go into a conditional Go with its reason and its action."""
    rows, decision = poc(**changes)

    assert state(rows, gate_id)[1] == reason
    assert decision["code"] == "conditional_go"
    assert reason in decision["reasons"]
    assert action in [entry["code"] for entry in decision["next_actions"]]


def test_a_missed_promise_is_a_no_go(poc: Make) -> None:
    """Responses slower than promised to users refute S3, even before a 99th percentile exists."""
    rows, decision = poc(n_requests=50, slo_tpot_s=0.01)

    assert state(rows, "S3") == ("fail", "slo_missed")
    assert decision["code"] == "no_go"


def test_no_saving_is_a_no_go(poc: Make) -> None:
    """A speed-up that frees no machine is refuted on cost: fact, not opinion."""
    rows, decision = poc(log_ratio=0.0)

    assert state(rows, "C3")[0] == state(rows, "C4")[0] == "fail"
    assert decision["code"] == "no_go"
    assert decision["main_reason"] == "saving_refuted"


def test_weak_slice_keeps_a_go_conditional(poc: Make, make_items: Make) -> None:
    """A language in which answers clearly got worse is seen behind a good average."""
    items = make_items(1200, 0, 2, 800) + make_items(30, 12, 0, 0, slice="en")

    rows, decision = poc(items=items)
    assert state(rows, "Q7") == ("fail", "slice_refuted")
    assert (decision["code"], decision["reasons"]) == ("conditional_go", ["slice_refuted"])


def test_no_threshold_is_a_no_go() -> None:
    """If no setting passed on validation, nothing was confirmed and the answer is No-Go."""
    evidence = Evidence(bounds=None, functional_check=False, hardware_matches_target=True, test_openings=0)

    rows = gates(None, None, None, None, evidence, LIMITS)
    decision = verdict(rows, VerdictContext(functional_check=False, threshold_chosen=False))
    assert {row["state"] for row in rows} == {"not_measured"}
    assert all(row["reason"] for row in rows)
    assert (decision["code"], decision["main_reason"]) == ("no_go", "no_threshold_passes")


def test_speed_never_measured_is_insufficient(poc: Make) -> None:
    """Without a measured time there is no reason for any kind of Go."""
    rows, _ = poc()
    for row in rows:
        if row["id"] == "S1":
            row.update(state="not_measured", reason="speed_not_measured", value=None)

    decision = verdict(rows, CONTEXT)
    assert (decision["code"], decision["main_reason"]) == ("no_go_insufficient_evidence", "speed_not_measured")


def test_agreement_within_noise_passes(poc: Make, make_document: Make, make_items: Make) -> None:
    """Two dense runs that differ as much as dense and skip set the bar for agreement."""
    documents = [make_document(document_id=f"d{i}") for i in range(20)]
    items = make_items(85, 8, 7, 0)
    confirmed = confirmation(
        documents, items, skip_rate=0.2, skip_positions_by_class={}, noise_floor_flips=15, limits=LIMITS
    )
    evidence = Evidence(bounds(documents, items, LIMITS), False, True, 1)

    assert state(gates(confirmed, None, None, None, evidence, LIMITS), "Q3") == ("pass", "within_noise_floor")


def row(index: int, high: float, skipped: float = 0.1) -> dict[str, Any]:
    """A sweep row that passes unless its upper bound is too high."""
    return {
        "index": index, "threshold": index / 10, "skip_rate": skipped if index else 0.0,
        "ppl_rise_low": 0.0, "ppl_rise_high": high, "over_skip": 0.0, "agreement": 0.99, "n_items": 0,
    }  # fmt: skip


def test_choice_stops_at_the_first_failure() -> None:
    """A later passing setting is not chosen once one has failed; order of rows does not matter."""
    rows = [row(0, 0.0), row(1, 0.01), row(2, 0.03), row(3, 0.2), row(4, 0.01)]

    assert choose(rows[::-1], LIMITS) == {
        "sweep_index": 2,
        "threshold": 0.2,
        "rule": "fixed_sequence",
        "reason": "last_pass_before_first_fail",
    }


@pytest.mark.parametrize(
    ("rows", "reason", "index"),
    [
        ([row(0, 0.0), row(1, 0.01)], "whole_sequence_passes", 1),
        ([row(0, 0.0), row(1, 0.2)], "first_setting_fails", None),
        ([row(0, 0.0), row(1, 0.0, skipped=0.0)], "no_setting_skips", None),
    ],
)
def test_choice_reasons(rows: list[dict[str, Any]], reason: str, index: int | None) -> None:
    """The dense row never counts as a chosen setting."""
    choice = choose(rows, LIMITS)

    assert (choice["reason"], choice["sweep_index"]) == (reason, index)
    assert reason in codes.CHOICE_REASONS


def test_bounds_must_come_with_a_confirmation(poc: Make) -> None:
    """Gates without their bounds are refused instead of guessed."""
    evidence = Evidence(None, False, True, 1)

    with pytest.raises(RecordError, match=r"kpis\.quality\.bounds"):
        gates({"n_items": 1}, None, None, None, evidence, LIMITS)


def test_verdict_needs_every_gate(poc: Make) -> None:
    """A forgotten gate cannot lead to a verdict, and neither can a gate without a reason."""
    rows, _ = poc()

    with pytest.raises(RecordError, match="expected the gates"):
        verdict(rows[1:], CONTEXT)
    rows[0].update(state="inconclusive", reason=None)
    with pytest.raises(RecordError, match="expected a reason"):
        verdict(rows, CONTEXT)


def test_gate_kinds_are_the_catalog() -> None:
    """Gates, catalog and their order are one list."""
    assert tuple(KINDS) == IDS


@pytest.mark.parametrize("name", ["static_drop", "int8"])
def test_a_better_rival_is_named(poc: Make, name: str) -> None:
    """A Go becomes conditional, says which rival is better and asks to prefer it."""
    rows, before = poc()
    after = verdict(rows, CONTEXT, [{"name": name, "state": "better"}])

    assert before["code"] == "go"
    assert (after["code"], after["main_reason"]) == ("conditional_go", f"{name}_better")
    assert after["next_actions"] == [{"code": f"prefer_{name}", "params": {}}]


def test_a_rival_never_improves_a_verdict(poc: Make) -> None:
    """A No-Go stays a No-Go with its own reasons; a rival that is worse or not measured changes nothing."""
    slower, refused = poc(skip_s=(1.4,) * 6)
    rows, passed = poc()

    assert verdict(slower, CONTEXT, [{"name": "int8", "state": "better"}]) == refused
    for state in ("not_better", "not_measured"):
        assert verdict(rows, CONTEXT, [{"name": "int8", "state": state}]) == passed
