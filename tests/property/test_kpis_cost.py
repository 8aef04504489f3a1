import math
from dataclasses import replace
from datetime import date
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kpis.cost import cost
from kpis.cost_inputs import CostInputs, Spending, Spread, Volume
from kpis.cost_risk import annuity, npv, payback_months
from kpis.economics import break_even_requests, economics, roi
from kpis.limits import GateLimits
from kpis.prices import load_prices
from kpis.speed import SpeedEstimate, percentiles
from kpis.spot import blended_hourly

BOOK = load_prices()
INPUTS = CostInputs(
    1.25, SpeedEstimate(math.log(1.3), 0.02, 6), Volume(1e6, 500, 200, 5.0), Spending(8e4, 5.0), n_draws=200
)
PRICING: dict[str, Any] = {
    "gpu_id": "aws-g6e-xlarge-tokyo", "api_id": "groq-llama-3.1-8b", "on": date(2026, 11, 24), "limits": GateLimits(),
}  # fmt: skip
AMOUNT = st.floats(1.0, 1e6)


def in_order(draws: dict[str, float]) -> bool:
    """Percentiles rise, and a probability is one."""
    return draws["p10"] <= draws["p50"] <= draws["p90"] and 0.0 <= draws["prob_positive"] <= 1.0


@given(
    st.floats(-0.3, 0.5), st.floats(0.0, 0.3), st.integers(2, 20), st.floats(0.01, 50.0), st.floats(0.0, 0.9),
    st.integers(0, 5),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_percentiles_are_ordered_and_nobody_pays_less_than_nothing(
    log_mean: float, log_se: float, n_pairs: int, peak: float, spread: float, seed: int
) -> None:
    """Whatever the inputs: P10 <= P50 <= P90, no negative bill, and every tornado bar spans its factor."""
    inputs = replace(
        INPUTS, speed=SpeedEstimate(log_mean, log_se, n_pairs), spread=Spread(price=spread, volume=spread),
        volume=replace(INPUTS.volume, peak_requests_per_s=peak),
    )  # fmt: skip
    money = cost(inputs, BOOK, seed=seed, **PRICING)
    business = economics(inputs, BOOK, seed=seed, **PRICING)

    assert in_order(money["saving_jpy"])
    assert in_order(money["npv_jpy"])
    assert in_order(business["roi"])
    assert min(money["monthly_jpy"][side] for side in ("dense", "skip", "api")) > 0
    assert (money["monthly_jpy"]["skip"] <= money["monthly_jpy"]["dense"]) == (
        money["replicas"]["skip"] <= money["replicas"]["dense"]
    )


@given(st.integers(0, 3), st.floats(1.0, 3.0))
@settings(max_examples=10, deadline=None)
def test_risk_figures_never_gain_from_higher_cost(seed: int, factor: float) -> None:
    """More engineer days or more upkeep never raise the NPV, at the same draws."""
    base = cost(INPUTS, BOOK, seed=seed, **PRICING)["npv_jpy"]
    spending = replace(INPUTS.spending, investment_engineer_days=5.0 * factor, upkeep_other_jpy_per_month=1e4 * factor)
    dearer = cost(replace(INPUTS, spending=spending), BOOK, seed=seed, **PRICING)["npv_jpy"]

    assert all(dearer[key] <= base[key] for key in ("p10", "p50", "p90", "prob_positive"))


@given(AMOUNT, AMOUNT, st.integers(1, 60), st.floats(0.0, 0.3), st.floats(1.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_npv_and_payback_agree(investment: float, saving: float, months: int, rate: float, factor: float) -> None:
    """More saving is never worth less; at a rate of 0 the NPV is positive exactly when payback is in time."""
    assert npv(investment, saving * factor, months, rate) >= npv(investment, saving, months, rate)
    assert annuity(months, rate) <= months
    back = payback_months(investment, saving)
    assert back is not None
    if not math.isclose(back, months, rel_tol=1e-9):
        assert (npv(investment, saving, months, 0.0) > 0) == (back < months)


@given(AMOUNT, st.floats(0.001, 100.0), st.floats(1.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_break_even_is_monotone(monthly: float, per_request: float, factor: float) -> None:
    """Dearer machines need more requests to pay, a dearer API fewer."""
    base = break_even_requests(monthly, per_request)

    assert break_even_requests(monthly * factor, per_request) >= base
    assert break_even_requests(monthly, per_request * factor) <= base


@given(AMOUNT, st.floats(0.01, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 0.5))
@settings(max_examples=60, deadline=None)
def test_spot_hours_lie_between_the_two_prices(
    price: float, discount: float, one: float, other: float, overhead: float
) -> None:
    """The blended price lies between both, and a larger spot share costs no more while spot is cheaper."""
    spot = price * discount
    ends = sorted((price, spot * (1 + overhead)))
    low, high = sorted((one, other))

    assert ends[0] * (1 - 1e-9) <= blended_hourly(price, spot, one, overhead) <= ends[1] * (1 + 1e-9)
    if spot * (1 + overhead) <= price:
        less, more = (blended_hourly(price, spot, share, overhead) for share in (low, high))
        assert more <= less * (1 + 1e-9)


@given(AMOUNT, st.floats(0.0, 1e5), st.floats(0.0, 1e5), st.integers(1, 60), st.floats(1.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_return_rises_with_savings_and_falls_with_spending(
    investment: float, saving: float, upkeep: float, months: int, factor: float
) -> None:
    """More saved is a higher return; more spent is a lower one; nothing saved loses everything."""
    base, saved, spent, nothing = (
        roi(*arguments, months)
        for arguments in (
            (investment, saving, upkeep), (investment, saving * factor, upkeep),
            (investment * factor, saving, upkeep), (investment, 0.0, upkeep),
        )
    )  # fmt: skip

    assert base is not None
    assert saved is not None
    assert spent is not None
    assert saved >= base - 1e-9
    assert spent <= base + 1e-9
    assert nothing == -1.0


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=50))
@settings(max_examples=60, deadline=None)
def test_response_percentiles_are_ordered(samples: list[float]) -> None:
    """The median is not above the 90th percentile, nor that above the 99th, nor any outside the samples."""
    found = percentiles(samples, min_p99_samples=1)

    assert min(samples) - 1e-9 <= found["p50"] <= found["p90"] <= found["p99"] <= max(samples) + 1e-9
