"""Power of the gates in simulation beside the power that theory gives them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import nct
from scipy.stats import t as student_t

from kpis.gates_business import speed_gates
from kpis.gates_quality import quality_gates
from kpis.limits import GateLimits
from kpis.planning import non_inferiority_power
from kpis.quality import bounds, confirmation
from kpis.records import Evidence
from kpis.simulated import Truth, draw_documents, draw_items, draw_pairs
from kpis.speed import speed_row

N_DRAWS = 500
REPEATS = 2
"""Simulated confirmations per cell for each simulated PoC: the error of a share of 4,000 is 0.6 points."""


def quality_cells() -> tuple[Truth, ...]:
    """Truths at which Q1 is judged: planned n, more and fewer items, other flips, a small true loss, clusters."""
    base = replace(Truth(), n_documents=2, critical_per_document=1)
    single = replace(base, cluster_sizes=(1,), repeat=0.0)
    return (
        replace(single, n_items=773, harmful=0.025, helpful=0.025),
        replace(single, n_items=1500, harmful=0.05, helpful=0.05),
        replace(single, n_items=2500, harmful=0.03, helpful=0.02),
        replace(base, n_items=1600, harmful=0.025, helpful=0.025, repeat=0.3),
        replace(base, n_items=2000, harmful=0.05, helpful=0.05, repeat=0.6),
    )


def speed_cells() -> tuple[Truth, ...]:
    """Truths at which S1 is judged."""
    return (
        Truth(speedup=1.15, speed_noise=0.03, n_pairs=5),
        Truth(speedup=1.13, speed_noise=0.03, n_pairs=12),
    )


def power_table(n: int, limits: GateLimits, seed: int, progress: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rows of theory and simulation, one per cell; `error` is the difference, as a fraction.

    Q1: exact power of Tango's test at the effective number of items. S1: non-central t.
    """
    rows = []
    # Q1 is judged here; slices would cost as much as all other bounds together
    unsliced = replace(limits, min_slice_n=10**9)
    for index, truth in enumerate(quality_cells()):
        progress(f"power of Q1, {truth.n_items} items, repeats {truth.repeat}")
        generator = np.random.default_rng([seed, 100 + index])
        passed = sum(_quality_passes(truth, unsliced, generator) for _ in range(REPEATS * n))
        effect, flips = truth.design_effect, truth.harmful + truth.helpful
        theory = non_inferiority_power(
            truth.n_items, flips, limits.quality_margin, limits.alpha, truth.difference, effect
        )
        facts = {"n": truth.n_items, "flip_rate": flips, "truth": truth.difference, "design_effect": effect}
        rows.append(_row("Q1", facts, theory, passed / (REPEATS * n)))
    for index, truth in enumerate(speed_cells()):
        progress(f"power of S1, {truth.n_pairs} pairs")
        generator = np.random.default_rng([seed, 200 + index])
        passed = sum(_speed_passes(truth, limits, generator) for _ in range(REPEATS * n))
        facts = {"n": truth.n_pairs, "noise": truth.speed_noise, "truth": truth.speedup}
        rows.append(_row("S1", facts, speed_power(truth, limits), passed / (REPEATS * n)))
    return rows


def _row(gate_id: str, facts: dict[str, Any], theory: float, simulated: float) -> dict[str, Any]:
    return {"gate": gate_id, **facts, "theory": theory, "simulated": simulated, "error": simulated - theory}


def speed_power(truth: Truth, limits: GateLimits) -> float:
    """Chance that the lower end of the two-sided 95 % t-interval of the log ratio clears the limit.

    **Formula**: `P(T' >= t_{0.975, n-1})`, T' non-central t with `log(G / limit) sqrt(n) / sigma`.
    """
    df = truth.n_pairs - 1
    shift = math.log(truth.speedup / limits.min_speedup) * math.sqrt(truth.n_pairs) / truth.speed_noise
    return float(nct.sf(student_t.ppf(0.975, df), df, shift))


def _quality_passes(truth: Truth, limits: GateLimits, generator: np.random.Generator) -> bool:
    documents, items = draw_documents(truth, generator), draw_items(truth, generator)
    seed = int(generator.integers(2**31))
    confirmed = confirmation(
        documents, items, skip_rate=truth.skip_rate, skip_positions_by_class={}, noise_floor_flips=None, limits=limits,
        seed=seed, n_draws=N_DRAWS,
    )  # fmt: skip
    return str(quality_gates(confirmed, bounds(documents, items, limits, seed, N_DRAWS), limits)[0]["state"]) == "pass"


def _speed_passes(truth: Truth, limits: GateLimits, generator: np.random.Generator) -> bool:
    row = speed_row(
        draw_pairs(truth, generator), prompt_tokens=500, output_tokens=200, dtype="bfloat16", backend="simulated",
        routing="trained", skip_rate=truth.skip_rate, skippable_time_share=0.9, is_headline=True,
    )  # fmt: skip
    evidence = Evidence(bounds=None, functional_check=False, hardware_matches_target=True, test_openings=1)
    return str(speed_gates(row, None, None, evidence, limits)[0]["state"]) == "pass"
