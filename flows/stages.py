"""The stages that make the models: ingest, base model, dense tune, calibration, SkipLayer fine-tune.

Each is one function of the workbench that names its inputs and the code its result depends on, so that nothing
is computed twice and nothing stale is taken. Evaluation and timing are in `flows/evaluation.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flows import runtime
from flows.progress import ProgressHook
from flows.settings import base_source
from flows.store import StageResult, read_json, write_json
from flows.workbench import Workbench

_MODEL_CODE = [
    "base", "config", "data", "families", "gate", "kv_cache", "layer", "model", "router", "skip_path", "work",
]  # fmt: skip
_TRAIN_CODE = ["collapse", "lora", "losses", "optimise", "teacher", "train"]
MODEL_CODE = [f"skipmodel/{name}.py" for name in _MODEL_CODE]
TRAIN_CODE = [*MODEL_CODE, *(f"skipmodel/{name}.py" for name in _TRAIN_CODE), "flows/stages.py"]


def ingest(bench: Workbench) -> StageResult:
    """Documents -> manifest, splits, critical spans."""
    corpus, seed = bench.settings.corpus, bench.settings.model.seed
    hashes = bench.input_hashes()
    options = {
        "validation_share": corpus.validation_share,
        "test_share": corpus.test_share,
        "min_characters": corpus.min_characters,
        "max_unreadable_share": corpus.max_unreadable_share,
        "boilerplate_share": corpus.boilerplate_share,
        "background_share": corpus.background_share,
        "seed": seed,
    }

    def compute(folder: Path, hook: ProgressHook) -> None:
        from flows.ingest import ingest as read
        from flows.ingest import load_names

        read(
            bench.corpus_path, bench.glossary_path, folder, **options,  # type: ignore[arg-type]
            clean=corpus.clean, limits=corpus.limits, names=load_names(bench.names_path), background=bench.background,
            cache=bench.store.root / ".parts", n_workers=runtime.usable_cores(),
            report=lambda done: hook(*done.steps(), done.text()),
        )  # fmt: skip

    inputs = {
        "corpus": hashes["corpus"],
        "glossary": hashes["glossary"],
        "names": bench.names_hash(),
        "background": [corpus.background, bench.background_hash()],
        "clean": dataclasses.asdict(corpus.clean),
        "limits": dataclasses.asdict(corpus.limits),
        **options,
    }
    code = ["flows/corpus", *(f"flows/{name}.py" for name in ("ingest", "scan", "terms"))]
    return bench.do("ingest", "read documents", inputs, code, compute)


def base(bench: Workbench) -> StageResult:
    """Base model -> a Hugging Face folder of this store, so that a slow source is read once."""
    config = bench.settings.model

    def compute(folder: Path, _: ProgressHook) -> None:
        from skipmodel.base import load_base

        source = dataclasses.replace(config.base, source=base_source(bench.settings, bench.settings_path))
        model: Any
        model, tokenizer, info = load_base(source)
        model.save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
        write_json(folder / "base.json", info | {"source": config.base.source})

    inputs = {"base": bench.base_fingerprint(), "dtype": config.base.dtype}
    return bench.do("base", "load the base model", inputs, ["skipmodel/base.py", "flows/stages.py"], compute)


def dense_tune(bench: Workbench) -> StageResult:
    """Base model -> dense model tuned on the domain: teacher, reference, and frozen weights of the skip model."""
    config = bench.settings.model

    def compute(folder: Path, hook: ProgressHook) -> None:
        from skipmodel import train

        blocks = training_window(bench, 0, _steps_blocks(bench, "dense"))
        tuned: Any
        with _checkpoints(folder) as checkpoints:
            tuned, log = train.dense_tune(
                bench.load_base(), blocks, config.dense_tune, config.seed, hook, checkpoints=checkpoints
            )
        tuned.save_pretrained(folder / "dense")
        bench.tokenizer.save_pretrained(folder / "dense")
        write_json(folder / "log.json", {"rows": log.rows, "n_tokens": log.n_tokens})

    inputs = {
        "ingest": bench.key("ingest"),
        "base": bench.key("base"),
        "dense_tune": dataclasses.asdict(config.dense_tune),
        "block_tokens": config.block_tokens,
        "seed": config.seed,
    }
    return bench.do("dense-tune", "tune the dense model", inputs, TRAIN_CODE, compute)


def calibrate(bench: Workbench) -> StageResult:
    """Dense model -> closed-form skip paths, routers and the range of layers that may be skipped."""
    config = bench.settings.model

    def compute(folder: Path, hook: ProgressHook) -> None:
        from skipmodel import calibrate as closed_form

        model = _wrap_dense(bench)
        n_blocks = max(1, config.calibrate.n_tokens // config.block_tokens)
        blocks = training_window(bench, _steps_blocks(bench, "dense"), n_blocks)
        report = closed_form.calibrate(
            model, blocks, config.calibrate, max_layer_damage_nats=config.skip.max_layer_damage_nats,
            target_skip_rate=config.skip_tune.target_skip_rate, progress=hook,
        )  # fmt: skip
        model.save_routing(folder / "routing.safetensors")
        rows = dataclasses.asdict(report)
        rows["router_correlation"] = [None if math.isnan(value) else value for value in report.router_correlation]
        write_json(folder / "calibration.json", rows | {"routed_units": list(model.config.routed_units)})

    inputs = {
        "dense": bench.key("dense-tune"),
        "skip": dataclasses.asdict(config.skip),
        "calibrate": {
            name: value for name, value in dataclasses.asdict(config.calibrate).items() if "level" not in name
        },
        "target_skip_rate": config.skip_tune.target_skip_rate,
    }
    code = [*MODEL_CODE, "skipmodel/calibrate.py", "skipmodel/losses.py", "flows/stages.py"]
    return bench.do("calibrate", "start the routers in closed form", inputs, code, compute)


def skip_tune(bench: Workbench) -> StageResult:
    """Calibrated model -> fine-tuned SkipLayer checkpoint."""
    config = bench.settings.model

    def compute(folder: Path, hook: ProgressHook) -> None:
        from skipmodel import train
        from skipmodel.guards import ServingGuards, term_sequences

        model = _wrap_dense(bench)
        routed = read_json(bench.folder("calibrate") / "calibration.json")["routed_units"]
        model.close_units([index for index in model.config.routed_units if index not in routed])
        model.load_routing(bench.folder("calibrate") / "routing.safetensors")
        n_calibrated = max(1, config.calibrate.n_tokens // config.block_tokens)
        first = _steps_blocks(bench, "dense") + n_calibrated
        blocks = training_window(bench, first, _steps_blocks(bench, "skip"))
        with _checkpoints(folder) as checkpoints:
            log = train.skip_tune(
                model, blocks, config.skip_tune, config.seed, force_critical=config.skip.force_critical,
                progress=hook, checkpoints=checkpoints,
            )  # fmt: skip
        _set_levels(bench, model, folder)
        model.save_pretrained(folder / "skiplayer")
        bench.tokenizer.save_pretrained(folder / "skiplayer")
        if config.skip.force_critical:
            ServingGuards(term_sequences(bench.matcher.surfaces, bench.tokenizer)).save(folder / "skiplayer")
        write_json(folder / "log.json", {"rows": log.rows, "n_tokens": log.n_tokens,
                                         "n_added_parameters": model.n_added_parameters})  # fmt: skip

    inputs = {
        "calibrate": bench.key("calibrate"),
        "dense": bench.key("dense-tune"),
        "skip_tune": dataclasses.asdict(config.skip_tune),
        "force_critical": config.skip.force_critical,
        "levels": [config.calibrate.level_tokens, config.calibrate.level_skip_rate, config.sweep.block_tokens],
        "seed": config.seed,
    }
    code = [*TRAIN_CODE, "skipmodel/engine", *(f"skipmodel/{n}.py" for n in ("guards", "levels", "thresholds"))]
    return bench.do("skip-tune", "fine-tune the SkipLayer model", inputs, code, compute)


def _set_levels(bench: Workbench, model: Any, folder: Path) -> None:
    """Read the levels off held-out text and keep what was measured."""
    from skipmodel.data import sample
    from skipmodel.levels import set_levels

    config = bench.settings.model
    held_out = sample(bench.blocks("validation", config.sweep.block_tokens), config.calibrate.level_tokens,
                      config.seed + 1)  # fmt: skip
    levels = set_levels(model, held_out, config)
    found = {name: value for name, value in dataclasses.asdict(levels).items() if name != "level_logits"}
    write_json(folder / "levels.json", found | {"routed_units": list(model.config.routed_units)})


def train_tokens(bench: Workbench) -> tuple[int, int]:
    """Return how many different training tokens the stages read, and how many there are."""
    config = bench.settings.model
    blocks = bench.training_blocks()
    wanted = _steps_blocks(bench, "dense") + _steps_blocks(bench, "skip")
    wanted += max(1, config.calibrate.n_tokens // config.block_tokens)
    return min(wanted, len(blocks)) * config.block_tokens, len(blocks) * config.block_tokens


ALL = (ingest, base, dense_tune, calibrate, skip_tune)


def _steps_blocks(bench: Workbench, which: str) -> int:
    config = bench.settings.model.dense_tune if which == "dense" else bench.settings.model.skip_tune
    return config.steps * config.batch_blocks


def training_window(bench: Workbench, first: int, n_blocks: int) -> Any:
    """Return `n_blocks` training blocks from `first` on, around the end: stages read different text if they can."""
    blocks = bench.training_blocks()
    return blocks.take([(first + i) % len(blocks) for i in range(min(max(n_blocks, 1), len(blocks)))])


@contextlib.contextmanager
def _checkpoints(folder: Path) -> Iterator[Path]:
    """Give a training a folder for its checkpoints, and remove it once the training is through."""
    checkpoints = folder / "checkpoints"
    yield checkpoints
    shutil.rmtree(checkpoints, ignore_errors=True)


def _wrap_dense(bench: Workbench) -> Any:
    from skipmodel.model import SkipLayerForCausalLM

    return SkipLayerForCausalLM.from_base(bench.load_dense(), bench.settings.model.skip)
