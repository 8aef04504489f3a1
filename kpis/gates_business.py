"""Gates S1 to S5, C1 to C5 and D1: speed, cost and whether the evidence is enough."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy.stats import t as student_t

from kpis.gate import gate, judge_lower, reason_for
from kpis.limits import GateLimits
from kpis.planning import MAX_ITEMS, items_for_power
from kpis.proportions import required_n_rate
from kpis.records import Evidence

COST_IDS = ("C1", "C2", "C3", "C4", "C5")
Part = Mapping[str, Any]


def speed_gates(
    headline: Part | None, responses: Part | None, cost: Part | None, evidence: Evidence, limits: GateLimits
) -> list[dict[str, Any]]:
    """Gates S1 to S5 in order."""
    return [
        _speedup(headline, limits),
        _conversion(headline),
        _responses(responses, evidence, limits),
        _goodput(cost),
        gate("S5", "not_measured", "energy_not_measured"),
    ]


def _speedup(row: Part | None, limits: GateLimits) -> dict[str, Any]:
    """S1: the lower end of the measured speed-up clears the limit."""
    limit = limits.min_speedup
    if row is None or row["measured_speedup"] is None:
        return gate("S1", "not_measured", "speed_not_measured", limit=limit)
    value, low, high, n = row["measured_speedup"], row["low"], row["high"], row["n_pairs"]
    numbers = {"value": value, "low": low, "high": high, "n": n, "limit": limit}
    if high is not None and high < limit:
        return gate("S1", "fail", "speed_refuted", **numbers)
    if n < limits.min_pairs or low is None:
        return gate("S1", "inconclusive", "too_few_pairs", required_n=limits.min_pairs, **numbers)
    state = judge_lower(low, high, limit)
    needed = pairs_needed(value, low, n, limit) if state == "inconclusive" else None
    return gate("S1", state, reason_for(state, "speed_refuted", "speed_not_shown"), required_n=needed, **numbers)


def pairs_needed(ratio: float, low: float, n: int, limit: float, confidence: float = 0.95) -> int | None:
    """Timing pairs at which the interval would clear the limit, if the ratio stays as measured.

    **Formula**: smallest m with `t_{m-1} s / sqrt(m) <= log(ratio / limit)`; s from the present interval. None when
    the measured ratio is not above the limit, or more than 10,000 pairs would be needed.
    """
    if ratio <= limit:
        return None
    tail = 0.5 + confidence / 2.0
    spread = math.log(ratio / low) * math.sqrt(n) / float(student_t.ppf(tail, n - 1))
    room = math.log(ratio / limit)
    for m in range(n + 1, 10_001):
        if float(student_t.ppf(tail, m - 1)) * spread / math.sqrt(m) <= room:
            return m
    return None


def _conversion(row: Part | None) -> dict[str, Any]:
    """S2: which share of the estimated gain the clock shows. Information."""
    if row is None or row["measured_speedup"] is None:
        return gate("S2", "not_measured", "speed_not_measured")
    if row["conversion"] is None:
        return gate("S2", "info", "conversion_undefined", n=row["n_pairs"])
    return gate("S2", "info", "info_only", value=row["conversion"], n=row["n_pairs"])


def _responses(responses: Part | None, evidence: Evidence, limits: GateLimits) -> dict[str, Any]:
    """S3: the 99th percentile of both response times, as a share of what users were promised.

    Too few requests give no 99th percentile. Then only a clear miss can be told: if even the 90th percentile
    of 30 or more requests is above the promise, the 99th is too. A load test of another device tells nothing.
    """
    if responses is None:
        return gate("S3", "not_measured", "responses_not_measured", limit=1.0)
    slo, skip = responses["slo"], {key: responses[key]["skip"] for key in ("ttft_s", "tpot_s")}
    n = min(part["n"] for part in skip.values())
    if n == 0:
        return gate("S3", "not_measured", "responses_not_measured", n=0, limit=1.0)
    p90 = _worst_share(skip, slo, "p90")
    if evidence.responses_on_other_device:
        return gate("S3", "inconclusive", "load_test_other_device", value=p90, n=n, limit=1.0)
    if n < limits.min_p99_samples or any("p99" not in part for part in skip.values()):
        missed = (p90 is None or p90 > 1.0) and n >= 30
        state, reason = ("fail", "slo_missed") if missed else ("inconclusive", "too_few_samples_for_p99")
        needed = None if missed else limits.min_p99_samples
        return gate("S3", state, reason, value=p90, n=n, limit=1.0, required_n=needed)
    p99 = _worst_share(skip, slo, "p99")
    if p99 is None or p99 > 1.0:
        return gate("S3", "fail", "slo_missed", value=p99, n=n, limit=1.0)
    is_shown = evidence.responses_at_target_load
    state, open_reason = ("pass", None) if is_shown else ("inconclusive", "not_at_target_load")
    return gate("S3", state, open_reason, value=p99, n=n, limit=1.0)


def _worst_share(skip: Mapping[str, Part], slo: Part, name: str) -> float | None:
    """Largest percentile as a share of its promise; None where it falls among failed requests, which no time holds."""
    found = [(skip[key][name], slo[key]) for key in skip]
    return None if any(time is None for time, _ in found) else max(time / promised for time, promised in found)


def _goodput(cost: Part | None) -> dict[str, Any]:
    """S4: requests per second of one replica within the promised times, against its share of the peak."""
    if cost is None:
        return gate("S4", "not_measured", "cost_not_computed")
    share = cost["volume"]["peak_requests_per_s"] / cost["replicas"]["skip"]
    value = cost["replicas"]["q_slo_skip_per_s"]
    if value >= share:
        return gate("S4", "pass", value=value, limit=share)
    return gate("S4", "fail", "goodput_low", value=value, limit=share)


def cost_gates(cost: Part | None, evidence: Evidence, limits: GateLimits) -> list[dict[str, Any]]:
    """Gates C1 to C5 in order; information only in a functional check."""
    if cost is None:
        return [gate(name, "not_measured", "cost_not_computed") for name in COST_IDS]
    middle = next(row for row in cost["per_mtok_jpy"] if row["utilisation"] == 0.3)
    correct = cost["yen_per_correct_answer"]["skip"]
    reason = "functional_check" if evidence.functional_check else "info_only"
    return [
        gate("C1", "info", reason, value=middle["skip"]),
        gate("C2", "info", reason, value=cost["monthly_jpy"]["skip"]),
        _saving(cost, evidence, limits),
        _payback(cost, evidence, limits),
        gate("C5", "info", "accuracy_unknown" if correct is None else reason, value=correct),
    ]


def _saving(cost: Part, evidence: Evidence, limits: GateLimits) -> dict[str, Any]:
    """C3: probability that the month ends with a saving after upkeep."""
    value, limit = cost["saving_jpy"]["prob_positive"], limits.min_saving_probability
    if evidence.functional_check:
        return gate("C3", "info", "functional_check", value=value, n=cost["n_draws"], limit=limit)
    state, reason = _probability_state(value, limit, limits, "saving_refuted", "saving_not_shown")
    state, reason = _price_rule(state, reason, cost)
    return gate("C3", state, reason, value=value, n=cost["n_draws"], limit=limit)


def _payback(cost: Part, evidence: Evidence, limits: GateLimits) -> dict[str, Any]:
    """C4: the investment comes back in time, or the net present value is positive with enough probability."""
    months, limit = cost["payback_months"]["p50"], limits.max_payback_months
    numbers = {"value": months, "n": cost["n_draws"], "limit": limit}
    if evidence.functional_check:
        return gate("C4", "info", "functional_check", **numbers)
    in_time = months is not None and months <= limit
    refuted = "not_recovered" if months is None else "payback_refuted"
    state, reason = _probability_state(
        cost["npv_jpy"]["prob_positive"], limits.min_npv_probability, limits, refuted, "payback_not_shown"
    )
    if in_time:
        state, reason = "pass", None
    elif state == "pass":
        reason = "passed_by_npv"
    state, reason = _price_rule(state, reason, cost)
    return gate("C4", state, reason, **numbers)


def _probability_state(
    value: float, limit: float, limits: GateLimits, refuted: str, not_shown: str
) -> tuple[str, str | None]:
    if value >= limit:
        return "pass", None
    return ("fail", refuted) if value < limits.refuted_probability else ("inconclusive", not_shown)


def _price_rule(state: str, reason: str | None, cost: Part) -> tuple[str, str | None]:
    """Too old a price cannot carry a Go; it does not rescue a refuted case either."""
    if cost["price"]["stale"] == "block" and state == "pass":
        return "inconclusive", "price_blocked"
    return state, reason


def evidence_gate(
    confirmation: Part | None, headline: Part | None, cost: Part | None, evidence: Evidence, limits: GateLimits
) -> dict[str, Any]:
    """D1: enough items, critical tokens and runs, on the target hardware, with fresh prices, on an unopened test.

    The value is the smallest of (n / required n) over items, critical tokens and pairs. The required number of
    items is the planned one: with so many the test of Q1 really has the registered power at the registered flip
    rate; observed flips do not enter. `n` and
    `required_n` belong to the shortage that the reason names.
    """
    planned = items_for_power(limits.planning_flip_rate, limits.quality_margin, limits.alpha, limits.power)
    needed_items = MAX_ITEMS if planned is None else planned
    needed_critical = required_n_rate(0.0, limits.max_over_skip, limits.alpha) or 1
    n_items = confirmation["n_items"] if confirmation else 0
    n_critical = confirmation["n_critical"] if confirmation else 0
    n_pairs = headline["n_pairs"] if headline else 0
    counts = [
        ("too_few_items", n_items, needed_items),
        ("too_few_critical_tokens", n_critical, needed_critical),
        ("too_few_pairs", n_pairs, limits.min_pairs),
    ]
    value = min(n / needed for _, n, needed in counts)
    lacking = _lacking_conditions(confirmation, evidence, limits)
    if lacking is not None:
        return gate("D1", *lacking, value=value, limit=1.0)
    for reason, n, needed in counts:
        if n < needed:
            return gate("D1", "inconclusive", reason, value=value, n=n, limit=1.0, required_n=needed)
    stale = _lacking_prices(cost, limits)
    if stale is not None:
        return gate("D1", "inconclusive", stale, value=value, limit=1.0)
    return gate("D1", "pass", value=value, limit=1.0)


def _lacking_conditions(confirmation: Part | None, evidence: Evidence, limits: GateLimits) -> tuple[str, str] | None:
    """State and reason of the first condition that no further cases would cure."""
    rules = (
        (evidence.functional_check, "fail", "functional_check"),
        (not evidence.hardware_matches_target, "fail", "hardware_not_target"),
        (confirmation is None, "not_measured", "no_threshold_chosen"),
        (evidence.test_openings > limits.max_test_openings, "inconclusive", "test_opened_again"),
    )
    return next(((state, reason) for applies, state, reason in rules if applies), None)


def _lacking_prices(cost: Part | None, limits: GateLimits) -> str | None:
    """Reason why the prices are no good evidence; a warning at a young age is a placeholder or a future date."""
    if cost is None:
        return "cost_not_computed"
    if cost["price"]["stale"] == "ok":
        return None
    return "price_old" if cost["price"]["age_days"] > limits.price_warning_days else "price_unconfirmed"
