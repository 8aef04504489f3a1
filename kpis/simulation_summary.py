"""Does the decision rule keep its promises? Many simulated PoCs, summed up in three numbers and their parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kpis.errors import StatisticsError
from kpis.limits import GateLimits
from kpis.proportions import clopper_pearson
from kpis.simulated_power import power_table
from kpis.simulation import Market, Scenario, Simulated, scenarios, simulate_poc

NOMINAL = ("difference", "agreement", "ppl_rise", "speedup")
"""95 % intervals that aim at 95 %; exact ones (harmful flips, over-skips) may only be wider."""
_SHARE_OF_OTHERS = 20
"""Scenarios away from every limit are repeated a twentieth as often: their verdict hardly varies."""
_MIN_PER_SCENARIO = 20


def simulate(
    n: int, seed: int, limits: GateLimits | None = None, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Simulate PoCs whose truth is known and report how often the decision is wrong.

    **Formula**: `false_go` is the largest share of Go among the scenarios in which one must-gate's truth lies exactly
    at its limit; `coverage` the share of 95 % intervals that contain the truth, of the kind of interval that is
    farthest from 95 %; `power_error_max` the largest distance between simulated and theoretical power.
    **Source**: acceptance checks of this project; the code under test is that of a real run.
    **Direction**: false_go at most alpha, coverage near 0.95, power_error_max near 0. All are fractions.

    Args:
        n: PoCs per scenario at a limit.
        seed: of everything; the same seed gives the same numbers.
        limits: registered limits; None for the defaults.
        progress: told what is being simulated.

    Raises:
        StatisticsError: when n is below 20.
    """
    if n < _MIN_PER_SCENARIO:
        raise StatisticsError(
            f"simulate: expected n of at least {_MIN_PER_SCENARIO}, got {n}; 2000 gives sharp numbers"
        )
    limits = limits or GateLimits()
    market = Market.fresh(limits)
    rows = []
    for index, scenario in enumerate(scenarios(limits)):
        n_here = n if scenario.gate else max(_MIN_PER_SCENARIO, n // _SHARE_OF_OTHERS)
        progress(f"{scenario.name}: {n_here} PoCs")
        generator = np.random.default_rng([seed, index])
        outcomes = [simulate_poc(scenario.truth, limits, generator, market) for _ in range(n_here)]
        rows.append(scenario_row(scenario, outcomes))
    power = power_table(n, limits, seed, progress)
    at_limit = [row for row in rows if row["gate"]]
    n_at_limit = sum(row["n"] for row in at_limit)
    covered = {name: sum(row["covered"][name] for row in at_limit) / n_at_limit for name in at_limit[0]["covered"]}
    worst = max(at_limit, key=lambda row: float(row["go"]))
    return {
        "n": n,
        "seed": seed,
        "false_go": worst["go"],
        "false_go_high": clopper_pearson(worst["n_go"], worst["n"])[1],
        "false_go_scenario": worst["name"],
        "coverage": max((covered[name] for name in NOMINAL), key=lambda share: abs(share - 0.95)),
        "coverage_by_interval": {name: covered[name] for name in NOMINAL},
        "coverage_exact": {name: share for name, share in covered.items() if name not in NOMINAL},
        "power_error_max": max(abs(row["error"]) for row in power),
        "scenarios": [{key: value for key, value in row.items() if key != "covered"} for row in rows],
        "power": power,
    }


def scenario_row(scenario: Scenario, outcomes: Sequence[Simulated]) -> dict[str, Any]:
    """Verdicts and main reasons of one scenario, how often its gate passed, and covered intervals as counts."""
    n = len(outcomes)
    verdicts = Counter(outcome.code for outcome in outcomes)
    needed = [outcome.required_n for outcome in outcomes if outcome.required_n is not None]
    gate = scenario.gate
    judged = [o.states[gate] for o in outcomes if o.states[gate] != "not_measured"] if gate else []
    return {
        "name": scenario.name,
        "gate": gate,
        "n": n,
        "n_go": verdicts["go"],
        "go": verdicts["go"] / n,
        "verdicts": dict(sorted(verdicts.items())),
        "main_reasons": dict(Counter(outcome.main_reason for outcome in outcomes).most_common(3)),
        "gate_judged": len(judged),
        "gate_passed": judged.count("pass") / len(judged) if judged else None,
        "median_required_n": int(np.median(needed)) if needed else None,
        "covered": {name: sum(o.covered[name] for o in outcomes) for name in outcomes[0].covered},
    }
