"""A finished run made of hand-made records: stage folders, run.json and the result.json that belongs to them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from flows import judge
from flows.confirmed import LOAD_TEST_COPY
from flows.decide import open_bench
from flows.settings import Settings, flatten, load_settings, plan_sha256, price_path
from flows.store import sha256_code, sha256_file, write_json
from flows.workbench import ROOMS
from tests.unit.reports import fixtures

N_LAYERS = 4
LOGITS = (None, -0.6, -0.1)
DEVICE = "NVIDIA L40S"
SETTINGS: dict[str, Any] = {
    "poc": {"title": "Manual", "owner": "ops", "organisation": "Example"},
    "corpus": {"folder": "corpus"},
    "profile": "full",
    "gates": {"planning_flip_rate": 0.02, "min_p99_samples": 100},
    "cost": {
        "price": "sakura-dok-h100", "api": "groq-llama-3.1-8b", "requests_per_month": 1e6, "input_tokens": 300,
        "output_tokens": 11, "peak_requests_per_s": 50.0, "upkeep_jpy_per_month": 1000.0, "engineer_days": 1.0,
    },
}  # fmt: skip


def write_plan(folder: Path, values: dict[str, Any]) -> Path:
    """Write a settings file and return it."""
    path = folder / "poc.yaml"
    path.write_text(json.dumps(values), "utf-8")  # JSON is YAML
    return path


def documents(rise: float, over_skipped: int = 0) -> list[dict[str, Any]]:
    """Forty documents of 100 tokens whose nats rise by a share that differs from document to document."""
    return [
        {
            "document_id": f"d{i:02d}", "n_tokens": 100, "n_bytes": 400, "nll_dense": 200.0,
            "nll_skip": 200.0 * (1 + rise * (0.8 + 0.01 * i)), "n_same_top1": 100 if rise == 0 else 98,
            "n_critical": 20, "n_over_skipped": over_skipped, "n_critical_executed": 80, "n_critical_positions": 80,
            "n_other_executed": 300, "n_other_positions": 320,
        }
        for i in range(40)
    ]  # fmt: skip


def items(n: int, harmful: int) -> list[dict[str, Any]]:
    """Questions that the dense model gets right, of which the skip model gets some wrong."""
    return [
        {
            "item_id": f"i{i}", "cluster": f"c{i}", "slice": "all", "dense_correct": True, "skip_correct": i >= harmful,
            "same_answer": i >= harmful, "must_pass": i == n - 1, "language": "ja",
        }
        for i in range(n)
    ]  # fmt: skip


def arm(rise: float, skip_rate: float, n_items: int = 0, harmful: int = 0) -> dict[str, Any]:
    """One arm of the sweep or of the confirmation."""
    return {
        "documents": documents(rise), "items": items(n_items, harmful), "skip_rate": skip_rate,
        "skip_rate_per_layer": [skip_rate] * N_LAYERS, "skip_rate_per_unit": [skip_rate] * N_LAYERS,
        "skip_rate_by_class": [{"class": "other", "n": 3200, "skip_rate": skip_rate}],
    }  # fmt: skip


def timing(phase: str, routing: str, speedup: float, n_pairs: int = 120) -> dict[str, Any]:
    """A timing cell whose pairs scatter a little around a speed-up."""
    dense = [0.020 * (1 + 0.001 * (i % 5)) for i in range(n_pairs)]
    skip = [seconds / speedup * (1 + 0.001 * (i % 3)) for i, seconds in enumerate(dense)]
    return {
        "phase": phase, "routing": routing, "backend": "graph", "batch": 1, "prompt_tokens": 64,
        "output_tokens": 16 if phase == "decode" else None, "dtype": "bfloat16", "skip_rate": 0.2,
        "estimated_ceiling": 1.22, "dense_s": dense, "skip_s": skip,
    }  # fmt: skip


def stage(store: Path, name: str, key: str, files: dict[str, Any], created_at: str, **inputs: Any) -> None:
    """Write one finished stage."""
    folder = store / f"{name}-{key}"
    folder.mkdir(parents=True)
    for file, value in files.items():
        write_json(folder / file, value)
    write_json(folder / "stage.json", {"name": name, "key": key, "inputs": inputs, "seconds": 360.0,
                                       "resumed": False, "created_at": created_at})  # fmt: skip


def answer(i: int, *, worse: bool = False, **changes: Any) -> dict[str, Any]:
    """A question that both models answered; where the skip model is worse it was right before."""
    return {
        "item_id": f"i{i}", "document_id": f"d{i:02d}", "cluster": f"c{i}", "slice": "all",
        "language": "ja" if i % 2 else "en", "must_pass": i == 0, "f1_metric": "char_f1" if i % 2 else "token_f1",
        "dense_exact": 1.0, "skip_exact": 0.0 if worse else 1.0, "dense_f1": 1.0, "skip_f1": 0.5 if worse else 1.0,
        "same_answer": not worse, "first_difference": 2 if worse else None, "dense_tokens": 4, "skip_tokens": 4,
        "dense_ended": True, "skip_ended": True, "dense_sha256": "a" * 64, "skip_sha256": "b" * 64,
        "dense_consistency": 1.0, "skip_consistency": 0.5 if worse else 1.0,
    } | changes  # fmt: skip


def answers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of written answers beside the arms of the confirmation."""
    return {"schema_version": 1, "items": rows, "n_with_example": len(rows), "max_new_tokens": 64, "n_samples": 3,
            "temperature": 0.7}  # fmt: skip


