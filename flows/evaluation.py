"""The stages that judge the model: sweep over thresholds and the one confirmatory test. Timing is in `flows/timing.py`.

Each arm of an evaluation is a file of paired records, written as soon as it is measured: an interrupted stage
goes on with the arms that are missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flows import answers
from flows.progress import ProgressHook
from flows.stages import MODEL_CODE
from flows.store import StageResult, read_json, write_once
from flows.timing import measure, timing_rows
from flows.workbench import KINDS, Workbench

__all__ = ["Scorer", "confirm", "measure", "passages", "sweep", "sweep_points", "timing_rows"]

SCORE_CODE = [
    *MODEL_CODE, "skipmodel/engine", "skipmodel/evaluate.py", "skipmodel/thresholds.py",
    "skipmodel/guards.py",
    "flows/evaluation.py", "flows/questions.py", "flows/scan.py", "flows/terms.py",
]  # fmt: skip
NOISE_FLOOR_ITEMS = 32


class Scorer:
    """Scores blocks and items of one split, dense once and then arm by arm, into paired records."""

    def __init__(self, bench: Workbench, split: str, n_tokens: int) -> None:
        from skipmodel.data import sample

        self.bench, self.split = bench, split
        sweep = bench.settings.model.sweep
        self.force_critical = bench.settings.model.skip.force_critical
        self.blocks = sample(bench.blocks(split, sweep.block_tokens), n_tokens, bench.settings.model.seed)
        self.questions = bench.items(split)
        self._dense: Any = None
        self._dense_choices: list[int] | None = None

    @property
    def dense(self) -> Any:
        """Scores of the dense tuned model on the blocks."""
        from skipmodel.evaluate import score_blocks

        if self._dense is None:
            self._dense = score_blocks(self.bench.dense_engine, self.blocks, None, force_critical=False)
        return self._dense

    def choices(self, engine: Any, routing: Any, *, batch_items: int = 8, n: int | None = None) -> list[int]:
        """Return the chosen answers of the items under a routing; None executes everything."""
        from skipmodel.evaluate import score_items

        return score_items(
            engine, self.bench.tokenizer, [item for _, item in self.questions[:n]], routing, kinds=KINDS,
            force_critical=self.force_critical and routing is not None,
            margins=self.bench.settings.model.skip.class_margins, batch_items=batch_items,
        )  # fmt: skip

    @property
    def dense_choices(self) -> list[int]:
        """Answers of the dense tuned model."""
        if self._dense_choices is None:
            self._dense_choices = self.choices(self.bench.dense_engine, None)
        return self._dense_choices

    def documents(self, scores: Any) -> list[dict[str, Any]]:
        """Pair scores with the dense ones, per document."""
        from skipmodel.evaluate import pair_documents

        return pair_documents(self.blocks, self.dense, scores, self.bench.engine.routed_units)

    def items(self, choices: Sequence[int], n: int | None = None) -> list[dict[str, Any]]:
        """Pair answers with the dense ones, per item, for all of them or the first n."""
        return [
            {
                "item_id": question.item_id,
                "cluster": question.group,
                "slice": question.slice,
                "dense_correct": dense == question.answer,
                "skip_correct": skip == question.answer,
                "same_answer": dense == skip,
                "must_pass": question.must_pass,
                "language": question.language,
            }
            for (question, _), dense, skip in zip(self.questions[:n], self.dense_choices[:n], choices, strict=True)
        ]

    def reference(self) -> dict[str, Any]:
        """Pair the dense tuned model with itself: the row that all others are compared with."""
        return {"skip_rate": 0.0, "documents": self.documents(self.dense), "items": self.items(self.dense_choices)}

    def arm(self, routing: Any, *, with_items: bool, force_critical: bool | None = None) -> dict[str, Any]:
        """Score one arm; None executes everything. Returns paired documents and items, and skip rates."""
        from skipmodel.evaluate import score_blocks, skip_rate_by_kind, skip_rate_per_unit

        engine = self.bench.engine
        is_dense = routing is None and engine is self.bench.dense_engine
        force = self.force_critical if force_critical is None else force_critical
        margins = self.bench.settings.model.skip.class_margins if force_critical is None else {}
        scores = self.dense
        if not is_dense:
            scores = score_blocks(engine, self.blocks, routing, force_critical=force, margins=margins)
        choices: list[int] | None = None
        if with_items:
            choices = self.dense_choices if is_dense else self.choices(engine, routing)
        per_unit = skip_rate_per_unit(self.blocks, scores)
        return {
            "skip_rate": engine.work.skip_rate(per_unit),
            "skip_rate_per_unit": per_unit,
            "skip_rate_per_layer": engine.work.per_layer(per_unit),
            "skip_rate_by_class": skip_rate_by_kind(self.blocks, scores, engine.work),
            "documents": self.documents(scores),
            "items": [] if choices is None else self.items(choices),
        }


def sweep(bench: Workbench) -> StageResult:
    """Thresholds from held-out text, each measured on the validation split; threshold 0 comes first."""
    config = bench.settings.model

    def compute(folder: Path, hook: ProgressHook) -> None:
        from skipmodel.data import sample
        from skipmodel.gate import logit_to_threshold
        from skipmodel.thresholds import thresholds_for

        engine, sweep_config = bench.engine, config.sweep

        def read_thresholds() -> dict[str, Any]:
            held_out = sample(bench.blocks("validation", sweep_config.block_tokens), sweep_config.calibration_tokens,
                              config.seed + 1)  # fmt: skip
            logits = thresholds_for(engine, held_out, sweep_config.target_skip_rates,
                                    force_critical=config.skip.force_critical,
                                    margins=config.skip.class_margins)  # fmt: skip
            return {"logits": logits, "n_tokens": int(held_out.n_real_N.sum())}

        write_once(folder / "thresholds.json", read_thresholds)
        logits = read_json(folder / "thresholds.json")["logits"]
        points = [(0.0, None), *zip(config.sweep.target_skip_rates, logits, strict=False)]
        scorer = Scorer(bench, "validation", config.sweep.validation_tokens)
        for index, (target, logit) in enumerate(points):

            def point(index: int = index, target: float = target, logit: float | None = logit) -> dict[str, Any]:
                arm = scorer.arm(None if logit is None else engine.routing(logit), with_items=True)
                return arm | {
                    "index": index,
                    "target_skip_rate": target,
                    "threshold_logit": logit,
                    "threshold": 0.0 if logit is None else logit_to_threshold(logit),
                    "estimated_ceiling": engine.work.estimated_ceiling(arm["skip_rate_per_unit"]),
                }

            write_once(folder / f"point-{index:02d}.json", point)
            hook(index + 1, len(points))

    inputs = {
        "skip": bench.key("skip-tune"),
        "ingest": bench.key("ingest"),
        "questions": bench.input_hashes()["questions"],
        "sweep": _without(dataclasses.asdict(config.sweep), "test_tokens", "test_items"),
        "force_critical": config.skip.force_critical,
        "class_margins": config.skip.class_margins,
        "seed": config.seed,
    }
    return bench.do("sweep", "sweep thresholds", inputs, SCORE_CODE, compute)


def sweep_points(bench: Workbench) -> list[dict[str, Any]]:
    """Return the measured points of the finished sweep, in order."""
    return [read_json(path) for path in sorted(bench.folder("sweep").glob("point-*.json"))]


def confirm(bench: Workbench, point: dict[str, Any]) -> StageResult:
    """Open the test split once, at the chosen threshold, with the controls beside it."""
    config = bench.settings.model

    def compute(folder: Path, hook: ProgressHook) -> None:
        from skipmodel.engine.executor import Routing
        from skipmodel.thresholds import random_masks, static_masks

        engine = bench.engine
        scorer = Scorer(bench, "test", config.sweep.test_tokens)
        routing = engine.routing(point["threshold_logit"])
        shape = (len(scorer.blocks), scorer.blocks.ids_NT.shape[1])
        arms: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            ("dense_tuned", scorer.reference),
            ("all_executed", lambda: scorer.arm(None, with_items=True)),
            ("skiplayer", lambda: scorer.arm(routing, with_items=True)),
            ("guards_off", lambda: scorer.arm(routing, with_items=False, force_critical=False)),
            ("random_mask", lambda: scorer.arm(
                Routing(override_mask_LBT=random_masks(_rates(folder), shape, config.seed)), with_items=False,
                force_critical=False)),
            ("static_drop", lambda: scorer.arm(
                Routing(override_mask_LBT=static_masks(engine.n_units, _cheapest(bench, _rates(folder)), shape)),
                with_items=False, force_critical=False)),
            ("base_untuned", lambda: _base_arm(bench, scorer)),
            ("int8", lambda: _int8_arm(bench, scorer)),
            ("noise_floor", lambda: _noise_floor(scorer)),
        ]  # fmt: skip
        parts = len(arms) + 1
        for done, (name, make) in enumerate(arms):
            write_once(folder / f"arm-{name}.json", make)
            hook(done + 1, parts)
        if not (folder / answers.RECORDS).exists():
            answers.write_answers(
                bench, [question for question, _ in scorer.questions], routing, folder,
                lambda done, total: hook(parts - 1, parts, f"answers {done}/{total}"),
            )  # fmt: skip
        hook(parts, parts)

    code = [*SCORE_CODE, *answers.CODE, "skipmodel/int8.py"]
    return bench.do("confirm", "confirm once on the test split", confirm_inputs(bench, point), code, compute)


def confirm_inputs(bench: Workbench, point: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a confirmation, beside the code: with anything else of it the test split is read anew."""
    sweep = bench.settings.model.sweep
    return {
        "answers": answers.inputs(bench.settings),
        "sweep": bench.key("sweep"),
        "threshold_logit": point["threshold_logit"],
        "test_tokens": sweep.test_tokens,
        "test_items": sweep.test_items,
    }


