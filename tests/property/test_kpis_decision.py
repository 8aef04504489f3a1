import math
from dataclasses import replace
from datetime import date
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kpis import codes
from kpis.cost import cost, jpy_per_mtok, replicas
from kpis.cost_inputs import CostInputs, Spending, Volume
from kpis.decide import verdict
from kpis.gate import KINDS, gate
from kpis.limits import GateLimits
from kpis.prices import load_prices
from kpis.records import VerdictContext
from kpis.speed import SpeedEstimate

ORDER = ("pass", "inconclusive", "not_measured", "fail")
"""States from the best to the worst evidence for a Go."""
RANK = {"go": 0, "conditional_go": 1, "no_go_insufficient_evidence": 2, "no_go": 3}
REASON = {"pass": None, "inconclusive": "quality_not_shown", "not_measured": "no_items", "fail": "quality_refuted"}
BOOK = load_prices()
INPUTS = CostInputs(
    1.25, SpeedEstimate(math.log(1.3), 0.02, 6), Volume(1e6, 500, 200, 5.0), Spending(8e4, 5.0), n_draws=200
)


def rows_of(states: dict[str, str]) -> list[dict[str, Any]]:
    """All gates in the given states."""
    return [gate(name, states[name], REASON[states[name]], value=0.5, n=10, required_n=20) for name in KINDS]


def compute(inputs: CostInputs, book: Any = BOOK) -> dict[str, Any]:
    """The cost object for one machine and one hosted model."""
    return cost(
        inputs,
        book,
        gpu_id="aws-g6e-xlarge-tokyo",
        api_id="groq-llama-3.1-8b",
        on=date(2026, 11, 24),
        limits=GateLimits(),
    )


@given(
    st.fixed_dictionaries({name: st.sampled_from(("pass", "pass", "pass", *ORDER)) for name in KINDS}),
    st.sampled_from(list(KINDS)),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_worse_evidence_never_improves_the_verdict(
    states: dict[str, str], name: str, steps: int, functional_check: bool
) -> None:
    """Moving any gate towards worse evidence leaves the verdict or makes it worse."""
    context = VerdictContext(functional_check=functional_check, threshold_chosen=True)
    worse = ORDER[min(len(ORDER) - 1, ORDER.index(states[name]) + steps)]

    before = verdict(rows_of(states), context)
    after = verdict(rows_of({**states, name: worse}), context)
    assert RANK[after["code"]] >= RANK[before["code"]]


@given(st.fixed_dictionaries({name: st.sampled_from(("pass", "pass", *ORDER)) for name in KINDS}), st.booleans())
@settings(max_examples=60, deadline=None)
def test_verdicts_use_listed_codes_and_functional_checks_never_go(
    states: dict[str, str], functional_check: bool
) -> None:
    """Codes, reasons and action params come from the lists; a functional check is never a Go."""
    decision = verdict(rows_of(states), VerdictContext(functional_check=functional_check, threshold_chosen=True))

    assert not (functional_check and decision["code"] == "go")
    assert decision["code"] in codes.VERDICT_CODES
    assert decision["main_reason"] == decision["reasons"][0]
    assert set(decision["reasons"]) <= set(codes.VERDICT_REASONS)
    for action in decision["next_actions"]:
        assert set(action["params"]) == set(codes.NEXT_ACTIONS[action["code"]])


@given(st.floats(1, 1e5), st.floats(0.1, 1e5), st.floats(0.01, 1.0), st.floats(1.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_unit_cost_is_monotone(price: float, speed: float, utilisation: float, factor: float) -> None:
    """Dearer never costs less; faster or busier never costs more; the cost is linear in the price."""
    base = jpy_per_mtok(price, speed, utilisation)

    assert math.isclose(jpy_per_mtok(price * factor, speed, utilisation), base * factor, rel_tol=1e-9)
    assert jpy_per_mtok(price, speed * factor, utilisation) <= base
    assert jpy_per_mtok(price, speed, min(1.0, utilisation * factor)) <= base


@given(st.floats(0.01, 1000), st.floats(0.01, 100), st.floats(0.1, 1.0), st.floats(1.0, 3.0))
@settings(max_examples=60, deadline=None)
def test_replicas_are_monotone(peak: float, q_slo: float, load: float, factor: float) -> None:
    """More demand never needs fewer machines, a faster machine never needs more, and the peak is covered."""
    n = replicas(peak, q_slo, load)

    assert replicas(peak * factor, q_slo, load) >= n
    assert replicas(peak, q_slo * factor, load) <= n
    assert n * q_slo * load >= peak * (1 - 1e-8)


@given(st.floats(1.0, 2.0), st.floats(1.0, 4.0), st.floats(1.0, 2.0))
@settings(max_examples=20, deadline=None)
def test_monthly_cost_is_monotone_in_price_volume_and_speed(price: float, volume: float, speed: float) -> None:
    """Through the whole model: dearer and more demand never cost less, a larger speed-up never more."""
    base = compute(INPUTS)["monthly_jpy"]
    dearer = compute(INPUTS, BOOK.with_fx(BOOK.fx.jpy_per_usd * price, date(2026, 11, 20), "test"))["monthly_jpy"]
    demand = replace(INPUTS.volume, peak_requests_per_s=5.0 * volume, requests_per_month=1e6 * volume)
    busier = compute(replace(INPUTS, volume=demand))["monthly_jpy"]
    faster = compute(replace(INPUTS, speed=SpeedEstimate(math.log(1.3 * speed), 0.02, 6)))["monthly_jpy"]

    assert all(dearer[key] >= base[key] - 1e-6 for key in ("dense", "skip", "api"))
    assert all(busier[key] >= base[key] - 1e-6 for key in ("dense", "skip", "api"))
    assert faster["skip"] <= base["skip"]
    assert faster["dense"] == base["dense"]
