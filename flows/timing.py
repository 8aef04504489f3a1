"""The stage that times: dense against skip in pairs, and dense int8, what a buyer would pick instead, against dense."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.progress import ProgressHook
from flows.stages import MODEL_CODE
from flows.store import StageResult, read_json, write_once
from flows.workbench import Workbench

if TYPE_CHECKING:
    from skipmodel.engine.engagement import Phase

_CODE = [*MODEL_CODE, "skipmodel/engine", "skipmodel/bench", "skipmodel/guards.py", "skipmodel/int8.py",
         "flows/timing.py"]  # fmt: skip
INT8 = "int8.json"


def measure(bench: Workbench, point: dict[str, Any], machine: dict[str, Any]) -> StageResult:
    """Time decode and prefill in pairs: learned routing at the operating point, then random routing, then dense int8.

    The learned routing is timed with the engagement rule of this machine beside it; random routing shows how time
    falls with skipping, rule or not. int8 runs densely, in the phase and batch of the headline.
    """
    config = bench.settings.model

    def compute(folder: Path, hook: ProgressHook) -> None:
        from skipmodel.bench.cells import time_cell
        from skipmodel.engine import engagement as rule

        engine, n_pairs = bench.engine, config.measure.n_pairs
        if engine.routed_units:
            write_once(folder / "engagement.json", lambda: _calibration(bench))
        costs = rule.load(folder / "engagement.json") if engine.routed_units else None
        cells: list[tuple[Phase, float | None]] = [("decode", None), ("prefill", None)]
        cells += [(phase, rate) for rate in config.measure.random_skip_rates for phase in ("decode", "prefill")]
        routing = engine.routing(point["threshold_logit"])

        def cell(phase: Phase, rate: float | None) -> dict[str, Any]:
            row = time_cell(
                engine, _load(bench, phase, routing if rate is None else None, rate), n_pairs=n_pairs,
                kind="trained" if rate is None else "random", engagement=costs if rate is None else None,
                requested_skip_rate=rate,
            )  # fmt: skip
            return row.to_json() | {"prompt_tokens": row.prompt, "estimated_ceiling": row.ceiling}

        for index, (phase, rate) in enumerate(cells):
            write_once(folder / f"cell-{index:02d}.json", lambda phase=phase, rate=rate: cell(phase, rate))  # type: ignore[misc]
            hook(index + 1, len(cells) + 1)
        write_once(folder / INT8, lambda: _int8(bench))
        hook(len(cells) + 1, len(cells) + 1)

    inputs = {
        "skip": bench.key("skip-tune"),
        "threshold_logit": point["threshold_logit"],
        "measure": dataclasses.asdict(config.measure),
        "machine": machine,
    }
    return bench.do("measure", "time dense against skip", inputs, _CODE, compute)


def _int8(bench: Workbench) -> dict[str, Any]:
    """Time the dense tuned model with int8 weights against itself, decoding as the headline does."""
    from skipmodel.bench.loads import DecodeLoad
    from skipmodel.bench.weights import time_weights
    from skipmodel.engine.masked import open_engine
    from skipmodel.errors import ConfigError

    settings = bench.settings.model.measure
    try:
        other = open_engine(_dense_model(bench), "int8")
    except ConfigError:  # families that only the masked engine runs
        return {"speedup": None, "low": None, "high": None, "reason": "int8_not_supported"}
    n_before = settings.decode_prompt_tokens
    texts = _timed_texts(bench, n_before + settings.decode_tokens, has_guards=False)
    arms = [DecodeLoad(engine, texts, n_before) for engine in (bench.dense_engine, other)]
    return time_weights(*arms, n_pairs=settings.n_pairs).to_json() | {"reason": None}


def _dense_model(bench: Workbench) -> Any:
    """Return the model behind `bench.dense_engine`."""
    from skipmodel.model import SkipLayerForCausalLM

    if bench.dense_engine is bench.engine:
        return bench.model
    return SkipLayerForCausalLM.from_base(bench.load_dense(), bench.settings.model.skip)


def int8_row(bench: Workbench) -> dict[str, Any] | None:
    """Return the timing of int8 of the finished stage; None in one from before it was timed."""
    path = bench.folder("measure") / INT8
    row: dict[str, Any] | None = read_json(path) if path.exists() else None
    return row


def device_name(bench: Workbench) -> str:
    """Return the name of the device on which the finished stage was timed; empty when its record names none."""
    machine = read_json(bench.folder("measure") / "stage.json")["inputs"].get("machine", {})
    return str(machine.get("device_name", ""))


def _calibration(bench: Workbench) -> dict[str, Any]:
    """Measure on this machine where skipping pays at batch 1, for the lengths that are timed."""
    from skipmodel.engine.calibration import calibrate

    settings = bench.settings.model.measure
    lengths = sorted({settings.decode_prompt_tokens, settings.prompt_tokens})
    return calibrate(bench.engine, batches=(1,), tokens=lengths, vocabulary=len(bench.tokenizer),
                     seed=bench.settings.model.seed).to_json()  # fmt: skip


def _load(bench: Workbench, phase: Phase, routing: Any, random_skip_rate: float | None) -> Any:
    """Return what one cell runs: validation text, with the guards of the plan where the routing is learned."""
    from skipmodel.bench.loads import DecodeLoad, PrefillLoad

    config = bench.settings.model
    settings = config.measure
    has_guards = config.skip.force_critical and routing is not None
    if phase == "decode":
        n_before = settings.decode_prompt_tokens
        texts = _timed_texts(bench, n_before + settings.decode_tokens, has_guards=has_guards)
        return DecodeLoad(bench.engine, texts, n_before, routing, random_skip_rate=random_skip_rate)
    texts = _timed_texts(bench, settings.prompt_tokens, has_guards=has_guards)
    return PrefillLoad(bench.engine, texts, routing, random_skip_rate=random_skip_rate)


def _timed_texts(bench: Workbench, n_tokens: int, *, has_guards: bool) -> list[Any]:
    """Return validation texts of one length for timing, each from another document while they last."""
    from skipmodel.bench.loads import Batch
    from skipmodel.data import sample

    config = bench.settings.model
    blocks = sample(bench.blocks("validation", n_tokens), n_tokens * config.measure.n_pairs, config.seed + 3,
                    full_only=True)  # fmt: skip
    critical = blocks.critical_NT
    return [Batch(blocks.ids_NT[i : i + 1], critical[i : i + 1] if has_guards else None) for i in range(len(blocks))]


def timing_rows(bench: Workbench) -> list[dict[str, Any]]:
    """Return the cells of the finished timing stage, in order."""
    return [read_json(path) for path in sorted(bench.folder("measure").glob("cell-*.json"))]
