"""Puts result.json together: what `flows/judge.py` found, and what was run on what.

The only file written here is the copy of the load test, which a later `skip-poc decide` needs.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows import answers, evaluation, token_map
from flows.confirmed import LOAD_TEST_COPY, load_test_path
from flows.judge import Pairs, choose, confirmed_pairs, functional_check_reasons, judge, sweep_rows
from flows.machine import git_commit
from flows.settings import flatten, plan_sha256, price_path
from flows.stages import train_tokens
from flows.store import read_json, sha256_file
from flows.workbench import SPLITS, Workbench

__all__ = ["assemble", "checkpoint_sha256", "choose", "stage_rows", "sweep_rows"]

SCHEMA_VERSION = 1


def _data(bench: Workbench, confirmed: Pairs | None, test_openings: int) -> dict[str, Any]:
    manifest = read_json(bench.folder("ingest") / "manifest.json")
    totals = manifest["totals"]
    sweep = bench.settings.model.sweep
    points = evaluation.sweep_points(bench)
    tokens = {s: int(bench.blocks(s, sweep.block_tokens).n_real_N.sum()) for s in SPLITS}
    used, available = train_tokens(bench)
    test_documents, test_items = confirmed or ([], [])
    return {
        "n_documents": {s: totals["n_documents"][s] for s in SPLITS},
        "n_characters": {s: totals["n_characters"][s] for s in SPLITS},
        "n_tokens": tokens,
        "languages": totals["languages"],
        "n_quarantined": totals["n_quarantined"],
        "n_glossary_terms": manifest["n_glossary_terms"],
        "n_items": {"validation": len(points[0]["items"]), "test": len(test_items)},
        "n_critical_tokens": {
            "validation": sum(d["n_critical"] for d in points[0]["documents"]),
            "test": sum(d.n_critical for d in test_documents),
        },
        "test_openings": test_openings,
        "train_tokens_used": used,
        "train_tokens_available": available,
        "scored_tokens": {
            "calibration": read_json(bench.folder("sweep") / "thresholds.json")["n_tokens"],
            "validation": sum(d["n_tokens"] for d in points[0]["documents"]),
            "test": sum(d.n_tokens for d in test_documents),
        },
    }


def _tuned(bench: Workbench, stage: str, steps: int) -> dict[str, Any]:
    log = read_json(bench.folder(stage) / "log.json")
    losses = [row["loss"] for row in log["rows"]]
    fifth = max(1, len(losses) // 5)
    return {
        "n_steps": steps,
        "n_tokens": log["n_tokens"],
        "seconds": bench.stages[stage].seconds,
        "loss_first": float(np.mean(losses[:fifth])) if losses else None,
        "loss_last": float(np.mean(losses[-fifth:])) if losses else None,
    }


def _model(bench: Workbench) -> dict[str, Any]:
    config = bench.settings.model
    base = read_json(bench.folder("base") / "base.json")
    skip_log = read_json(bench.folder("skip-tune") / "log.json")
    n_layers = bench.engine.n_layers
    n_parts = bench.engine.n_units // n_layers
    routed = sorted({unit // n_parts for unit in bench.engine.routed_units})
    n_added = skip_log["n_added_parameters"]
    return {
        "name": base["name"],
        "source": base["source"],
        "n_parameters": sum(p.numel() for p in bench.model.parameters()) - n_added,
        "n_layers": n_layers,
        "routed_layers": routed,
        "always_run_layers": [index for index in range(n_layers) if index not in routed],
        "skip_path_rank": config.skip.path_rank,
        "n_added_parameters": n_added,
        "dense_tune": _tuned(bench, "dense-tune", config.dense_tune.steps),
        "skip_tune": _tuned(bench, "skip-tune", config.skip_tune.steps)
        | {"target_skip_rate": config.skip_tune.target_skip_rate},
    }


def assemble(
    bench: Workbench, rows: list[dict[str, Any]], choice: dict[str, Any], point: dict[str, Any],
    facts: dict[str, Any], code_sha256: str, mlflow: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Return result.json of a run whose stages are finished."""
    settings = bench.settings
    reasons = functional_check_reasons(facts["device"], settings.profile)
    judged = judge(bench, choice, functional_check=bool(reasons))
    pairs = None if choice["threshold"] is None else confirmed_pairs(bench)
    hashes = bench.input_hashes()
    load_test = load_test_path(bench)
    if load_test is not None and load_test != bench.run.path / LOAD_TEST_COPY:
        shutil.copyfile(load_test, bench.run.path / LOAD_TEST_COPY)
    return {
        "schema_version": SCHEMA_VERSION,
        "run": {
            "id": bench.run.id,
            "created_at": bench.run.created_at,
            "profile": settings.profile,
            "plan_sha256": plan_sha256(settings),
            "code_sha256": code_sha256,
            "git_commit": git_commit(),
            "seed": settings.model.seed,
            "language": settings.report.language,
            "functional_check": bool(reasons),
            "functional_check_reasons": reasons,
            "mlflow": mlflow,
        },
        "poc": {
            "title": settings.poc.title,
            "owner": settings.poc.owner,
            "organisation": settings.poc.organisation,
            "decision_date": None if settings.poc.decision_date is None else settings.poc.decision_date.isoformat(),
        },
        "environment": facts,
        "data": _data(bench, pairs, judged.test_openings),
        "model": _model(bench),
        "sweep": rows,
        "choice": choice,
        **judged.parts,
        "plan": {"registered": flatten(settings), "deviations": []},
        "passages": evaluation.passages(bench, point),
        "token_map": token_map.token_map(bench),
        "answer_samples": answers.samples(bench),
        "stages": stage_rows(bench),
        "hashes": hashes
        | {
            "prices": sha256_file(price_path(settings, bench.settings_path)),
            "load_test": None if load_test is None else sha256_file(load_test),
            "dense_checkpoint": checkpoint_sha256(bench.folder("dense-tune") / "dense"),
            "skip_checkpoint": checkpoint_sha256(bench.folder("skip-tune") / "skiplayer"),
        },
    }


def stage_rows(bench: Workbench) -> list[dict[str, Any]]:
    """Return the `stages` rows: what took how long, and what was kept from an earlier run."""
    return [
        {"name": stage.name, "seconds": stage.seconds, "reused": stage.reused, "key": stage.key}
        for stage in bench.stages.values()
    ]


def checkpoint_sha256(folder: Path) -> str:
    """Return the hash of a checkpoint's weights; hashed once, then kept beside them."""
    kept = folder.parent / f"{folder.name}.sha256"
    if not kept.exists():
        files: Sequence[Path] = sorted(folder.glob("*.safetensors"))
        kept.write_text("".join(sha256_file(file) for file in files)[:64] + "\n", "ascii")
    return kept.read_text("ascii").strip()
