"""The gate of each week: whether the month goes on, from records alone, by the stop rules of the plan."""

from __future__ import annotations

from typing import Any

from flows.month_record import Gate
from kpis.limits import GateLimits
from kpis.planning import MAX_ITEMS, items_for_power


def needed_items(limits: GateLimits) -> int:
    """Return the question items that the registered margin takes, in items."""
    return items_for_power(limits.planning_flip_rate, limits.quality_margin, limits.alpha, limits.power) or MAX_ITEMS


def enough_items(n_items: int, limits: GateLimits, *, stops: bool) -> Gate:
    """W1: are there enough items for the one test to show what it is meant to show?"""
    needed = needed_items(limits)
    if n_items >= needed:
        return Gate("pass", "enough_items", f"{n_items} of {needed} question items", n_items, needed)
    text = f"{n_items} question items, the registered margin takes {needed}"
    return Gate("stop" if stops else "warn", "too_few_items", text, n_items, needed)


def threshold_found(choice: dict[str, Any], *, stops: bool) -> Gate:
    """W2: does any threshold pass on validation?"""
    if choice["threshold"] is not None:
        return Gate("pass", "threshold_chosen", f"threshold {choice['threshold']:.3f}", choice["threshold"])
    return Gate("stop" if stops else "warn", "no_threshold", f"no threshold passes ({choice['reason']})")


def speed_not_refuted(headline: dict[str, Any], limits: GateLimits, *, stops: bool) -> Gate:
    """W3: may the registered speed-up still be reached, or does the whole interval lie below it?"""
    low, value, high = headline["low"], headline["measured_speedup"], headline["high"]
    if high is None or value is None:
        return Gate("warn", "speed_not_measured", "too few timing pairs for an interval", value, limits.min_speedup)
    text = f"decode {value:.2f}x ({low:.2f} to {high:.2f}), registered {limits.min_speedup:.2f}x"
    if high < limits.min_speedup:
        return Gate("stop" if stops else "warn", "speed_refuted", text, value, limits.min_speedup)
    state, code = ("pass", "speed_shown") if low >= limits.min_speedup else ("warn", "speed_open")
    return Gate(state, code, text, value, limits.min_speedup)


def verdict(outcome: dict[str, Any]) -> Gate:
    """W4: what the month concludes; the month ends here whatever it is."""
    code = outcome["verdict"]["code"]
    return Gate("pass", code, f"verdict {code} ({', '.join(outcome['verdict']['reasons'])})")
