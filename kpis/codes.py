"""Every code this package can emit, in one place.

A code is a stable snake_case word in result.json; the reports room holds its Japanese and English
sentence. A new code goes here first, or the test that collects emitted codes fails.
"""

from __future__ import annotations

GATE_STATES = ("pass", "fail", "inconclusive", "not_measured", "info")
"""fail = refuted (the whole interval is on the wrong side), inconclusive = the interval straddles the limit."""

SWEEP_FAIL_REASONS = (
    "quality_refuted",  # the whole interval of the perplexity rise is above the limit
    "quality_not_shown",  # only the upper bound of the perplexity rise is above the limit
    "items_refuted",  # answer accuracy is worse than the margin, with the whole interval
    "critical_over_skip",  # share of over-skipped critical tokens above the validation limit
    "no_critical_tokens",  # nothing to check the guard on, so the row cannot pass
    "agreement_low",  # too many next-token choices differ from the dense model
)
"""`sweep[].fail_reasons`."""

CHOICE_REASONS = (
    "last_pass_before_first_fail",  # the fixed sequence stopped at a failing setting
    "whole_sequence_passes",  # even the most aggressive measured setting passes
    "first_setting_fails",  # the most conservative setting that skips anything already fails
    "no_setting_skips",  # no measured setting skips anything
)
"""`choice.reason`."""

GATE_REASONS = (
    # common
    "no_threshold_chosen",  # no setting passed on validation, so nothing was confirmed
    "functional_check",  # CPU or quick run: shown, but never evidence for a Go
    "info_only",  # this KPI has no limit
    # quality
    "no_items",
    "quality_refuted",
    "quality_not_shown",
    "flips_refuted",
    "flips_not_shown",
    "harmful_flips_refuted",
    "harmful_flips_not_shown",
    "agreement_refuted",
    "agreement_not_shown",
    "within_noise_floor",  # passes because two dense runs differ as much
    "no_critical_tokens",
    "over_skip_refuted",
    "over_skip_not_shown",
    "selectivity_undefined",  # nothing was skipped, or there are no critical tokens
    "no_must_pass_cases",
    "must_pass_failed",
    "slices_too_small",  # no slice has enough items
    "slice_refuted",
    "slice_not_shown",
    # speed
    "speed_not_measured",
    "speed_refuted",
    "speed_not_shown",
    "too_few_pairs",
    "conversion_undefined",  # the estimated ceiling is 1: nothing was skipped
    "responses_not_measured",
    "too_few_samples_for_p99",
    "not_at_target_load",
    "load_test_other_device",  # the load test was made on another device than the run
    "slo_missed",
    "goodput_low",
    "energy_not_measured",
    # cost
    "cost_not_computed",
    "price_blocked",  # price or exchange rate too old for a Go on cost
    "saving_refuted",
    "saving_not_shown",
    "not_recovered",  # the saving never pays the investment back
    "payback_refuted",
    "payback_not_shown",
    "passed_by_npv",
    "accuracy_unknown",
    # evidence
    "hardware_not_target",
    "too_few_items",
    "too_few_critical_tokens",
    "price_old",  # above the warning age
    "price_unconfirmed",  # the rate is a placeholder, or the price has no date, a future date or confidence C
    "test_opened_again",
)
"""`gates[].reason`; null means the gate needs no explanation."""

VERDICT_CODES = ("go", "conditional_go", "no_go", "no_go_insufficient_evidence")
"""`verdict.code`, best first."""

VERDICT_ONLY_REASONS = (
    "all_gates_pass",
    "no_threshold_passes",
    "static_drop_better",  # dropping whole layers is no worse at the same skip rate, and needs no router
    "int8_better",  # int8 weights are no worse and at least as fast
)
VERDICT_REASONS = VERDICT_ONLY_REASONS + GATE_REASONS
"""`verdict.main_reason` and `verdict.reasons`."""

RIVAL_STATES = ("better", "not_better", "not_measured")
"""`rivals[].state`."""

RIVAL_REASONS = (
    "no_worse_and_simpler",
    "rival_predicts_worse",
    "rival_not_shown_equal",
    "rival_saves_less",
    "rival_not_timed",
    "static_drop_not_measured",
    "int8_not_measured",
    "no_threshold_chosen",
)
"""`rivals[].reason`."""

ECONOMICS_REASONS = ("beyond_capacity", "nothing_spent", "no_spot_price", "accuracy_unknown", "energy_not_measured")
"""Why a figure of `kpis.economics` or `kpis.energy` is missing or out of reach."""

DETAIL_REASONS = ("no_items", "noise_floor_not_measured", "answers_not_generated")
"""Why a part of `detail` is missing."""

DIFFERENCE_CAUSES = (
    "plan_changed",
    "plan_edited",
    "prices_changed",
    "load_test_changed",
    "code_changed",
    "records_changed",
    "date_changed",
)
"""Why a recomputed result differs from the stored one."""

NEXT_ACTIONS: dict[str, tuple[str, ...]] = {
    "start_pilot": (),
    "keep_dense_model": (),
    "run_on_target_hardware": ("target_device_name",),  # name or "" when none is registered
    "collect_items": ("n", "required_n"),
    "collect_critical_tokens": ("n", "required_n"),
    "add_question_items": (),
    "add_critical_tokens": (),
    "run_more_pairs": ("n", "required_n"),
    "measure_speed": (),
    "measure_responses": ("n", "required_n"),
    "measure_at_target_load": (),
    "speed_up_engine": ("measured_speedup", "limit"),  # skipping does not turn into time
    "retrain_skip_model": (),
    "use_lower_threshold": (),  # accept fewer skipped layers
    "review_must_pass_cases": ("n_failed", "n"),
    "exclude_weak_slices": (),
    "review_changed_answers": (),
    "update_prices": ("age_days", "limit_days"),
    "compute_cost": (),
    "recheck_cost_case": ("probability", "limit"),
    "renew_test_split": ("test_openings", "limit"),
    "prefer_static_drop": (),
    "prefer_int8": (),
}
"""`verdict.next_actions[].code` -> names of its params; every param is a number unless said otherwise."""

EVIDENCE_STATES = ("sufficient", "insufficient")
"""`verdict.evidence`."""

BANNERS = ("functional_check",)
"""`verdict.banner` (or null)."""

FUNCTIONAL_CHECK_REASONS = ("cpu_device", "quick_profile")
"""`run.functional_check_reasons`."""

PRICE_STALE_STATES = ("ok", "warning", "block")
"""`cost.price.stale`, the worse of the hourly price and the exchange rate."""

PAYBACK_REASONS = ("not_recovered",)
"""`cost.payback_months.reason` when `p50` is null."""

TORNADO_FACTORS = ("speed_ratio", "price", "fx", "volume", "target_load", "upkeep", "investment")
"""`cost.tornado[].factor`."""

COST_BASES = ("measured_this_machine", "measured_target_device")
"""`cost.basis`: on which machine the seconds were measured."""

RESPONSE_BASES = ("sequential", "load_test")
"""`responses.basis`: one request at a time, or under the load of a load test."""

UNITS = (
    "fraction",
    "points",
    "ratio",
    "seconds",
    "jpy",
    "jpy_per_mtok",
    "count",
    "months",
    "per_s",
)
"""`gates[].unit` and the units of the catalog."""

COMPARATORS = ("lower_gt", "upper_le", "lower_ge", "le", "ge", "eq", "info")
"""`gates[].comparator`: which number of the gate is held against its limit."""
