"""Uncertainty of the cost case: seeded simulation, net present value, payback and tornado.

The result is a probability under stated assumptions, not a statistical test, and is labelled so in the report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpis.bootstrap import Floats
from kpis.cost_inputs import CostInputs

_MAX_LOG_RATIO = math.log(10.0)
"""Draws of the speed-up are cut at 10x either way: with very few pairs the t-distribution has no mean."""


@dataclass(frozen=True)
class PriceCase:
    """Hourly price of a machine without tax, whether the exchange rate moves it, and how many replicas fit on it."""

    jpy_per_hour: float
    priced_in_usd: bool
    n_gpus: int = 1


@dataclass(frozen=True)
class Outcome:
    """One value per draw."""

    saving_jpy: Floats
    """Per month, after upkeep."""
    npv_jpy: Floats
    payback_months: Floats
    """Infinite where the saving never pays the investment back."""
    upkeep_jpy: Floats
    """Per month."""
    invested_jpy: Floats


def annuity(months: int, rate_per_year: float) -> float:
    """Present value of one yen a month.

    **Formula**: `sum over m = 1..months of (1 + r)^(-m/12)`.

    Example:
        >>> annuity(12, 0.0)
        12.0
    """
    return float(sum((1.0 + rate_per_year) ** (-m / 12.0) for m in range(1, months + 1)))


def npv(investment: float, net_saving_per_month: float, months: int, rate_per_year: float) -> float:
    """Net present value.

    **Formula**: `-I0 + sum over m of saving / (1 + r)^(m/12)`, saving after upkeep.
    **Direction**: higher is better; above 0 the project pays more than the discount rate.

    Example:
        >>> npv(100.0, 10.0, 12, 0.0)
        20.0
    """
    return net_saving_per_month * annuity(months, rate_per_year) - investment


def payback_months(investment: float, net_saving_per_month: float) -> float | None:
    """Months until the investment is recovered.

    **Formula**: `I0 / (monthly saving - upkeep)`.
    **Direction**: lower is better.
    **Undefined when**: nothing is saved after upkeep (None, "not recovered").

    Example:
        >>> payback_months(100.0, 10.0)
        10.0
    """
    return investment / net_saving_per_month if net_saving_per_month > 0 else None


def simulate(inputs: CostInputs, case: PriceCase, seed: int = 0) -> Outcome:
    """Draw all factors at once and compute saving, NPV and payback per draw.

    The speed-up is drawn as `exp(m + s t)`, t from Student's distribution with pairs - 1 degrees of freedom:
    the measured log ratio with the uncertainty of its mean.
    """
    return _evaluate(inputs, case, _draw(inputs, case, seed))


def tornado(inputs: CostInputs, case: PriceCase, seed: int = 0) -> list[dict[str, Any]]:
    """Net present value with one factor at its P10 and P90 and all others at their central value.

    Sorted by the width of the swing, widest first. A factor that frees no whole machine shows no swing.
    """
    central = _central(inputs)
    bars = []
    for name, draws in _draw(inputs, case, seed).items():
        ends = np.quantile(draws, (0.1, 0.9))
        factors = {key: np.full(2, value) for key, value in central.items()}
        factors[name] = ends
        low, high = _evaluate(inputs, case, factors).npv_jpy
        bars.append({"factor": name, "low_jpy": float(low), "high_jpy": float(high)})
    return sorted(bars, key=lambda bar: (-abs(bar["high_jpy"] - bar["low_jpy"]), bar["factor"]))


def _central(inputs: CostInputs) -> dict[str, float]:
    """Every factor at its central value."""
    ones = dict.fromkeys(("price", "fx", "volume", "upkeep", "investment"), 1.0)
    return {"speed_ratio": inputs.speed.ratio, "target_load": inputs.target_load, **ones}


def _draw(inputs: CostInputs, case: PriceCase, seed: int) -> dict[str, Floats]:
    """Draws of every factor; the exchange rate is left out for a price in yen."""
    generator = np.random.default_rng(seed)
    n, spread, speed = inputs.n_draws, inputs.spread, inputs.speed
    noise = generator.standard_t(speed.n_pairs - 1, n)
    log_ratio = np.clip(speed.log_mean + speed.log_se * noise, -_MAX_LOG_RATIO, _MAX_LOG_RATIO)

    def triangular(down: float, up: float) -> Floats:
        # Drawn even for a width of 0, so that one spread never changes the draws of the others.
        position = generator.triangular(-1.0, 0.0, 1.0, n)
        return np.where(position < 0, 1.0 + down * position, 1.0 + up * position)

    draws = {
        "speed_ratio": np.exp(log_ratio),
        "price": triangular(spread.price, spread.price),
        "fx": np.exp(spread.fx * generator.standard_normal(n)),
        "volume": triangular(spread.volume, spread.volume),
        "target_load": np.clip(inputs.target_load - 1.0 + triangular(spread.target_load, spread.target_load), 0.05, 1),
        "upkeep": triangular(spread.upkeep, 2.0 * spread.upkeep),
        "investment": triangular(spread.investment, 2.0 * spread.investment),
    }
    if not case.priced_in_usd:
        del draws["fx"]
    return draws


def _evaluate(inputs: CostInputs, case: PriceCase, factors: dict[str, Floats]) -> Outcome:
    """Saving, NPV and payback for arrays of factors."""
    per_hour = case.jpy_per_hour * factors["price"] * factors.get("fx", np.float64(1.0))
    peak = inputs.volume.peak_requests_per_s * factors["volume"]
    monthly = []
    for ratio in (np.float64(1.0), factors["speed_ratio"]):
        capacity = inputs.dense_requests_per_s * ratio * factors["target_load"]
        n_replicas = np.maximum(inputs.min_replicas, np.ceil(peak / capacity - 1e-9))
        monthly.append(np.ceil(n_replicas / case.n_gpus) * per_hour * inputs.volume.hours_per_month)
    spending = inputs.spending
    upkeep = spending.upkeep_jpy(0.0) * factors["upkeep"] + spending.upkeep_gpu_hours * per_hour
    invested = spending.investment_jpy(0.0) * factors["investment"] + spending.investment_gpu_hours * per_hour
    saving = monthly[0] - monthly[1] - upkeep
    value = saving * annuity(inputs.horizon_months, inputs.discount_rate) - invested
    positive = saving > 0
    months = np.where(positive, invested / np.where(positive, saving, 1.0), np.inf)
    return Outcome(saving, value, months, upkeep, invested)
