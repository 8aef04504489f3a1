"""Cost: measured seconds x dated price, through whole machines.

Savings are computed from replicas, which are whole numbers: a speed-up that frees no machine saves nothing.
Yen without tax throughout; the tax rate travels with the result so that both can be shown.
"""

from __future__ import annotations

import math
from datetime import date
from typing import Any

import numpy as np

from kpis.cost_inputs import CostInputs, Volume
from kpis.cost_risk import PriceCase, simulate, tornado
from kpis.errors import StatisticsError
from kpis.limits import GateLimits
from kpis.prices import ApiPrice, PriceBook, price_fields, to_jpy
from kpis.spot import paid_per_hour

UTILISATIONS = (0.1, 0.3, 0.6)


def jpy_per_mtok(price_jpy_per_hour: float, tokens_per_s: float, utilisation: float) -> float:
    """Yen per million output tokens of one machine.

    **Formula**: `P_h 1e6 / (3600 X u)`; X output tokens per second within the promised times, u share of the paid
    time in which the machine is busy.
    **Direction**: lower is better.

    Example:
        >>> round(jpy_per_mtok(0.8048 * 150, 1000, 0.3))
        112
    """
    if not (price_jpy_per_hour > 0 and tokens_per_s > 0 and 0 < utilisation <= 1):
        raise StatisticsError(
            f"expected price and tokens/s above 0 and utilisation within (0, 1], got {price_jpy_per_hour}, "
            f"{tokens_per_s} and {utilisation}; a missing price is an error, not 0"
        )
    return price_jpy_per_hour * 1e6 / (3600.0 * tokens_per_s * utilisation)


def replicas(peak_per_s: float, q_slo_per_s: float, target_load: float = 0.70, min_replicas: int = 1) -> int:
    """Machines needed at the peak.

    **Formula**: `max(N_min, ceil(Q_peak / (Q_slo target_load)))`.
    **Source**: the usual sizing steps, benchmark -> instances for a latency limit at peak.
    **Direction**: lower is better; only whole machines are saved.

    Example:
        >>> replicas(5.0, 0.8), replicas(5.0, 0.8 * 1.1), replicas(5.0, 0.8 * 1.3)
        (9, 9, 7)
    """
    if not (peak_per_s > 0 and q_slo_per_s > 0 and 0 < target_load <= 1):
        raise StatisticsError(
            f"expected rates above 0 and target load within (0, 1], got {peak_per_s}, {q_slo_per_s}, {target_load}"
        )
    # The subtraction keeps 8.000000000001 machines, a rounding error, from becoming 9.
    return max(min_replicas, math.ceil(peak_per_s / (q_slo_per_s * target_load) - 1e-9))