def _rates(folder: Path) -> list[float]:
    rates: list[float] = read_json(folder / "arm-skiplayer.json")["skip_rate_per_unit"]
    return rates


def _cheapest(bench: Workbench, rates: Sequence[float]) -> list[int]:
    """Return the units of least measured damage for their work, as many as come nearest to the same skip rate."""
    report = read_json(bench.folder("calibrate") / "calibration.json")
    share = bench.engine.work.unit_share
    cost = {unit: damage / share[unit] for unit, damage in zip(report["units"], report["damage_nats"], strict=True)}
    order = sorted(report["routed_units"], key=cost.__getitem__)
    wanted = sum(rate * part for rate, part in zip(rates, share, strict=True))
    dropped = [sum(share[unit] for unit in order[:n]) for n in range(1, len(order) + 1)]
    return order[: 1 + min(range(len(dropped)), key=lambda n: abs(dropped[n] - wanted))]


def _base_arm(bench: Workbench, scorer: Scorer) -> dict[str, Any]:
    """Score the untuned base model on the same blocks: what domain tuning itself brought."""
    from skipmodel.engine.masked import open_engine
    from skipmodel.evaluate import score_blocks
    from skipmodel.model import SkipLayerForCausalLM

    engine = open_engine(SkipLayerForCausalLM.from_base(bench.load_base(), bench.settings.model.skip))
    scores = score_blocks(engine, scorer.blocks, None, force_critical=False)
    return {"skip_rate": 0.0, "documents": scorer.documents(scores), "items": []}


