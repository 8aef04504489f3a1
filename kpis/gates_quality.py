"""Gates Q1 to Q7, from the counts of the confirmation and its one-sided bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kpis.errors import RecordError
from kpis.gate import gate, judge_lower, judge_upper, reason_for
from kpis.limits import GateLimits
from kpis.paired import tango_lower_bound
from kpis.planning import items_for_power
from kpis.proportions import clopper_pearson, required_n_rate
from kpis.records import QualityBounds

QUALITY_IDS = ("Q1", "Q2", "Q3", "Q4", "Q5", "Q6", "Q7")
Confirmation = Mapping[str, Any]


def quality_gates(
    confirmation: Confirmation | None, bounds: QualityBounds | None, limits: GateLimits
) -> list[dict[str, Any]]:
    """Gates Q1 to Q7 in order; all "not measured" when no threshold was chosen.

    Raises:
        RecordError: when a confirmation comes without its bounds.
    """
    if confirmation is None:
        registered = {
            "Q1": -limits.quality_margin,
            "Q2": limits.max_flip_rate,
            "Q3": limits.min_agreement,
            "Q4": limits.max_over_skip,
            "Q5": limits.max_selectivity,
            "Q6": limits.max_must_pass_failures,
            "Q7": -limits.slice_margin,
        }
        return [gate(name, "not_measured", "no_threshold_chosen", limit=registered[name]) for name in QUALITY_IDS]
    if bounds is None:
        raise RecordError(
            "gates: expected evidence.bounds beside a confirmation, got None; compute them with kpis.quality.bounds "
            "from the same records"
        )
    return [
        _non_inferiority(confirmation, bounds, limits),
        _flips(confirmation, bounds, limits),
        _agreement(confirmation, bounds, limits),
        _over_skip(confirmation, bounds, limits),
        _selectivity(confirmation, limits),
        _must_pass(confirmation, limits),
        _worst_slice(bounds, limits),
    ]


def _non_inferiority(c: Confirmation, bounds: QualityBounds, limits: GateLimits) -> dict[str, Any]:
    """Q1: the lower bound of the accuracy difference stays above minus the margin."""
    limit, n = -limits.quality_margin, c["n_items"]
    if not n or bounds.delta_low is None:
        return gate("Q1", "not_measured", "no_items", n=0, limit=limit)
    delta = (c["n_helpful"] - c["n_harmful"]) / n
    state = judge_lower(bounds.delta_low, bounds.delta_high, limit, strict=True)
    needed = items_needed(c, bounds.delta_low, limits) if state == "inconclusive" else None
    return gate(
        "Q1",
        state,
        reason_for(state, "quality_refuted", "quality_not_shown"),
        value=delta,
        low=bounds.delta_low,
        high=bounds.delta_high,
        n=n,
        limit=limit,
        required_n=needed,
    )


def items_needed(c: Confirmation, delta_low: float, limits: GateLimits) -> int | None:
    """Items with which Q1 could be decided, at the observed share of flips.

    The n at which the score test really has the registered power for a true difference of 0; if that many were
    already asked, the n at which the present interval would have shrunk to the margin. None when the observed loss
    is at or beyond the margin: more items would not help.
    """
    n, margin = int(c["n_items"]), limits.quality_margin
    delta: float = (c["n_helpful"] - c["n_harmful"]) / n
    if delta <= -margin:
        return None
    flip_rate = (c["n_helpful"] + c["n_harmful"]) / n
    planned = items_for_power(flip_rate, margin, limits.alpha, limits.power)
    if planned is None:
        return None
    # Items of one source repeat each other: scale by how much wider the interval is than for independent items.
    independent = tango_lower_bound(c["n_harmful"], c["n_helpful"], n, limits.alpha)
    design = ((delta - delta_low) / (delta - independent)) ** 2
    shrunk = math.ceil(n * ((delta - delta_low) / (delta + margin)) ** 2)
    needed = math.ceil(planned * max(1.0, design))
    return needed if needed > n else max(shrunk, n + 1)


def _flips(c: Confirmation, bounds: QualityBounds, limits: GateLimits) -> dict[str, Any]:
    """Q2: few answers change sides, and fewer still from right to wrong. The part that decides is shown."""
    n = c["n_items"]
    if not n or bounds.flip_high is None or bounds.harmful_high is None:
        return gate("Q2", "not_measured", "no_items", n=0, limit=limits.max_flip_rate)
    parts = [
        ("harmful_flips", c["n_harmful"] / n, bounds.harmful_low, bounds.harmful_high, limits.max_harmful_rate),
        ("flips", (c["n_harmful"] + c["n_helpful"]) / n, bounds.flip_low, bounds.flip_high, limits.max_flip_rate),
    ]
    states = [judge_upper(low, high, limit) for _, _, low, high, limit in parts]
    order = ("fail", "inconclusive", "pass")
    worst = min(range(2), key=lambda i: (order.index(states[i]), i))
    # With both passing, all flips are the number the gate is named after.
    worst = 1 if states == ["pass", "pass"] else worst
    name, value, low, high, limit = parts[worst]
    state = states[worst]
    needed = cases_needed(value, high, n, limit, limits.alpha) if state == "inconclusive" else None
    reason = reason_for(state, f"{name}_refuted", f"{name}_not_shown")
    return gate("Q2", state, reason, value=value, low=low, high=high, n=n, limit=limit, required_n=needed)


def cases_needed(value: float, high: float, n: int, limit: float, alpha: float) -> int | None:
    """Cases with which an "at most" gate could be passed at the observed share; None when more would not help."""
    needed = required_n_rate(value, limit, alpha)
    if needed is None:
        return None
    exact = clopper_pearson(round(value * n), n, 1.0 - 2.0 * alpha)[1]
    if high > exact + 1e-12:  # the clusters decide, so the interval shrinks with the square root
        needed = max(needed, math.ceil(n * ((high - value) / (limit - value)) ** 2))
    return max(needed, n + 1)


def _agreement(c: Confirmation, bounds: QualityBounds, limits: GateLimits) -> dict[str, Any]:
    """Q3: most answers are the same, or as many as between two runs of the dense model."""
    limit, n = limits.min_agreement, c["n_items"]
    if not n or bounds.agreement_low is None:
        return gate("Q3", "not_measured", "no_items", n=0, limit=limit)
    share = c["n_same_answer"] / n
    state = judge_lower(bounds.agreement_low, bounds.agreement_high, limit)
    reason = reason_for(state, "agreement_refuted", "agreement_not_shown")
    floor = c["noise_floor_flips"]
    if state != "pass" and floor is not None and c["n_same_answer"] >= n - floor:
        state, reason = "pass", "within_noise_floor"
    return gate(
        "Q3", state, reason, value=share, low=bounds.agreement_low, high=bounds.agreement_high, n=n, limit=limit
    )


def _over_skip(c: Confirmation, bounds: QualityBounds, limits: GateLimits) -> dict[str, Any]:
    """Q4: critical tokens are not damaged by skipping."""
    limit, n = limits.max_over_skip, c["n_critical"]
    if not n or bounds.over_skip_high is None:
        return gate("Q4", "not_measured", "no_critical_tokens", n=0, limit=limit)
    share, low, high = c["n_over_skipped"] / n, bounds.over_skip_low, bounds.over_skip_high
    state = judge_upper(low, high, limit)
    needed = cases_needed(share, high, n, limit, limits.alpha) if state == "inconclusive" else None
    reason = reason_for(state, "over_skip_refuted", "over_skip_not_shown")
    return gate("Q4", state, reason, value=share, low=low, high=high, n=n, limit=limit, required_n=needed)


def _selectivity(c: Confirmation, limits: GateLimits) -> dict[str, Any]:
    """Q5: critical tokens are skipped less than others. Information until the limit is calibrated."""
    critical, other = c["skip_share_critical"], c["skip_share_other"]
    if critical is None or not other:
        return gate("Q5", "info", "selectivity_undefined", limit=limits.max_selectivity)
    return gate("Q5", "info", "info_only", value=critical / other, n=c["n_critical"], limit=limits.max_selectivity)


def _must_pass(c: Confirmation, limits: GateLimits) -> dict[str, Any]:
    """Q6: listed cases that must be right."""
    n, failed, limit = c["n_must_pass"], c["n_must_pass_failed"], limits.max_must_pass_failures
    if not n:
        return gate("Q6", "info", "no_must_pass_cases", n=0, limit=limit)
    state = "pass" if failed <= limit else "fail"
    # The bound is the number of failures to expect at worst among n such cases.
    high = clopper_pearson(failed, n, 1.0 - 2.0 * limits.alpha)[1] * n
    return gate("Q6", state, reason_for(state, "must_pass_failed", ""), value=failed, high=high, n=n, limit=limit)


def _worst_slice(bounds: QualityBounds, limits: GateLimits) -> dict[str, Any]:
    """Q7: no slice loses more than its margin."""
    limit = -limits.slice_margin
    if bounds.worst_slice_low is None:
        return gate("Q7", "not_measured", "slices_too_small", limit=limit, required_n=limits.min_slice_n)
    state = judge_lower(bounds.worst_slice_low, bounds.worst_slice_high, limit, strict=True)
    reason = reason_for(state, "slice_refuted", "slice_not_shown")
    return gate(
        "Q7",
        state,
        reason,
        value=bounds.worst_slice_delta,
        low=bounds.worst_slice_low,
        high=bounds.worst_slice_high,
        n=bounds.worst_slice_n,
        limit=limit,
    )
