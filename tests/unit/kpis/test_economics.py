import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from kpis.cost import cost, machines
from kpis.cost_inputs import Spending, Volume
from kpis.economics import break_even_requests, economics, monthly_capacity, roi, with_tax
from kpis.errors import PriceError, RecordError, StatisticsError
from kpis.limits import GateLimits
from kpis.prices import load_prices
from kpis.spot import blended_hourly

Make = Callable[..., Any]
ON = date(2026, 11, 24)
FX = load_prices().fx.jpy_per_usd


def compute(inputs: Any, gpu_id: str = "aws-g6e-xlarge-tokyo", api_id: str = "groq-llama-3.1-8b") -> dict[str, Any]:
    """The business figures with the shipped prices."""
    return economics(inputs, load_prices(), gpu_id=gpu_id, api_id=api_id, on=ON, limits=GateLimits())


def test_return_by_hand() -> None:
    """30 a month for 10 months against 100 at once and 5 a month: 150 spent, 300 back."""
    assert roi(100.0, 30.0, 5.0, 10) == pytest.approx(1.0)
    assert roi(100.0, 0.0, 0.0, 10) == -1.0
    assert roi(0.0, 30.0, 0.0, 10) is None


def test_break_even_by_hand() -> None:
    """1,000 yen of machines against half a yen per request: 2,000 requests; a missing amount is an error."""
    assert break_even_requests(1000.0, 0.5) == 2000.0
    for amounts in ((0.0, 0.5), (1000.0, 0.0)):
        with pytest.raises(StatisticsError, match="not 0"):
            break_even_requests(*amounts)


def test_break_even_meets_the_api_bill(make_cost_inputs: Make) -> None:
    """At the break-even volume the API costs what the machines cost, and the result says if they can serve it."""
    inputs = make_cost_inputs()
    even = compute(inputs, api_id="anthropic-claude-haiku-4-5")["break_even"]["dense"]
    there = replace(inputs, volume=replace(inputs.volume, requests_per_month=even["requests_per_month"]))
    money = cost(there, load_prices(), gpu_id="aws-g6e-xlarge-tokyo", api_id="anthropic-claude-haiku-4-5", on=ON,
                 limits=GateLimits())["monthly_jpy"]  # fmt: skip

    assert money["api"] == pytest.approx(money["dense"])
    assert even["tokens_per_month"] == pytest.approx(700 * even["requests_per_month"])
    # 9 machines x 0.8 requests/s x 70 % x 730 h
    assert even["capacity_requests_per_month"] == pytest.approx(9 * 0.8 * 0.7 * 730 * 3600)
    assert even["is_reachable"]


def test_an_unreachable_break_even_says_so(make_cost_inputs: Make) -> None:
    """Against a very cheap API the machines would have to serve more than they can."""
    even = compute(make_cost_inputs())["break_even"]["skip"]

    assert (even["is_reachable"], even["reason"]) == (False, "beyond_capacity")
    assert even["requests_per_month"] > even["capacity_requests_per_month"]


def test_capacity_by_hand() -> None:
    """Two machines at one request per second and half load: 3,600 in an hour."""
    assert monthly_capacity(2, 1.0, 0.5, 1.0) == 3600.0


def test_spot_share_by_hand(make_cost_inputs: Make) -> None:
    """Tokyo L40S at 1.20 spot and 2.699 on demand; 30 % spot hours with a tenth paid again."""
    assert blended_hourly(100.0, 40.0, 0.5, 0.25) == 75.0
    spot = compute(make_cost_inputs())["spot"]

    assert spot["id"] == "aws-g6e-xlarge-tokyo-spot"
    factor = 0.7 + 0.3 * 1.20 * 1.1 / 2.699
    assert spot["rows"][0]["dense"] == pytest.approx(9 * 2.699 * FX * 730 * factor)
    with pytest.raises(StatisticsError, match="share within"):
        blended_hourly(100.0, 40.0, 1.5, 0.0)


def test_no_spot_price_is_none_with_a_reason(make_cost_inputs: Make) -> None:
    """A provider without spot machines has no rows, and says why."""
    spot = compute(make_cost_inputs(), gpu_id="sakura-dok-h100")["spot"]

    assert (spot["id"], spot["reason"], spot["rows"]) == (None, "no_spot_price", [])


def test_currency_tax_and_rate_date_are_always_there(make_cost_inputs: Make) -> None:
    """Every machine against every hosted model: currency, tax and the date of the rate; yen both ways."""
    book, inputs = load_prices(), make_cost_inputs(n_draws=100)
    for gpu in book.gpus:
        for api in (book.apis[0], book.apis[-1]):
            shown = compute(inputs, gpu.id, api.id)
            currency = shown["currency"]
            assert (currency["of_price"], currency["of_api"], currency["shown"]) == (gpu.currency, api.currency, "JPY")
            assert currency["fx_date"] == "2026-10-30"
            for amount in shown["monthly_jpy"].values():
                assert amount["taxed"] == pytest.approx(amount["untaxed"] * 1.1)
                assert amount["untaxed"] > 0
    assert with_tax(1000.0, 0.1) == {"untaxed": 1000.0, "taxed": pytest.approx(1100.0)}


def test_tuning_costs_the_measured_hours(make_cost_inputs: Make) -> None:
    """Two measured hours repeated every three months cost two thirds of an hour a month."""
    spending = Spending(engineer_day_jpy=80_000.0, investment_engineer_days=5.0, investment_gpu_hours=2.0)
    tuning = compute(make_cost_inputs(spending=spending))["tuning"]

    per_hour = 2.699 * FX
    assert tuning["measured_machine_hours"] == 2.0
    assert tuning["jpy"] == pytest.approx(2 * per_hour)
    assert tuning["cadence"][0] == {"every_months": 3, "jpy_per_month": pytest.approx(2 / 3 * per_hour)}
    assert tuning["planned_every_months"] is None


