"""The dense baseline of week 1: what the tuned model scores before anything skips, and how much chance alone flips.

Reads validation text only; the test split stays closed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from flows.evaluation import NOISE_FLOOR_ITEMS, SCORE_CODE, Scorer
from flows.progress import ProgressHook
from flows.store import StageResult, write_json
from flows.workbench import Workbench
from kpis import quality


def baseline(bench: Workbench) -> StageResult:
    """Score the tuned dense model and the untuned base model on validation text and items."""
    config = bench.settings.model

    def compute(folder: Path, hook: ProgressHook) -> None:
        dense = _scored(bench, bench.load_dense())
        hook(1, 3)
        base = _scored(bench, bench.load_base())
        hook(2, 3)
        floor, rows = dense.pop("floor"), {f"base_{name}": value for name, value in base.items() if name != "floor"}
        flips = {"noise_floor_n": len(floor), "noise_floor_flips": sum(not item["same_answer"] for item in floor)}
        write_json(folder / "baseline.json", {**dense, **rows, **flips})
        hook(3, 3)

    sweep = config.sweep
    inputs = {
        "dense": bench.key("dense-tune"),
        "base": bench.key("base"),
        "ingest": bench.key("ingest"),
        "questions": bench.input_hashes()["questions"],
        "validation": [sweep.validation_tokens, sweep.validation_items, sweep.block_tokens],
        "seed": config.seed,
    }
    return bench.do("baseline", "score the dense baseline", inputs, [*SCORE_CODE, "flows/baseline.py"], compute)


def _scored(bench: Workbench, model: Any) -> dict[str, Any]:
    from skipmodel.engine.masked import open_engine
    from skipmodel.model import SkipLayerForCausalLM

    # a workbench of its own, in which this model is the reference: the SkipLayer model does not exist yet
    probe = dataclasses.replace(bench)
    probe.__dict__["engine"] = probe.__dict__["dense_engine"] = open_engine(
        SkipLayerForCausalLM.from_base(model, bench.settings.model.skip)
    )
    scorer = Scorer(probe, "validation", bench.settings.model.sweep.validation_tokens)
    reference = scorer.reference()
    documents, items = reference["documents"], reference["items"]
    nll = sum(document["nll_dense"] for document in documents)
    again = scorer.choices(probe.engine, None, batch_items=1, n=NOISE_FLOOR_ITEMS) if items else []
    return {
        "ppl": quality.perplexity(nll, sum(document["n_tokens"] for document in documents)),
        "bits_per_byte": quality.bits_per_byte(nll, sum(document["n_bytes"] for document in documents)),
        "item_accuracy": sum(item["dense_correct"] for item in items) / len(items) if items else None,
        "n_items": len(items),
        "floor": scorer.items(again, NOISE_FLOOR_ITEMS) if items else [],
    }
