"""`python -m tests.benchmarks.kpis`: every KPI of 100,000 paired items, bootstrap included, on one core.

A JSON file goes to `tests/benchmarks/history/`, and the same document, in one line, to the end of stdout. Nothing is
judged here; CPU seconds are given beside wall seconds, since a shared machine lengthens only the latter.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from kpis import decide, quality
from kpis.cost import cost
from kpis.cost_inputs import CostInputs, Spending, Volume
from kpis.graded import graded
from kpis.limits import GateLimits
from kpis.quality_detail import document_rows, flips, noise_floor, slice_rows
from kpis.records import Evidence, ItemPair, ScorePair, VerdictContext
from kpis.simulated import Truth, draw_documents, draw_items, draw_pairs, draw_waits
from kpis.simulation import Market
from kpis.speed import estimate, responses, speed_row
from tests.benchmarks.__main__ import HISTORY, ROOT, cpu_name, is_dirty

T = TypeVar("T")
N_SLICES = 8
N_DOCUMENTS = 2000


class Stopwatch:
    """CPU and wall seconds by name."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def time(self, name: str, work: Callable[[], T]) -> T:
        """Do the work, keep its time, and return its result."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.rows.append(
            {
                "name": name,
                "cpu_s": round(time.process_time() - cpu, 3),
                "wall_s": round(time.perf_counter() - wall, 3),
            }
        )
        return result


def scores_of(items: Sequence[ItemPair], generator: np.random.Generator) -> list[ScorePair]:
    """Graded answers beside the right and wrong ones, different only where the answers are."""
    dense = generator.random(len(items)).round(2)
    skip = np.where([item.same_answer for item in items], dense, generator.random(len(items)).round(2))
    return [
        ScorePair(item.item_id, item.cluster, item.slice, "char_f1", float(a), float(b), item.same_answer)
        for item, a, b in zip(items, dense, skip, strict=True)
    ]


def measure(n_items: int, seed: int = 1, n_draws: int = 2000) -> dict[str, Any]:
    """Draw a PoC of that size and time every KPI on its records.

    Args:
        n_items: Paired items, two to a source on average.
        seed: Of the drawn records.
        n_draws: Bootstrap resamples; a run uses 2000.
    """
    limits, generator = GateLimits(), np.random.default_rng(seed)
    truth = replace(Truth(), n_items=n_items, n_documents=N_DOCUMENTS)
    items = [replace(item, slice=f"s{i % N_SLICES}") for i, item in enumerate(draw_items(truth, generator))]
    documents = draw_documents(truth, generator)
    scores = scores_of(items, generator)
    pairs, waits, market = draw_pairs(truth, generator), draw_waits(truth, generator), Market.fresh(limits)
    watch = Stopwatch()

    watch.time("sweep_row", lambda: quality.sweep_row(documents, items, seed, n_draws))
    confirmed = watch.time("confirmation", lambda: quality.confirmation(
        documents, items, skip_rate=0.3, skip_positions_by_class={}, noise_floor_flips=None, limits=limits, seed=seed,
        n_draws=n_draws))  # fmt: skip
    bounds = watch.time("bounds", lambda: quality.bounds(documents, items, limits, seed, n_draws))
    watch.time("flips", lambda: flips(items, limits, seed, n_draws))
    watch.time("slices_holm", lambda: slice_rows(items, limits, seed, n_draws))
    watch.time("noise_floor", lambda: noise_floor(items))
    watch.time("documents", lambda: document_rows(documents))
    watch.time("graded_permutation", lambda: graded(scores, limits, seed, n_draws))
    headline = watch.time("speed", lambda: speed_row(
        pairs, prompt_tokens=500, output_tokens=200, dtype="bfloat16", backend="simulated", routing="trained",
        skip_rate=0.3, skippable_time_share=0.9, is_headline=True))  # fmt: skip
    waited = watch.time("responses", lambda: responses(
        ttft_dense_s=waits["ttft_dense_s"], ttft_skip_s=waits["ttft_skip_s"], tpot_dense_s=waits["tpot_dense_s"],
        tpot_skip_s=waits["tpot_skip_s"], slo_ttft_s=limits.slo_ttft_s, slo_tpot_s=limits.slo_tpot_s,
        load="peak"))  # fmt: skip
    inputs = CostInputs(1.25, estimate(pairs), Volume(1e6, 500, 200, 5.0), Spending(8e4, 5.0))
    money = watch.time("cost", lambda: cost(
        inputs, market.book, gpu_id=market.gpu_id, api_id=market.api_id, on=market.on, limits=limits,
        seed=seed))  # fmt: skip
    evidence = Evidence(bounds=bounds, functional_check=False, hardware_matches_target=True, test_openings=1,
                        responses_at_target_load=True)  # fmt: skip
    context = VerdictContext(functional_check=False, threshold_chosen=True)
    verdict = watch.time("verdict", lambda: decide.verdict(
        decide.gates(confirmed, headline, waited, money, evidence, limits), context))  # fmt: skip
    return {
        "n_items": n_items,
        "n_clusters": len({item.cluster for item in items}),
        "n_documents": len(documents),
        "n_slices": N_SLICES,
        "n_draws": n_draws,
        "verdict": verdict["code"],
        "rows": watch.rows,
        "total_cpu_s": round(sum(row["cpu_s"] for row in watch.rows), 3),
        "total_wall_s": round(sum(row["wall_s"] for row in watch.rows), 3),
    }


def document(measured: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured with the machine, versions and commit it belongs to."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return {
        "schema_version": 1,
        "date": datetime.date.today().isoformat(),
        "commit": commit.strip() or None,
        "is_dirty": is_dirty(),
        "hardware": {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "load_average_1min": round(os.getloadavg()[0], 2),
        },
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("numpy", "scipy")},
        **measured,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the history file and print its document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kpis", description="Time every KPI.")
    parser.add_argument("--n", type=int, default=100_000, help="paired items")
    parser.add_argument("--history", type=Path, default=HISTORY, help="folder of the JSON files")
    arguments = parser.parse_args(argv)
    result = document(measure(arguments.n))
    arguments.history.mkdir(parents=True, exist_ok=True)
    commit = re.sub(r"[^0-9a-f]", "", result["commit"] or "")[:10] or "nocommit"
    path = arguments.history / f"kpis_{result['date']}_{commit}_cpu.json"
    path.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", "utf-8")
    sys.stderr.write(f"history: {path}\n")
    sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
