"""Puts result.json together: records of the stages -> KPIs -> gates -> verdict. No file is written here."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flows import evaluation
from flows.machine import git_commit
from flows.settings import flatten, plan_sha256, price_path
from flows.stages import train_tokens
from flows.store import read_json, sha256_file
from flows.workbench import SPLITS, Workbench
from kpis import cost as kpi_cost
from kpis import decide, quality, speed
from kpis.cost_inputs import CostInputs, Spending, Volume
from kpis.prices import load_prices
from kpis.records import DocumentPair, Evidence, ItemPair, TimingPairs, VerdictContext
from kpis.stats import Interval

SCHEMA_VERSION = 1
Pairs = tuple[list[DocumentPair], list[ItemPair]]


def _pairs(arm: dict[str, Any]) -> Pairs:
    documents = [DocumentPair.from_json(row) for row in arm["documents"]]
    return documents, [ItemPair.from_json(row) for row in arm["items"]]


def sweep_rows(bench: Workbench) -> list[dict[str, Any]]:
    """Return the `sweep` rows of result.json, each with its verdict, none chosen yet."""
    rows = []
    for point in evaluation.sweep_points(bench):
        documents, items = _pairs(point)
        row = quality.sweep_row(documents, items, seed=bench.settings.model.seed)
        row.pop("item_reason", None)
        names = ("index", "threshold", "target_skip_rate", "skip_rate", "skip_rate_per_layer", "estimated_ceiling")
        row |= {name: point[name] for name in names} | {"chosen": False}
        row["passes"], row["fail_reasons"] = quality.sweep_passes(row, bench.settings.gates)
        rows.append(row)
    return rows


def choose(bench: Workbench, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the `choice` object, and the sweep point at which speed is measured.

    Without a passing threshold, speed is still measured, at the most conservative one: the report then shows
    what would have been gained.
    """
    choice = decide.choose(rows, bench.settings.gates)
    index = choice["sweep_index"]
    for row in rows:
        row["chosen"] = row["index"] == index
    points = evaluation.sweep_points(bench)
    return choice, points[index if index is not None else min(1, len(points) - 1)]


def controls(bench: Workbench) -> list[dict[str, Any]]:
    """Return the `controls` rows: every arm against the dense tuned model on the same test blocks."""
    names = {
        "base_untuned": "base_untuned",
        "dense_tuned": "dense_tuned",
        "skiplayer": "skiplayer",
        "guards_off": "guards_off",
        "random_mask": "random_mask",
        "static_drop": "static_drop",
        "all_executed": "all_executed",
    }
    notes = {"static_drop": "not_healed", "guards_off": "guards_off"}
    if bench.engine is bench.dense_engine:
        notes["all_executed"] = "same_weights_as_dense"
    rows = []
    for name, file in names.items():
        arm = read_json(bench.folder("confirm") / f"arm-{file}.json")
        documents, items = _pairs(arm)
        rise: Interval = quality.ppl_rise(documents, seed=bench.settings.model.seed)
        nll_skip = sum(document.nll_skip for document in documents)
        n_bytes = sum(document.n_bytes for document in documents)
        rows.append(
            {
                "name": name,
                "split": "test",
                "skip_rate": arm["skip_rate"],
                "ppl": quality.perplexity(nll_skip, sum(document.n_tokens for document in documents)),
                "ppl_rise": rise.value,
                "ppl_rise_low": rise.low,
                "ppl_rise_high": rise.high,
                "bits_per_byte": quality.bits_per_byte(nll_skip, n_bytes),
                "item_accuracy": float(np.mean([item.skip_correct for item in items])) if items else None,
                "note": notes.get(name),
            }
        )
    return rows


def confirmation(bench: Workbench) -> tuple[dict[str, Any], Pairs]:
    """Return the `confirmation` object and the pairs it comes from."""
    arm = read_json(bench.folder("confirm") / "arm-skiplayer.json")
    floor = read_json(bench.folder("confirm") / "arm-noise_floor.json")
    documents, items = _pairs(arm)
    n_layers = len(arm["skip_rate_per_layer"])
    by_class = {
        row["class"]: (round((1 - row["skip_rate"]) * row["n"] * n_layers), row["n"] * n_layers)
        for row in arm["skip_rate_by_class"]
    }
    result = quality.confirmation(
        documents, items, skip_rate=arm["skip_rate"], skip_positions_by_class=by_class,
        noise_floor_flips=floor["n_flips"] if floor["n"] else None, limits=bench.settings.gates,
        seed=bench.settings.model.seed,
    )  # fmt: skip
    return result, (documents, items)