def int8(speedup: float) -> dict[str, Any]:
    """A timing of int8 weights beside dense ones."""
    dense = [0.020 * (1 + 0.001 * (i % 5)) for i in range(20)]
    return {
        "phase": "decode", "batch": 1, "prompt": 64, "output_tokens": 16, "dtype": "bfloat16", "speedup": speedup,
        "low": speedup - 0.01, "high": speedup + 0.01, "n_pairs": 20, "dense_s": dense,
        "other_s": [seconds / speedup for seconds in dense], "reason": None,
    }  # fmt: skip


def load_test(per_s: float, n: int = 400, n_failed: int = 0) -> dict[str, Any]:
    """A load test of one replica at a steady rate; the last requests failed."""
    return {
        "schema_version": 1, "device_name": DEVICE, "n_replicas": 1,
        "requests": [
            {"arm": "skip", "arrival_s": i / per_s, "ok": i < n - n_failed, "ttft_s": 0.5 if i < n - n_failed else None,
             "tpot_s": 0.02 if i < n - n_failed else None}
            for i in range(n)
        ],
    }  # fmt: skip


def make(
    root: Path, *, speedup: float = 1.4, harmful: int = 2, static_rise: float = 0.05, tested_per_s: float | None = None
) -> Path:
    """Write a run on a target GPU into `root` and return its folder; with a load test if its rate is given."""
    runs, store = root / "runs", root / "runs" / "store"
    values = SETTINGS
    if tested_per_s is not None:
        write_json(root / "load.json", load_test(tested_per_s))
        values = {**SETTINGS, "cost": {**SETTINGS["cost"], "load_test": "load.json"}}
    settings = load_settings(write_plan(root, values))
    points = {
        f"point-{i:02d}.json": arm(rise, rate, 60, 0)
        | {"index": i, "target_skip_rate": rate, "threshold_logit": LOGITS[i], "threshold": threshold,
           "estimated_ceiling": 1 / (1 - rate)}
        for i, (rise, rate, threshold) in enumerate([(0.0, 0.0, 0.0), (0.002, 0.1, 0.35), (0.004, 0.2, 0.47)])
    }  # fmt: skip
    arms = {
        f"arm-{name}.json": value
        for name, value in {
            "dense_tuned": arm(0.0, 0.0, 1000), "all_executed": arm(0.0, 0.0, 1000),
            "skiplayer": arm(0.004, 0.2, 1000, harmful), "guards_off": arm(0.01, 0.22),
            "random_mask": arm(0.1, 0.2), "static_drop": arm(static_rise, 0.2), "base_untuned": arm(0.3, 0.0),
            "noise_floor": {"n": 32, "n_flips": 0, "items": items(32, 0)}, "int8": arm(0.01, 0.0, 1000, 3),
        }.items()
    }  # fmt: skip
    cells = [timing("decode", "trained", speedup), timing("prefill", "trained", 1.1), timing("decode", "random", 1.2)]
    stage(store, "ingest", "a", {}, "2026-11-24T10:00:00+00:00", corpus="c", seed=0)
    stage(store, "sweep", "b", points | {"thresholds.json": {"logits": LOGITS[1:], "n_tokens": 10}},
          "2026-11-24T10:10:00+00:00", ingest="a", questions="q")  # fmt: skip
    stage(store, "confirm", "c", arms, "2026-11-24T10:20:00+00:00", sweep="b", threshold_logit=LOGITS[2])
    stage(store, "measure", "d", {f"cell-{i:02d}.json": cell for i, cell in enumerate(cells)},
          "2026-11-24T10:30:00+00:00", threshold_logit=LOGITS[2],
          machine={"device": "cuda", "device_name": DEVICE})  # fmt: skip
    folder = runs / "20261124-100000-x"
    folder.mkdir()
    write_json(folder / "run.json", {"plan_sha256": plan_sha256(settings)})
    if tested_per_s is not None:
        shutil.copy(root / "load.json", folder / LOAD_TEST_COPY)
    write_json(folder / "result.json", _result(folder, settings))
    return folder


def _result(folder: Path, settings: Settings) -> dict[str, Any]:
    """The result that a run would have stored for these records."""
    result = fixtures.go()
    result["run"] |= {"id": folder.name, "created_at": "2026-11-24T10:00:00+00:00", "code_sha256": sha256_code(ROOMS),
                      "plan_sha256": plan_sha256(settings), "profile": "full"}  # fmt: skip
    keys = {"ingest": "a", "sweep": "b", "confirm": "c", "measure": "d"}
    result["stages"] = [{"name": name, "key": keys[name], "seconds": 360.0, "reused": False} for name in keys]
    result["model"] |= {"n_layers": N_LAYERS, "routed_layers": [1, 2], "always_run_layers": [0, 3]}
    result["plan"] = {"registered": flatten(settings), "deviations": []}
    result["token_map"] = None
    result["hashes"]["prices"] = sha256_file(price_path(settings, folder / "poc.yaml"))
    copy = folder / LOAD_TEST_COPY
    result["hashes"]["load_test"] = sha256_file(copy) if copy.is_file() else None
    bench = open_bench(folder, result, settings, folder / "poc.yaml", None)
    rows = judge.sweep_rows(bench)
    choice, _ = judge.choose(bench, rows)
    judged = judge.judge(bench, choice, functional_check=False)
    result |= {"sweep": rows, "choice": choice, **judged.parts}
    result["data"]["test_openings"] = judged.test_openings
    return result
