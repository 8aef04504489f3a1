"""What the arms of a comparison share: base, text, starts, teacher, and the dense scores they are paired with."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.progress import ProgressHook
from flows.stages import training_window
from flows.store import StageResult, sha256_json, write_json
from flows.workbench import Workbench
from skipmodel.config import DenseTuneConfig
from skipmodel.config_compare import DERIVED, OWN, REFERENCES, CompareConfig
from skipmodel.errors import ConfigError

if TYPE_CHECKING:
    from skipmodel.controls import Recipe
    from skipmodel.data import Blocks
    from skipmodel.evaluate import BlockScores
    from skipmodel.teacher import Teacher

_CODE = (
    "calibrate", "collapse", "control_routing", "controls", "data", "evaluate", "families", "gate", "guards", "int8",
    "kv_cache", "layer", "levels", "lora", "losses", "model", "optimise", "router", "skip_path", "teacher",
    "thresholds", "train", "work",
)  # fmt: skip
CODE = [
    *(f"skipmodel/{name}.py" for name in _CODE),
    "skipmodel/engine",
    "flows/compare_base.py",
    "flows/stages.py",
]
"""Sources that decide the numbers of an arm; settings are inputs, so their file is not among them."""
_START_CODE = (
    "calibrate", "control_routing", "guards", "layer", "losses", "model", "router", "skip_path", "thresholds", "work",
)  # fmt: skip
START_CODE = [f"skipmodel/{name}.py" for name in _START_CODE]
REFERENCE = "compare-dense_tuned-0"
"""Stage of the dense scores."""


class Comparison:
    """What the arms of one comparison share. The stages ingest, base and dense tune must be finished.

    Args:
        bench: Workbench of the settings.
        config: What is compared.
    """

    def __init__(self, bench: Workbench, config: CompareConfig) -> None:
        from skipmodel.controls import recipe

        self.bench, self.config, self.settings = bench, config, bench.settings.model
        made = {
            method: recipe(method, self.settings.skip, self.settings.skip_tune, config)
            for method in (OWN, *config.methods) if method not in (*REFERENCES, *DERIVED)
        }  # fmt: skip
        self.recipes: dict[str, Recipe] = {method: found for method, found in made.items() if found is not None}
        self.own = self.recipes[OWN]
        self.left_out = [method for method in config.methods if method in made and method not in self.recipes]
        """Methods that would change nothing under these settings."""
        wanted = dict.fromkeys(config.methods)
        needs_own = OWN in wanted or any(method in wanted for method in DERIVED)
        own = [OWN] if needs_own else []  # first: others are derived from it
        others = [method for method in wanted if method not in (OWN, "dense_tuned", *self.left_out)]
        self.methods = [*own, *others]
        """All but `dense_tuned`, which is the reference and always judged."""
        self._teacher: Teacher | None = None

    @property
    def arms(self) -> list[tuple[str, int]]:
        """Pairs of method and seed, in the order in which they are made."""
        return [(method, seed) for method in self.methods for seed in range(self.config.seeds_of(method))]

    # --- text -----------------------------------------------------------------------------------------------

    @functools.cached_property
    def scored(self) -> Blocks:
        """Validation blocks that every arm is judged on."""
        from skipmodel.data import sample

        sweep = self.settings.sweep
        blocks = self.bench.blocks("validation", sweep.block_tokens)
        return sample(blocks, sweep.validation_tokens, self.settings.seed)

    @functools.cached_property
    def held_out(self) -> Blocks:
        """Other validation blocks, on which thresholds are read off; all of them when there are no others."""
        from skipmodel.data import sample

        def name(blocks: Blocks, row: int) -> tuple[str, bytes]:
            return blocks.document_ids[row], blocks.ids_NT[row].numpy().tobytes()

        sweep = self.settings.sweep
        blocks = self.bench.blocks("validation", sweep.block_tokens)
        scored = {name(self.scored, row) for row in range(len(self.scored))}
        others = [row for row in range(len(blocks)) if name(blocks, row) not in scored]
        rest = blocks.take(others) if others else blocks
        return sample(rest, sweep.calibration_tokens, self.settings.seed + 1)

    @property
    def _n_dense(self) -> int:
        return self.settings.dense_tune.steps * self.settings.dense_tune.batch_blocks

    @property
    def n_calibrated(self) -> int:
        """Blocks that calibrations read; trainings begin after them."""
        return max(1, self.settings.calibrate.n_tokens // self.settings.block_tokens)

    def training_blocks(self, seed: int) -> Blocks:
        """Return the blocks of every training, the same for all seeds; seed 0 keeps the order of the PoC run."""
        import torch

        n_blocks = self.own.tune.steps * self.own.tune.batch_blocks
        blocks: Blocks = training_window(self.bench, self._n_dense + self.n_calibrated, n_blocks)
        if seed == 0:
            return blocks
        return blocks.take(torch.randperm(len(blocks), generator=torch.Generator().manual_seed(seed)).tolist())

    @property
    def n_tokens(self) -> dict[str, int]:
        """Tokens of text behind the numbers."""
        tune = self.own.tune
        return {
            "training": tune.steps * tune.batch_blocks * self.settings.block_tokens,
            "training_distinct": len(self.training_blocks(0)) * self.settings.block_tokens,
            "calibration": int(self.held_out.n_real_N.sum()),
            "validation": int(self.scored.n_real_N.sum()),
        }

    # --- shared by arms -------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def teacher(self, model: Any) -> Iterator[Teacher]:
        """Give the teacher of all trainings to that of one model: what one has computed, the others find.

        Whichever computes: with its LoRA off, each is the dense tuned model.
        """
        from skipmodel.teacher import Teacher

        if self._teacher is None:
            self._teacher = Teacher(model, keep=True)
        self._teacher.model = model
        try:
            yield self._teacher
        finally:
            del self._teacher.model  # a large model must not stay in memory beside the next one

    def reference(self) -> StageResult:
        """Score the dense tuned model: what every record is paired with, and the row `dense_tuned`."""

        def compute(folder: Path, _: ProgressHook) -> None:
            from safetensors.torch import save_file

            from skipmodel.engine.masked import open_engine
            from skipmodel.evaluate import score_blocks
            from skipmodel.model import SkipLayerForCausalLM

            model = SkipLayerForCausalLM.from_base(self.bench.load_dense(), self.settings.skip)
            engine = open_engine(model)
            scores = score_blocks(engine, self.scored, None, force_critical=False)
            tensors = {"nll": scores.nll_NT, "top1": scores.top1_NT, "ran": scores.execute_mask_LNT}
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "scores.safetensors")
            write_json(folder / "point-00.json", self.record(engine, scores, 0.0, dense=scores))
            write_json(folder / "arm.json", {"problem": None})

        inputs = {"dense": self.bench.key("dense-tune"), "judge": self.judge_inputs(),
                  "skip": dataclasses.asdict(self.settings.skip)}  # fmt: skip
        return self.bench.do(REFERENCE, "score the dense model", inputs, CODE, compute)

    @functools.cached_property
    def dense(self) -> BlockScores:
        """Scores of the dense tuned model."""
        from safetensors.torch import load_file

        from skipmodel.evaluate import BlockScores

        read = load_file(self.bench.folder(REFERENCE) / "scores.safetensors")
        return BlockScores(read["nll"], read["top1"], read["ran"])

    @property
    def starts(self) -> list[Recipe]:
        """One recipe per calibration that the arms need."""
        found = {self.start_name(made): made for method, made in self.recipes.items()
                 if method in self.methods and made.start is not None}  # fmt: skip
        return list(found.values())

    def start_name(self, made: Recipe) -> str:
        """Return the name of the stage that calibrates the start of a recipe."""
        value = [None if made.start is None else dataclasses.asdict(made.start), made.exits]
        return f"compare-start-{sha256_json(value)[:8]}"

    def start(self, made: Recipe) -> StageResult:
        """Calibrate once for all recipes that start alike."""

        def compute(folder: Path, hook: ProgressHook) -> None:
            try:
                rows = self._calibrate(made, folder / "routing.safetensors", hook)
            except ConfigError as error:  # such as every unit too damaging: the arms that start here have no points
                rows = {"problem": str(error)}
            write_json(folder / "calibration.json", rows)

        inputs = {
            "dense": self.bench.key("dense-tune"),
            "skip": None if made.start is None else dataclasses.asdict(made.start),
            "exits": made.exits,
            "calibrate": {name: value for name, value in dataclasses.asdict(self.settings.calibrate).items()
                          if "level" not in name},
            "target_skip_rate": made.tune.target_skip_rate,
        }  # fmt: skip
        return self.bench.do(self.start_name(made), "calibrate a start", inputs, START_CODE, compute)

    def _calibrate(self, made: Recipe, path: Path, hook: ProgressHook) -> dict[str, Any]:
        """Write the calibrated routing to a file; return the measured damage and the units left open."""
        from skipmodel.calibrate import calibrate
        from skipmodel.control_routing import start_exits
        from skipmodel.model import SkipLayerForCausalLM

        if made.start is None:
            raise RuntimeError("this recipe starts without a calibration")
        config = self.settings.calibrate
        model = SkipLayerForCausalLM.from_base(self.bench.load_dense(), made.start)
        blocks = training_window(self.bench, self._n_dense, self.n_calibrated)
        found = calibrate(
            model, blocks, config, max_layer_damage_nats=made.start.max_layer_damage_nats,
            target_skip_rate=made.tune.target_skip_rate, progress=hook,
        )  # fmt: skip
        rows: dict[str, Any] = {
            "units": found.units, "damage_nats": found.damage_nats, "routed_units": list(model.config.routed_units)
        }  # fmt: skip
        if made.exits:
            part = blocks.take(range(max(1, min(len(blocks), config.damage_tokens // self.settings.block_tokens))))
            alone = dict(zip(found.units, found.damage_nats, strict=True))
            rows["exit_damage_nats"] = list(start_exits(model, part, alone, made.tune.target_skip_rate).values())
        model.save_routing(path)
        return rows

    # --- records --------------------------------------------------------------------------------------------

    def judge_inputs(self) -> dict[str, Any]:
        """Return what decides which text an arm is judged on."""
        sweep = self.settings.sweep
        return {"block_tokens": sweep.block_tokens, "validation_tokens": sweep.validation_tokens,
                "calibration_tokens": sweep.calibration_tokens, "seed": self.settings.seed}  # fmt: skip

    def record(
        self, engine: Any, scores: BlockScores, target: float, dense: BlockScores | None = None
    ) -> dict[str, Any]:
        """Pair scores with the dense ones, per document, with the losses on critical tokens apart."""
        from skipmodel.evaluate import pair_documents, skip_rate_per_unit

        dense = dense or self.dense
        per_unit = skip_rate_per_unit(self.scored, scores)
        is_critical_NT = (self.scored.critical_NT & self.scored.real_NT)[:, 1:]
        critical = {
            "n": int(is_critical_NT.sum()),
            "nll_dense": float(dense.nll_NT[is_critical_NT].double().sum()),
            "nll_skip": float(scores.nll_NT[is_critical_NT].double().sum()),
        }
        return {
            "target_skip_rate": target, "skip_rate": engine.work.skip_rate(per_unit), "skip_rate_per_unit": per_unit,
            "documents": pair_documents(self.scored, dense, scores, engine.routed_units), "critical": critical,
        }  # fmt: skip

    def dense_config(self) -> DenseTuneConfig:
        """Return the settings under which the dense model is tuned on, by the steps that the others get."""
        tune = self.own.tune
        return dataclasses.replace(self.settings.dense_tune, steps=tune.steps, batch_blocks=tune.batch_blocks)