def test_planned_retuning_is_part_of_the_upkeep(make_cost_inputs: Make) -> None:
    """Two measured hours every four months cost half an hour a month, in the bill as in the table."""
    spending = Spending(engineer_day_jpy=1.0, investment_engineer_days=0.0, investment_gpu_hours=2.0,
                        upkeep_other_jpy_per_month=1000.0, retuning_months=4)  # fmt: skip
    inputs = make_cost_inputs(spending=spending)
    money = cost(inputs, load_prices(), gpu_id="aws-g6e-xlarge-tokyo", api_id="groq-llama-3.1-8b", on=ON,
                 limits=GateLimits())  # fmt: skip
    tuning = compute(inputs)["tuning"]

    assert money["upkeep_jpy_per_month"] == pytest.approx(1000.0 + 0.5 * 2.699 * FX)
    assert [row["every_months"] for row in tuning["cadence"]] == [3, 4, 6, 12]
    assert tuning["cadence"][1]["jpy_per_month"] == pytest.approx(money["upkeep_jpy_per_month"] - 1000.0)
    with pytest.raises(RecordError, match="retuning_months"):
        replace(spending, retuning_months=0)


def test_a_planned_spot_share_is_paid_in_every_figure(make_cost_inputs: Make) -> None:
    """With 40 % spot hours the bill, the break-even and the table show the blended price, once."""
    inputs = make_cost_inputs(spot_share=0.4)
    factor = 0.6 + 0.4 * 1.20 * 1.1 / 2.699
    money = cost(inputs, load_prices(), gpu_id="aws-g6e-xlarge-tokyo", api_id="groq-llama-3.1-8b", on=ON,
                 limits=GateLimits())  # fmt: skip
    shown = compute(inputs)

    assert money["monthly_jpy"]["dense"] == pytest.approx(9 * 2.699 * FX * 730 * factor)
    assert shown["monthly_jpy"]["dense"]["untaxed"] == pytest.approx(money["monthly_jpy"]["dense"])
    assert [row["share"] for row in shown["spot"]["rows"]] == [0.3, 0.4, 0.6]
    assert shown["spot"]["rows"][1]["dense"] == pytest.approx(money["monthly_jpy"]["dense"])
    assert shown["spot"]["paid_jpy_per_hour"] == pytest.approx(2.699 * FX * factor)


def test_planned_spot_hours_without_a_spot_price_are_an_error(make_cost_inputs: Make) -> None:
    """A missing spot price is no price of 0 and no silent on-demand price; a share beyond all hours is refused."""
    with pytest.raises(PriceError, match=r"no spot row for sakura-dok-h100.*cost\.spot_share"):
        compute(make_cost_inputs(spot_share=0.4), gpu_id="sakura-dok-h100")
    with pytest.raises(RecordError, match="spot_share"):
        make_cost_inputs(spot_share=1.5)


def test_return_without_spending_and_accuracy_without_items(make_cost_inputs: Make) -> None:
    """Nothing spent has no return; unknown accuracy has no price per right answer, and the API never has one."""
    free = compute(make_cost_inputs(spending=Spending(engineer_day_jpy=0.0, investment_engineer_days=0.0)))
    known = compute(make_cost_inputs(accuracy_dense=0.5, accuracy_skip=0.5))

    assert (free["roi"]["p50"], free["roi"]["reason"]) == (None, "nothing_spent")
    assert free["yen_per_correct_answer"]["reason"] == "accuracy_unknown"
    assert known["yen_per_correct_answer"]["dense"] == pytest.approx(9 * 2.699 * FX * 730 / 500_000)
    assert known["yen_per_correct_answer"]["api_reason"] == "accuracy_unknown"


def test_machines_are_rented_whole(make_cost_inputs: Make) -> None:
    """Nine replicas fit on two machines of eight GPUs; a token there costs an eighth of the machine's price."""
    assert [machines(n, 8) for n in (1, 8, 9)] == [1, 1, 2]
    with pytest.raises(StatisticsError, match="GPUs per machine"):
        machines(9, 0)
    money = cost(make_cost_inputs(), load_prices(), gpu_id="aws-p5-48xlarge-us-east-1", api_id="groq-llama-3.1-8b",
                 on=ON, limits=GateLimits())  # fmt: skip

    per_hour = 55.04 * FX
    assert money["monthly_jpy"]["dense"] == pytest.approx(2 * per_hour * 730)
    assert money["monthly_jpy"]["skip"] == pytest.approx(1 * per_hour * 730)
    assert money["per_mtok_jpy"][1]["dense"] == pytest.approx(per_hour / 8 * 1e6 / (3600 * 0.8 * 200 * 0.3))


@pytest.mark.parametrize(("peak", "speedup", "saved"), [(1.0, 1.5, 0), (5.0, 1.1, 0), (5.0, 1.3, 2)])
def test_worked_examples_in_yen(make_cost_inputs: Make, peak: float, speedup: float, saved: int) -> None:
    """At 1 req/s 1.5x saves 0 yen; at 5 req/s 1.1x saves 0 yen and 1.3x saves two of nine machines."""
    money = cost(make_cost_inputs(math.log(speedup), volume=Volume(1e6, 500, 200, peak)), load_prices(),
                 gpu_id="aws-g6e-xlarge-tokyo", api_id="groq-llama-3.1-8b", on=ON, limits=GateLimits())  # fmt: skip

    monthly = money["monthly_jpy"]
    assert monthly["dense"] - monthly["skip"] == pytest.approx(saved * 2.699 * FX * 730)
    assert money["replicas"]["dense"] == (2 if peak == 1.0 else 9)