def _int8_arm(bench: Workbench, scorer: Scorer) -> dict[str, Any]:
    """Score the dense tuned model with weights rounded to int8: the rival that a buyer would pick first.

    Quality only; its time is measured beside the others (`flows/timing.py`).
    """
    from skipmodel.engine.masked import open_engine
    from skipmodel.evaluate import score_blocks
    from skipmodel.int8 import quantise
    from skipmodel.model import SkipLayerForCausalLM

    rounded = bench.load_dense()
    quantise(rounded)
    engine = open_engine(SkipLayerForCausalLM.from_base(rounded, bench.settings.model.skip))
    scores = score_blocks(engine, scorer.blocks, None, force_critical=False)
    return {
        "skip_rate": 0.0,
        "documents": scorer.documents(scores),
        "items": scorer.items(scorer.choices(engine, None)),
    }


def _noise_floor(scorer: Scorer) -> dict[str, Any]:
    """Answer some items densely again in other batches: flips that have nothing to do with skipping."""
    again = scorer.choices(scorer.bench.dense_engine, None, batch_items=1, n=NOISE_FLOOR_ITEMS)
    items = scorer.items(again, NOISE_FLOOR_ITEMS)
    return {"n": len(items), "n_flips": sum(not item["same_answer"] for item in items), "items": items}


def passages(bench: Workbench, point: dict[str, Any]) -> list[dict[str, Any]]:
    """Return token-by-token routing of a few validation passages, for the map in the report."""
    from skipmodel.data import sample
    from skipmodel.evaluate import score_blocks

    report = bench.settings.report
    if report.n_passages == 0:
        return []
    blocks = sample(bench.blocks("validation", 64), 64 * report.n_passages, bench.settings.model.seed + 2)
    force = bench.settings.model.skip.force_critical
    scores = score_blocks(bench.engine, blocks, bench.engine.routing(point["threshold_logit"]), force_critical=force)
    language = {d.document_id: d.language for d in bench.documents["validation"]}
    rows = []
    for row, name in enumerate(blocks.document_ids[: report.n_passages]):
        n = int(blocks.n_real_N[row])
        tokens = [bench.tokenizer.decode([token]) for token in blocks.ids_NT[row, :n].tolist()]
        rows.append(
            {
                "id": f"P{row + 1}",
                "language": language[name],
                "tokens": tokens if report.include_samples else None,
                "n_tokens": n,
                "skipped_layers": (~scores.execute_mask_LNT[:, row, :n]).sum(0).tolist(),
                "critical": blocks.critical_NT[row, :n].tolist(),
            }
        )
    return rows


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
