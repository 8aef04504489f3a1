"""What to do next, with the numbers that make it an order: how many items, how many runs, which device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kpis.codes import NEXT_ACTIONS
from kpis.records import VerdictContext

ACTIONS_OF_REASON: dict[str, tuple[str, ...]] = {
    "functional_check": ("run_on_target_hardware",),
    "hardware_not_target": ("run_on_target_hardware",),
    "no_threshold_passes": ("retrain_skip_model",),
    "no_items": ("add_question_items",),
    "quality_refuted": ("use_lower_threshold", "retrain_skip_model"),
    "quality_not_shown": ("collect_items",),
    "flips_refuted": ("use_lower_threshold", "review_changed_answers"),
    "flips_not_shown": ("collect_items",),
    "harmful_flips_refuted": ("use_lower_threshold", "review_changed_answers"),
    "harmful_flips_not_shown": ("collect_items",),
    "agreement_refuted": ("review_changed_answers",),
    "agreement_not_shown": ("review_changed_answers",),
    "no_critical_tokens": ("add_critical_tokens",),
    "over_skip_refuted": ("use_lower_threshold", "retrain_skip_model"),
    "over_skip_not_shown": ("collect_critical_tokens",),
    "must_pass_failed": ("review_must_pass_cases",),
    "slices_too_small": ("exclude_weak_slices",),
    "slice_refuted": ("exclude_weak_slices",),
    "slice_not_shown": ("exclude_weak_slices",),
    "speed_not_measured": ("measure_speed",),
    "speed_refuted": ("speed_up_engine",),
    "speed_not_shown": ("run_more_pairs",),
    "too_few_pairs": ("run_more_pairs",),
    "responses_not_measured": ("measure_responses",),
    "too_few_samples_for_p99": ("measure_responses",),
    "not_at_target_load": ("measure_at_target_load",),
    "load_test_other_device": ("measure_at_target_load",),
    "slo_missed": ("speed_up_engine",),
    "cost_not_computed": ("compute_cost",),
    "price_blocked": ("update_prices",),
    "price_old": ("update_prices",),
    "price_unconfirmed": ("update_prices",),
    "saving_refuted": ("recheck_cost_case",),
    "saving_not_shown": ("recheck_cost_case",),
    "not_recovered": ("recheck_cost_case",),
    "payback_refuted": ("recheck_cost_case",),
    "payback_not_shown": ("recheck_cost_case",),
    "too_few_items": ("collect_items",),
    "too_few_critical_tokens": ("collect_critical_tokens",),
    "test_opened_again": ("renew_test_split",),
    "static_drop_better": ("prefer_static_drop",),
    "int8_better": ("prefer_int8",),
}
"""Every verdict reason that calls for an action; `all_gates_pass` leads to `start_pilot`."""

ITEM_GATES = ("Q1", "Q2", "D1")
_REASONS_FOR_N = {
    "collect_items": {
        "quality_not_shown", "flips_not_shown", "harmful_flips_not_shown", "too_few_items",
    },
    "collect_critical_tokens": {"over_skip_not_shown", "too_few_critical_tokens"},
    "run_more_pairs": {"speed_not_shown", "too_few_pairs"},
}  # fmt: skip


def next_actions(
    code: str, reasons: Sequence[str], by_id: Mapping[str, Mapping[str, Any]], context: VerdictContext
) -> list[dict[str, Any]]:
    """The `verdict.next_actions` list, each action once.

    An action that asks for more cases carries the largest number any gate asks for; where no number of cases
    would help, it is replaced by a lower threshold (quality) or a faster engine (speed).
    """
    names: list[str] = []
    if code == "go":
        names.append("start_pilot")
    if code == "no_go":
        names.append("keep_dense_model")
    for reason in reasons:
        names.extend(ACTIONS_OF_REASON.get(reason, ()))
    if context.functional_check:  # whatever it found, only the target hardware can prove it
        names.append("run_on_target_hardware")
    actions: list[dict[str, Any]] = []
    for name in dict.fromkeys(names):
        replaced, params = _fill(name, by_id, context)
        if replaced not in [action["code"] for action in actions]:
            actions.append({"code": replaced, "params": params})
    return actions


def _fill(name: str, by_id: Mapping[str, Mapping[str, Any]], context: VerdictContext) -> tuple[str, dict[str, Any]]:
    """Action with its params, or its replacement when more cases would not help."""
    if name in _REASONS_FOR_N:
        asking = [
            row for row in by_id.values() if row["reason"] in _REASONS_FOR_N[name] and row["required_n"] is not None
        ]
        if not asking:
            fallback = "speed_up_engine" if name == "run_more_pairs" else "use_lower_threshold"
            return _fill(fallback, by_id, context)
        most = max(asking, key=lambda row: int(row["required_n"]))
        return name, {"n": most["n"], "required_n": most["required_n"]}
    saving, must_pass, speed, waiting = by_id["C3"], by_id["Q6"], by_id["S1"], by_id["S3"]
    params: dict[str, dict[str, Any]] = {
        "run_on_target_hardware": {"target_device_name": context.target_device_name},
        "measure_responses": {"n": waiting["n"] or 0, "required_n": waiting["required_n"] or 1000},
        "speed_up_engine": {"measured_speedup": speed["value"], "limit": speed["limit"]},
        "review_must_pass_cases": {"n_failed": must_pass["value"], "n": must_pass["n"]},
        "update_prices": {"age_days": context.price_age_days, "limit_days": context.price_limit_days},
        "recheck_cost_case": {"probability": saving["value"], "limit": saving["limit"]},
        "renew_test_split": {"test_openings": context.test_openings, "limit": context.max_test_openings},
    }
    filled = params.get(name, {})
    if set(filled) != set(NEXT_ACTIONS[name]):
        raise KeyError(f"action {name}: params {sorted(filled)} differ from codes.NEXT_ACTIONS")
    return name, filled
