"""What a controller asks beside the monthly bill: return, break-even against the API, spot share, tuning, tax.

Computed from the same inputs as `kpis.cost.cost`; nothing here decides a gate.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np

from kpis.cost import api_request_jpy, jpy_per_correct_answer, machines, replicas, summary
from kpis.cost_inputs import CostInputs
from kpis.cost_risk import PriceCase, simulate
from kpis.errors import StatisticsError
from kpis.limits import GateLimits
from kpis.prices import PriceBook, age_days, jpy_per_hour, price_fields, stale_state
from kpis.spot import SPOT_OVERHEAD, blended_hourly, paid_per_hour

SPOT_SHARES = (0.3, 0.6)
"""Shares of the machine hours for which a spot price is shown, beside the planned one."""
RETUNING_MONTHS = (3, 6, 12)
"""Re-tuning cadences for which the monthly share of the measured tuning hours is shown, beside the planned one."""


def roi(investment: float, gross_saving_per_month: float, upkeep_per_month: float, months: int) -> float | None:
    """Return on everything spent over the horizon, not discounted.

    **Formula**: `(benefit - cost) / cost`; benefit = saving before upkeep x months, cost = investment + upkeep x
    months.
    **Direction**: higher is better; -1 when nothing is saved.
    **Undefined when**: nothing is spent (None).

    Example:
        >>> roi(100.0, 30.0, 5.0, 10)
        1.0
    """
    spent = investment + upkeep_per_month * months
    return (gross_saving_per_month * months - spent) / spent if spent > 0 else None


def break_even_requests(monthly_jpy: float, api_jpy_per_request: float) -> float:
    """Requests per month above which own machines cost less than the API.

    **Formula**: `monthly cost of own machines / API price of one request`.
    **Direction**: lower is better.

    Example:
        >>> break_even_requests(1000.0, 0.5)
        2000.0
    """
    if not (monthly_jpy > 0 and api_jpy_per_request > 0):
        raise StatisticsError(
            f"expected amounts above 0, got {monthly_jpy} and {api_jpy_per_request}; a missing price is an error, not 0"
        )
    return monthly_jpy / api_jpy_per_request


def monthly_capacity(n_replicas: int, q_slo_per_s: float, target_load: float, hours_per_month: float) -> float:
    """Requests per month that so many replicas can serve at the planned load, day and night.

    **Formula**: `replicas x Q_slo x target load x hours x 3600`.
    **Direction**: higher is better.

    Example:
        >>> monthly_capacity(2, 1.0, 0.5, 1.0)
        3600.0
    """
    return n_replicas * q_slo_per_s * target_load * hours_per_month * 3600.0


def with_tax(jpy: float, tax_rate: float) -> dict[str, float]:
    """An amount without and with tax.

    Example:
        >>> with_tax(1000.0, 0.25)
        {'untaxed': 1000.0, 'taxed': 1250.0}
    """
    return {"untaxed": jpy, "taxed": jpy * (1.0 + tax_rate)}


def economics(
    inputs: CostInputs, book: PriceBook, *, gpu_id: str, api_id: str, on: date, limits: GateLimits, seed: int = 0
) -> dict[str, Any]:
    """Return, break-even, spot share, tuning hours and tax beside `kpis.cost.cost`, with the same arguments.

    Raises:
        PriceError: when a price id is unknown, or spot hours are planned without a spot price.
    """
    gpu, api = book.gpu(gpu_id), book.api(api_id)
    per_hour, volume = paid_per_hour(book, gpu, inputs.spot_share), inputs.volume
    rates = {"dense": inputs.dense_requests_per_s, "skip": inputs.dense_requests_per_s * inputs.speed.ratio}
    counts = {
        side: replicas(volume.peak_requests_per_s, rate, inputs.target_load, inputs.min_replicas)
        for side, rate in rates.items()
    }
    monthly = {side: machines(n, gpu.n_gpus) * per_hour * volume.hours_per_month for side, n in counts.items()}
    per_request = api_request_jpy(volume, api, book.tax_rate, book.fx.jpy_per_usd)
    api_monthly = per_request * volume.requests_per_month
    stale = price_fields(book, gpu, on, limits.price_warning_days, limits.price_block_days)["stale"]
    api_fx = [book.fx.as_of] if api.currency == "USD" else []
    capacities = {
        side: monthly_capacity(counts[side], rates[side], inputs.target_load, volume.hours_per_month) for side in counts
    }
    return {
        "currency": {"of_price": gpu.currency, "of_api": api.currency, "shown": "JPY", "tax_rate": book.tax_rate,
                     "fx_jpy_per_usd": book.fx.jpy_per_usd, "fx_date": book.fx.as_of.isoformat(),
                     "fx_is_placeholder": book.fx.is_placeholder},
        "price": {"id": gpu.id, "as_of": gpu.as_of.isoformat(), "source": gpu.source, "confidence": gpu.confidence,
                  "is_dated": gpu.is_dated, "market": gpu.market, "stale": stale},
        "api": {"id": api.id, "name": api.name, "as_of": api.as_of.isoformat(), "source": api.source,
                "confidence": api.confidence, "age_days": max(age_days(day, on) for day in [api.as_of, *api_fx]),
                "stale": stale_state(min([api.as_of, *api_fx]), on, limits.price_warning_days,
                                     limits.price_block_days)},
        "monthly_jpy": {side: with_tax(amount, book.tax_rate) for side, amount in
                        (*monthly.items(), ("api", api_monthly))},
        "break_even": {side: _break_even(monthly[side], per_request, capacities[side], inputs) for side in monthly},
        "roi": _roi(inputs, PriceCase(per_hour, gpu.currency == "USD", gpu.n_gpus), seed),
        "yen_per_correct_answer": _per_correct(monthly, inputs),
        "spot": _spot(book, gpu_id, inputs.spot_share, {side: machines(n, gpu.n_gpus) * volume.hours_per_month
                                                        for side, n in counts.items()}),
        "tuning": _tuning(inputs, per_hour),
    }  # fmt: skip


def _break_even(monthly_jpy: float, per_request: float, capacity: float, inputs: CostInputs) -> dict[str, Any]:
    """Requests and tokens at which both cost the same, and whether the machines could serve so many."""
    requests = break_even_requests(monthly_jpy, per_request)
    tokens = inputs.volume.input_tokens + inputs.volume.output_tokens
    reachable = requests <= capacity
    return {
        "requests_per_month": requests,
        "tokens_per_month": requests * tokens,
        "capacity_requests_per_month": capacity,
        "is_reachable": reachable,
        "reason": None if reachable else "beyond_capacity",
    }


def _roi(inputs: CostInputs, case: PriceCase, seed: int) -> dict[str, Any]:
    """Return over the horizon from the draws of the cost model; None when nothing is spent."""
    drawn = simulate(inputs, case, seed)
    months = inputs.horizon_months
    spent = drawn.invested_jpy + drawn.upkeep_jpy * months
    if not (spent > 0).all():
        return {"p10": None, "p50": None, "p90": None, "prob_positive": None, "reason": "nothing_spent"}
    gross = (drawn.saving_jpy + drawn.upkeep_jpy) * months
    return {**summary(np.asarray((gross - spent) / spent)), "reason": None}


def _per_correct(monthly: dict[str, float], inputs: CostInputs) -> dict[str, Any]:
    requests = inputs.volume.requests_per_month
    dense = jpy_per_correct_answer(monthly["dense"], requests, inputs.accuracy_dense)
    skip = jpy_per_correct_answer(monthly["skip"], requests, inputs.accuracy_skip)
    unknown = None if dense is not None and skip is not None else "accuracy_unknown"
    return {"dense": dense, "skip": skip, "reason": unknown, "api": None, "api_reason": "accuracy_unknown"}


def _spot(book: PriceBook, gpu_id: str, planned: float, machine_hours: dict[str, float]) -> dict[str, Any]:
    """Monthly cost when a share of the hours runs on spot machines of the same kind and region."""
    gpu = book.gpu(gpu_id)
    twin, per_hour = book.spot_twin(gpu), jpy_per_hour(book, gpu)
    shown: dict[str, Any] = {
        "id": None, "reason": "no_spot_price", "overhead": SPOT_OVERHEAD, "planned_share": planned,
        "paid_jpy_per_hour": paid_per_hour(book, gpu, planned), "rows": [],
    }  # fmt: skip
    if twin is None:
        return shown
    spot = jpy_per_hour(book, twin)
    for share in sorted({*SPOT_SHARES, planned} - {0.0}):
        price = blended_hourly(per_hour, spot, share, SPOT_OVERHEAD)
        shown["rows"].append({"share": share, **{side: hours * price for side, hours in machine_hours.items()}})
    return shown | {"id": twin.id, "reason": None}


def _tuning(inputs: CostInputs, per_hour: float) -> dict[str, Any]:
    """Machine hours that this PoC measured, and what repeating them at a cadence costs per month."""
    hours, planned = inputs.spending.investment_gpu_hours, inputs.spending.retuning_months
    months = sorted({*RETUNING_MONTHS, *([] if planned is None else [planned])})
    return {
        "measured_machine_hours": hours,
        "jpy": hours * per_hour,
        "planned_every_months": planned,
        "cadence": [{"every_months": n, "jpy_per_month": hours * per_hour / n} for n in months],
    }