def machines(n_replicas: int, n_gpus: int) -> int:
    """Machines to rent for so many replicas, one GPU each.

    **Formula**: `ceil(replicas / GPUs per machine)`; a machine with eight GPUs is paid for whole.
    **Direction**: lower is better.

    Example:
        >>> machines(9, 1), machines(9, 8)
        (9, 2)
    """
    if n_replicas < 0 or n_gpus < 1:
        raise StatisticsError(f"expected replicas >= 0 and GPUs per machine >= 1, got {n_replicas} and {n_gpus}")
    return -(-n_replicas // n_gpus)


def api_monthly_jpy(volume: Volume, price: ApiPrice, tax_rate: float, jpy_per_usd: float) -> float:
    """Monthly bill of a hosted model for the same volume.

    **Formula**: `requests (in/1e6 p_in + out/1e6 p_out)`.
    **Direction**: lower is better. Tokens of another tokenizer are assumed to be as many; say so where it is shown.
    """
    return volume.requests_per_month * api_request_jpy(volume, price, tax_rate, jpy_per_usd)


def api_request_jpy(volume: Volume, price: ApiPrice, tax_rate: float, jpy_per_usd: float) -> float:
    """Yen without tax that a hosted model charges for one request.

    **Formula**: `in/1e6 p_in + out/1e6 p_out`.
    **Direction**: lower is better.
    """
    per_request = (volume.input_tokens * price.per_mtok_input + volume.output_tokens * price.per_mtok_output) / 1e6
    return to_jpy(per_request, price.currency, price.tax_included, tax_rate, jpy_per_usd)


def jpy_per_correct_answer(monthly_jpy: float, requests: float, accuracy: float | None) -> float | None:
    """Yen per answer that was right.

    **Formula**: `monthly cost / (requests x accuracy)`.
    **Direction**: lower is better.
    **Undefined when**: accuracy is unknown or 0 (None).

    Example:
        >>> jpy_per_correct_answer(1000.0, 100, 0.5)
        20.0
    """
    return monthly_jpy / (requests * accuracy) if accuracy else None


def cost(
    inputs: CostInputs,
    book: PriceBook,
    *,
    gpu_id: str,
    api_id: str,
    on: date,
    limits: GateLimits,
    seed: int = 0,
) -> dict[str, Any]:
    """The `cost` object of result.json.

    Point values use the measured speed-up as it is; P10/P50/P90 come from a seeded simulation in which the
    speed-up, price, exchange rate, volume, target load, upkeep and investment vary.

    Args:
        inputs: measured seconds and the user's figures.
        book: prices and exchange rate.
        gpu_id: price row of the machine that would serve.
        api_id: price row of the hosted model to compare with.
        on: day on which the age of prices is judged.
        limits: for the age limits.
        seed: of the simulation.

    Raises:
        PriceError: when a price id is unknown, or spot hours are planned without a spot price.
    """
    gpu, api = book.gpu(gpu_id), book.api(api_id)
    per_hour = paid_per_hour(book, gpu, inputs.spot_share)
    volume, target = inputs.volume, inputs.target_load
    q_dense = inputs.dense_requests_per_s
    q_skip = q_dense * inputs.speed.ratio
    n_dense = replicas(volume.peak_requests_per_s, q_dense, target, inputs.min_replicas)
    n_skip = replicas(volume.peak_requests_per_s, q_skip, target, inputs.min_replicas)
    monthly = {
        name: machines(n, gpu.n_gpus) * per_hour * volume.hours_per_month
        for name, n in (("dense", n_dense), ("skip", n_skip))
    }
    case = PriceCase(per_hour, gpu.currency == "USD", gpu.n_gpus)
    outcome = simulate(inputs, case, seed)
    payback = float(np.median(outcome.payback_months))
    recovered = math.isfinite(payback)
    return {
        "price": price_fields(book, gpu, on, limits.price_warning_days, limits.price_block_days),
        "volume": volume.to_json(),
        "per_mtok_jpy": [
            {
                "utilisation": share,
                "dense": jpy_per_mtok(per_hour / gpu.n_gpus, q_dense * volume.output_tokens, share),
                "skip": jpy_per_mtok(per_hour / gpu.n_gpus, q_skip * volume.output_tokens, share),
            }
            for share in UTILISATIONS
        ],
        "replicas": {
            "dense": n_dense,
            "skip": n_skip,
            "q_slo_dense_per_s": q_dense,
            "q_slo_skip_per_s": q_skip,
            "target_load": target,
        },
        "monthly_jpy": {
            **monthly,
            "api": api_monthly_jpy(volume, api, book.tax_rate, book.fx.jpy_per_usd),
            "api_name": api.name,
        },
        "saving_jpy": summary(outcome.saving_jpy),
        "upkeep_jpy_per_month": inputs.spending.upkeep_jpy(per_hour),
        "investment_jpy": inputs.spending.investment_jpy(per_hour),
        "payback_months": {
            "p50": payback if recovered else None,
            "reason": None if recovered else "not_recovered",
        },
        "npv_jpy": summary(outcome.npv_jpy),
        "tornado": tornado(inputs, case, seed),
        "horizon_months": inputs.horizon_months,
        "discount_rate": inputs.discount_rate,
        "n_draws": inputs.n_draws,
        "basis": inputs.basis,
        "yen_per_correct_answer": {
            "dense": jpy_per_correct_answer(monthly["dense"], volume.requests_per_month, inputs.accuracy_dense),
            "skip": jpy_per_correct_answer(monthly["skip"], volume.requests_per_month, inputs.accuracy_skip),
        },
    }


def summary(draws: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    """P10, P50 and P90 of draws, and the share above 0."""
    p10, p50, p90 = (float(value) for value in np.quantile(draws, (0.1, 0.5, 0.9)))
    return {"p10": p10, "p50": p50, "p90": p90, "prob_positive": float((draws > 0).mean())}
