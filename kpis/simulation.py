"""A whole simulated PoC through the decision code of a real one: sweep, choice, one confirmation, gates, verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date

import numpy as np

from kpis import decide, quality
from kpis.cost import cost
from kpis.cost_inputs import CostInputs, Spending, Volume
from kpis.errors import PriceError
from kpis.item_table import ItemTable
from kpis.limits import GateLimits
from kpis.prices import PriceBook, load_prices, price_fields
from kpis.quality_bounds import delta_bounds, item_share, share_interval
from kpis.records import Evidence, VerdictContext
from kpis.simulated import Truth, draw_documents, draw_items, draw_pairs, draw_waits
from kpis.speed import estimate, responses, speed_row

N_DRAWS = 1000
"""Bootstrap resamples of the confirmation; a run uses twice as many, which changes a bound by a hundredth of its
width."""
N_DRAWS_SWEEP = 300
THRESHOLDS = (0.2, 0.4)
_SPENDING = Spending(engineer_day_jpy=80_000.0, investment_engineer_days=5.0)
_VOLUME = Volume(requests_per_month=5e7, input_tokens=500, output_tokens=200, peak_requests_per_s=60.0)


@dataclass(frozen=True)
class Scenario:
    """Simulated PoCs of one truth; `gate` is the gate whose truth lies exactly at its limit, if any."""

    name: str
    truth: Truth
    gate: str | None = None


@dataclass(frozen=True)
class Simulated:
    """What one simulated PoC concluded, and which of its 95 % intervals contain the truth."""

    code: str
    main_reason: str
    states: dict[str, str]
    required_n: int | None
    covered: dict[str, bool]


def scenarios(limits: GateLimits) -> tuple[Scenario, ...]:
    """A sound PoC, one scenario per must-gate at its limit, and the cases that must never pass."""
    sound = Truth()
    margin = limits.quality_margin
    at_harmful = limits.max_harmful_rate
    return (
        Scenario("quality_at_margin", replace(sound, harmful=margin + 0.01, helpful=0.01), "Q1"),
        Scenario("harmful_flips_at_limit", replace(sound, harmful=at_harmful, helpful=at_harmful), "Q2"),
        Scenario("over_skip_at_limit", replace(sound, over_skip=limits.max_over_skip), "Q4"),
        Scenario("speed_at_limit", replace(sound, speedup=limits.min_speedup), "S1"),
        Scenario("sound", sound),
        Scenario("identical", identical(sound)),
        Scenario("made_worse", replace(sound, harmful=0.10, helpful=0.0)),
        Scenario("made_slower", replace(sound, speedup=0.90)),
        Scenario("too_few_items", replace(sound, n_items=100)),
    )


def identical(truth: Truth) -> Truth:
    """Level 0: the skip model is the dense one, timed twice."""
    return replace(
        truth, harmful=0.0, helpful=0.0, reworded=0.0, over_skip=0.0, loss_nats=0.0, loss_spread=0.0, skip_rate=0.0,
        speedup=1.0,
    )  # fmt: skip


@dataclass(frozen=True)
class Market:
    """Prices that are good evidence on the day of the simulation: cost must not decide where statistics are judged."""

    book: PriceBook
    gpu_id: str
    api_id: str
    on: date

    @classmethod
    def fresh(cls, limits: GateLimits) -> Market:
        """The shipped prices with a confirmed exchange rate, and the first machine whose price is in order.

        Raises:
            PriceError: when no price of the shipped file is in order on the day of its newest row.
        """
        book = load_prices()
        on = max(row.as_of for row in book.gpus)
        book = book.with_fx(150.0, on, "simulation")
        for gpu in book.gpus:
            if price_fields(book, gpu, on, limits.price_warning_days, limits.price_block_days)["stale"] == "ok":
                return cls(book, gpu.id, book.apis[0].id, on)
        raise PriceError(f"expected a machine with a fresh, dated price on {on}, got none; update kpis/prices.yaml")


def simulate_poc(truth: Truth, limits: GateLimits, generator: np.random.Generator, market: Market) -> Simulated:
    """Draw the records of one PoC and decide it as a run does.

    The settings of the sweep all have the same truth, so that whichever is chosen on validation, the truth of the
    confirmed one is known. A truth that skips nothing has no setting to choose; its confirmation is judged all the
    same, for the intervals.
    """
    seed = int(generator.integers(2**31))
    validation = replace(truth, n_items=150, n_documents=30, critical_per_document=40)
    rows = []
    for index, threshold in enumerate(THRESHOLDS):
        documents, items = draw_documents(validation, generator), draw_items(validation, generator)
        row = quality.sweep_row(documents, items, seed, N_DRAWS_SWEEP)
        rows.append({**row, "index": index, "threshold": threshold, "skip_rate": truth.skip_rate})
    choice = decide.choose(rows, limits)

    documents, items = draw_documents(truth, generator), draw_items(truth, generator)
    confirmed = quality.confirmation(
        documents, items, skip_rate=truth.skip_rate, skip_positions_by_class={}, noise_floor_flips=None, limits=limits,
        seed=seed, n_draws=N_DRAWS,
    )  # fmt: skip
    bounds = quality.bounds(documents, items, limits, seed, N_DRAWS)
    pairs = draw_pairs(truth, generator)
    headline = speed_row(
        pairs, prompt_tokens=500, output_tokens=200, dtype="bfloat16", backend="simulated", routing="trained",
        skip_rate=truth.skip_rate, skippable_time_share=0.9, is_headline=True,
    )  # fmt: skip
    waits = draw_waits(truth, generator)
    waited = responses(
        ttft_dense_s=waits["ttft_dense_s"], ttft_skip_s=waits["ttft_skip_s"], tpot_dense_s=waits["tpot_dense_s"],
        tpot_skip_s=waits["tpot_skip_s"], slo_ttft_s=limits.slo_ttft_s, slo_tpot_s=limits.slo_tpot_s, load="peak",
    )  # fmt: skip
    inputs = CostInputs(1.25, estimate(pairs), _VOLUME, _SPENDING, n_draws=200)
    money = cost(
        inputs, market.book, gpu_id=market.gpu_id, api_id=market.api_id, on=market.on, limits=limits, seed=seed
    )

    chosen = choice["threshold"] is not None
    evidence = Evidence(
        bounds=bounds if chosen else None, functional_check=False, hardware_matches_target=True,
        test_openings=int(chosen), responses_at_target_load=True,
    )  # fmt: skip
    gates = decide.gates(confirmed if chosen else None, headline, waited, money, evidence, limits)
    verdict = decide.verdict(gates, VerdictContext(functional_check=False, threshold_chosen=chosen))

    table = ItemTable.of(items)
    harmful = item_share(table, table.harmful, 0.95, seed, N_DRAWS)
    over = share_interval(documents, "n_over_skipped", "n_critical", 0.95, seed, N_DRAWS, exact=True)
    intervals = {
        "difference": (truth.difference, *delta_bounds(table, 0.025, seed, N_DRAWS)),
        "agreement": (truth.agreement, bounds.agreement_low, bounds.agreement_high),
        "ppl_rise": (truth.ppl_rise, confirmed["ppl_rise_low"], confirmed["ppl_rise_high"]),
        "speedup": (truth.speedup, headline["low"], headline["high"]),
        "harmful_flips": (truth.harmful, *harmful),
        "over_skip": (truth.over_skip, *over),
    }
    return Simulated(
        code=verdict["code"],
        main_reason=verdict["main_reason"],
        states={row["id"]: row["state"] for row in gates},
        required_n=next((row["required_n"] for row in gates if row["id"] == "Q1"), None),
        covered={name: _within(*values) for name, values in intervals.items()},
    )


def _within(value: float, low: float | None, high: float | None) -> bool:
    # a zero-width interval around the truth is computed on another path than the truth
    slack = 1e-12
    return low is not None and high is not None and low - slack <= value <= high + slack and math.isfinite(high)