def speed_rows(bench: Workbench) -> tuple[list[dict[str, Any]], list[TimingPairs]]:
    """Return the `speed` rows, and the pairs of the operating point: decode, then prefill."""
    rows, headline = [], []
    for cell in evaluation.timing_rows(bench):
        pairs = TimingPairs(cell["phase"], cell["batch"], tuple(cell["dense_s"]), tuple(cell["skip_s"]))
        rate, ceiling = cell["skip_rate"], cell["estimated_ceiling"]
        trained = cell["routing"] == "trained"
        rows.append(
            speed.speed_row(
                pairs, prompt_tokens=cell["prompt_tokens"], output_tokens=cell["output_tokens"], dtype=cell["dtype"],
                backend=cell["backend"], routing=cell["routing"], skip_rate=rate,
                skippable_time_share=0.0 if rate == 0 else (1 - 1 / ceiling) / rate,
                is_headline=trained and cell["phase"] == "decode",
            )
        )  # fmt: skip
        if trained:
            headline.append(pairs)
    return rows, headline


def _costs(bench: Workbench, pairs: list[TimingPairs], confirmed: dict[str, Any] | None) -> dict[str, Any]:
    settings = bench.settings
    cost = settings.cost
    decode, prefill = pairs
    request = speed.request_pairs(prefill, decode, cost.output_tokens)
    hours = sum(stage.seconds for stage in bench.stages.values()) / 3600
    inputs = CostInputs(
        dense_request_s=float(np.median(request.dense_s)),
        speed=speed.estimate(request),
        volume=Volume(cost.requests_per_month, cost.input_tokens, cost.output_tokens, cost.peak_requests_per_s,
                      cost.hours_per_month),
        spending=Spending(engineer_day_jpy=cost.engineer_jpy_per_day, investment_engineer_days=cost.engineer_days,
                          investment_gpu_hours=hours, upkeep_other_jpy_per_month=cost.upkeep_jpy_per_month),
        target_load=cost.target_load, horizon_months=cost.horizon_months, discount_rate=cost.discount_rate,
        accuracy_dense=None if confirmed is None else confirmed["accuracy_dense"],
        accuracy_skip=None if confirmed is None else confirmed["accuracy_skip"], basis="measured_this_machine",
    )  # fmt: skip
    return kpi_cost.cost(
        inputs, load_prices(price_path(settings, bench.settings_path)), gpu_id=cost.price, api_id=cost.api,
        on=datetime.date.fromisoformat(bench.run.created_at[:10]), limits=settings.gates, seed=settings.model.seed,
    )  # fmt: skip


def _data(bench: Workbench, confirmed: Pairs | None) -> dict[str, Any]:
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
        "test_openings": 0 if confirmed is None else 1,
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
    reasons = [code for code, holds in (("cpu_device", facts["device"] == "cpu"),
                                        ("quick_profile", settings.profile == "quick")) if holds]  # fmt: skip
    confirmed, pairs = (None, None) if choice["threshold"] is None else confirmation(bench)
    timing, headline_pairs = speed_rows(bench)
    headline = next(row for row in timing if row["is_headline"])
    decode, prefill = headline_pairs
    responses = speed.responses(
        ttft_dense_s=prefill.dense_s, ttft_skip_s=prefill.skip_s, tpot_dense_s=decode.dense_s,
        tpot_skip_s=decode.skip_s, slo_ttft_s=settings.gates.slo_ttft_s, slo_tpot_s=settings.gates.slo_tpot_s,
        load="batch 1, one request at a time",
    )  # fmt: skip
    money = _costs(bench, headline_pairs, confirmed)
    bounds = None if pairs is None else quality.bounds(*pairs, settings.gates, seed=settings.model.seed)
    evidence = Evidence(bounds=bounds, functional_check=bool(reasons), hardware_matches_target=not reasons,
                        test_openings=0 if confirmed is None else 1)  # fmt: skip
    gates = decide.gates(confirmed, headline, responses, money, evidence, settings.gates)
    context = VerdictContext(
        functional_check=bool(reasons), threshold_chosen=choice["threshold"] is not None,
        test_openings=evidence.test_openings, max_test_openings=settings.gates.max_test_openings,
        price_age_days=money["price"]["age_days"], price_limit_days=settings.gates.price_warning_days,
    )  # fmt: skip
    hashes = bench.input_hashes()
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
        "data": _data(bench, pairs),
        "model": _model(bench),
        "sweep": rows,
        "controls": [] if confirmed is None else controls(bench),
        "choice": choice,
        "confirmation": confirmed,
        "speed": timing,
        "responses": responses,
        "cost": money,
        "gates": gates,
        "verdict": decide.verdict(gates, context),
        "plan": {"registered": flatten(settings), "deviations": []},
        "passages": evaluation.passages(bench, point),
        "stages": stage_rows(bench),
        "hashes": hashes
        | {
            "prices": sha256_file(price_path(settings, bench.settings_path)),
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
