import math
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from kpis.cost import api_monthly_jpy, cost, jpy_per_correct_answer, jpy_per_mtok, replicas
from kpis.cost_inputs import Spending, Volume
from kpis.cost_risk import annuity, npv, payback_months
from kpis.errors import PriceError, RecordError, StatisticsError
from kpis.limits import GateLimits
from kpis.prices import load_prices
from kpis.speed import SpeedEstimate

Make = Callable[..., Any]
ON = date(2026, 11, 24)


def compute(inputs: Any, **changes: Any) -> dict[str, Any]:
    """The cost object with the shipped prices."""
    arguments: dict[str, Any] = {"gpu_id": "aws-g6e-xlarge-tokyo", "api_id": "groq-llama-3.1-8b", "on": ON}
    return cost(inputs, load_prices(), limits=GateLimits(), **{**arguments, **changes})


@pytest.mark.parametrize(
    ("peak", "speedup", "machines"), [(1.0, 1.0, 2), (1.0, 1.5, 2), (5.0, 1.0, 9), (5.0, 1.1, 9), (5.0, 1.3, 7)]
)
def test_replicas_are_whole(peak: float, speedup: float, machines: int) -> None:
    """The worked examples: at 1 req/s 1.5x saves nothing, at 5 req/s 1.1x saves nothing and 1.3x saves 2 of 9."""
    assert replicas(peak, 0.8 * speedup, 0.70) == machines


def test_replicas_survive_rounding() -> None:
    """Exactly three machines' worth of load needs three, however the division rounds."""
    assert replicas(2.1, 1.0, 0.7) == 3


@pytest.mark.parametrize(("usd", "yen"), [(0.8048, (335, 112, 56)), (2.699, (1125, 375, 187))])
def test_yen_per_million_tokens(usd: float, yen: tuple[int, int, int]) -> None:
    """The worked examples at 150 yen, 1,000 tokens/s and 10/30/60 % utilisation."""
    for utilisation, expected in zip((0.1, 0.3, 0.6), yen, strict=True):
        assert jpy_per_mtok(usd * 150, 1000, utilisation) == pytest.approx(expected, abs=0.6)


def test_a_price_of_zero_is_refused() -> None:
    """A missing price must not look like a free machine."""
    with pytest.raises(StatisticsError, match="not 0"):
        jpy_per_mtok(0.0, 1000, 0.3)


def test_money_over_time_by_hand() -> None:
    """Ten a month for a year against one hundred: NPV 20 without interest, payback ten months."""
    assert npv(100.0, 10.0, 12, 0.0) == 20.0
    assert annuity(2, 0.05) == pytest.approx(1.05 ** (-1 / 12) + 1.05 ** (-2 / 12))
    assert payback_months(100.0, 10.0) == 10.0
    assert payback_months(100.0, 0.0) is None


def test_api_line_by_hand() -> None:
    """A million requests of 500 + 200 tokens at 0.05/0.08 dollar: 41 dollars, 6,150 yen."""
    book = load_prices()

    yen = api_monthly_jpy(Volume(1e6, 500, 200, 5.0), book.api("groq-llama-3.1-8b"), 0.1, 150.0)
    assert yen == pytest.approx(6150.0)


def test_cost_goes_through_machines(make_cost_inputs: Make) -> None:
    """At 5 req/s 1.3x frees two of nine machines, and the monthly figures say exactly that."""
    result = compute(make_cost_inputs())

    per_machine = 2.699 * load_prices().fx.jpy_per_usd * 730
    assert (result["replicas"]["dense"], result["replicas"]["skip"]) == (9, 7)
    assert result["monthly_jpy"]["dense"] == pytest.approx(9 * per_machine)
    assert result["monthly_jpy"]["skip"] == pytest.approx(7 * per_machine)
    assert result["upkeep_jpy_per_month"] == 40_000.0
    assert result["investment_jpy"] == 400_000.0
    assert result["saving_jpy"]["p10"] <= result["saving_jpy"]["p50"] <= result["saving_jpy"]["p90"]
    assert result["payback_months"]["reason"] is None


def test_no_freed_machine_means_no_saving(make_cost_inputs: Make) -> None:
    """At a tiny peak both need one machine: upkeep is never recovered, whatever the speed-up."""
    result = compute(make_cost_inputs(volume=Volume(10_000.0, 500, 200, 0.1)))

    assert result["saving_jpy"]["prob_positive"] == 0.0
    assert result["payback_months"] == {"p50": None, "reason": "not_recovered"}
    assert result["npv_jpy"]["prob_positive"] == 0.0


def test_same_seed_same_money(make_cost_inputs: Make) -> None:
    """The simulation is a function of inputs and seed."""
    inputs = make_cost_inputs(speed=SpeedEstimate(math.log(1.2), 0.05, 6))

    assert compute(inputs, seed=3) == compute(inputs, seed=3)
    assert compute(inputs, seed=3)["saving_jpy"] != compute(inputs, seed=4)["saving_jpy"]


def test_tornado_is_sorted_and_fits_the_currency(make_cost_inputs: Make) -> None:
    """Widest swing first; a yen price has no exchange-rate bar."""
    dollar = compute(make_cost_inputs())["tornado"]
    yen = compute(make_cost_inputs(), gpu_id="sakura-dok-h100")["tornado"]

    swings = [abs(bar["high_jpy"] - bar["low_jpy"]) for bar in dollar]
    assert swings == sorted(swings, reverse=True)
    assert "fx" in {bar["factor"] for bar in dollar}
    assert "fx" not in {bar["factor"] for bar in yen}


def test_tiny_samples_do_not_break_the_simulation(make_cost_inputs: Make) -> None:
    """Two timing pairs give a t-distribution without a mean; draws stay finite."""
    result = compute(make_cost_inputs(speed=SpeedEstimate(0.1, 2.0, 2)))

    assert all(math.isfinite(result["saving_jpy"][key]) for key in ("p10", "p50", "p90"))


def test_unknown_accuracy_is_none() -> None:
    """Yen per right answer is undefined without accuracy, or when nothing was right."""
    assert jpy_per_correct_answer(100.0, 10, None) is None
    assert jpy_per_correct_answer(100.0, 10, 0.0) is None
    assert jpy_per_correct_answer(100.0, 10, 0.5) == 20.0


def test_unknown_price_id(make_cost_inputs: Make) -> None:
    """A wrong id is an error, never a free machine."""
    with pytest.raises(PriceError, match="unknown gpu price"):
        compute(make_cost_inputs(), gpu_id="no-such-machine")


def test_demand_must_be_given() -> None:
    """No demand and negative spending are refused with their field."""
    with pytest.raises(RecordError, match="peak_requests_per_s"):
        Volume(1.0, 1, 1, 0.0)
    with pytest.raises(RecordError, match="upkeep_other"):
        Spending(1.0, 1.0, upkeep_other_jpy_per_month=-1.0)
