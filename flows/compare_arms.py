"""The arms of a comparison: each method and seed is one stage that trains, judges and keeps paired records.

A killed comparison goes on with the arms that are missing, and within an arm from the last checkpoint and with the
points that are missing. A control that cannot be made or whose training fails has no points but says why: it must
not end a comparison of many hours.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flows.compare_base import CODE, Comparison
from flows.progress import ProgressHook
from flows.store import StageResult, read_json, write_json, write_once
from skipmodel.config_compare import DERIVED, DROPPED, OWN, REFERENCES, RIVALS
from skipmodel.errors import ConfigError, TrainingError

_CODE = [*CODE, "flows/compare_arms.py"]
_COLLAPSED = "collapsed"
"""In the message of a training that came to its end with routers that no longer decide: judged all the same."""
_PROBLEMS = "problems.json"
"""What went wrong so far, for an arm that goes on after a kill."""


def run_arm(shared: Comparison, method: str, seed: int) -> StageResult:
    """Make one arm, or find it finished."""
    bench = shared.bench
    inputs: dict[str, Any] = {
        "method": method, "seed": seed + shared.settings.seed, "dense": bench.key("dense-tune"),
        "judge": shared.judge_inputs(), "skip_rates": shared.config.skip_rates,
    }  # fmt: skip
    make: Callable[[Comparison, str, int, Path, ProgressHook], None]
    if method in REFERENCES:
        make = _reference
        inputs |= {"skip": dataclasses.asdict(shared.settings.skip), "base": bench.key("base")}
        if method == "dense_continued":
            inputs |= {"tune": dataclasses.asdict(shared.dense_config()), "calibrate": shared.n_calibrated}
    elif method in DERIVED:
        make = _derived
        inputs["own"] = bench.key(arm_name(OWN, seed))
    else:
        make = _trained
        made = shared.recipes[method]
        inputs |= {
            "recipe": dataclasses.asdict(made), "calibrate": shared.n_calibrated,
            "start": None if made.start is None else bench.key(shared.start_name(made)),
            "heal_per_rate": shared.config.heal_per_rate and made.routing == "dropped",
            "level_skip_rate": None if made.tune.steps else shared.settings.calibrate.level_skip_rate,
        }  # fmt: skip
    compute = functools.partial(make, shared, method, seed)
    return bench.do(arm_name(method, seed), f"{method}, seed {seed}", inputs, _CODE, compute)


def arm_name(method: str, seed: int) -> str:
    """Return the name of an arm's stage."""
    return f"compare-{method}-{seed}"


def read_points(folder: Path) -> list[dict[str, Any]]:
    """Return the judged points of an arm, those that could be reached."""
    points = [read_json(path) for path in sorted(folder.glob("point-*.json"))]
    return [point for point in points if point["skip_rate"] is not None]


def _reference(shared: Comparison, method: str, seed: int, folder: Path, hook: ProgressHook) -> None:
    """Judge a model that skips nothing."""
    from skipmodel.engine.masked import open_engine
    from skipmodel.evaluate import score_blocks
    from skipmodel.int8 import quantise
    from skipmodel.model import SkipLayerForCausalLM
    from skipmodel.train import dense_tune

    base = shared.bench.load_base() if method == "base_untuned" else shared.bench.load_dense()
    if method == "int8":
        quantise(base)
    elif method == "dense_continued":
        base, log = dense_tune(
            base, shared.training_blocks(seed), shared.dense_config(), shared.settings.seed + seed, hook,
            checkpoints=folder / "checkpoints",
        )  # fmt: skip
        write_json(folder / "log.json", {"rows": log.rows, "n_tokens": log.n_tokens})
    engine = open_engine(SkipLayerForCausalLM.from_base(base, shared.settings.skip))
    scores = score_blocks(engine, shared.scored, None, force_critical=False)
    write_json(folder / "point-00.json", shared.record(engine, scores, 0.0))
    _finish(folder, None)


def _derived(shared: Comparison, method: str, seed: int, folder: Path, hook: ProgressHook) -> None:
    """Route the weights of the own method otherwise."""
    from skipmodel.control_routing import open_routed, random_routing, routing_at
    from skipmodel.evaluate import score_blocks

    own = shared.bench.folder(arm_name(OWN, seed))
    if not (own / "weights").exists():
        _finish(folder, f"{OWN}, seed {seed}, left no model")
        return
    model = _load(shared, own / "weights", seed)
    _allocate(shared, OWN, model)
    engine = open_routed(model, shared.own)
    points: list[tuple[float, list[float]]] = [(0.0, [])]
    if method == "random_mask":
        points = [(row["target_skip_rate"], row["skip_rate_per_unit"]) for row in read_points(own)]
    elif method == "skiplayer_guards_off":
        points = [(rate, []) for rate in shared.config.skip_rates]
    unguarded = dataclasses.replace(shared.own, force_critical=False)

    def make(target: float, rates: list[float]) -> dict[str, Any]:
        routing = None
        if method == "random_mask":
            routing = random_routing(rates, shared.scored, engine.force_first_positions, shared.settings.seed + seed)
        elif method == "skiplayer_guards_off":
            routing = routing_at(engine, model, unguarded, shared.held_out, target, {})
            if routing is None:
                return _unreachable(target)
        scores = score_blocks(engine, shared.scored, routing, force_critical=False)
        return shared.record(engine, scores, target)

    for number, (target, rates) in enumerate(points):
        write_once(folder / f"point-{number:02d}.json", functools.partial(make, target, rates))
        hook(number + 1, len(points))
    _finish(folder, None)


def _trained(shared: Comparison, method: str, seed: int, folder: Path, hook: ProgressHook) -> None:
    """Train a method, once or once per number of dropped layers, and judge it at every skip rate."""
    steps = shared.recipes[method].tune.steps
    problems: list[str] = read_json(folder / _PROBLEMS) if (folder / _PROBLEMS).exists() else []
    try:
        model = _build(shared, method, seed)
        groups = _groups(shared, method, model)
        n_work, done, n_judged = steps * len(groups) + sum(map(len, groups)), 0, 0
        for targets in groups:
            paths = [folder / f"point-{n_judged + i:02d}.json" for i in range(len(targets))]
            if not all(path.exists() for path in paths):
                tick = functools.partial(_tick, hook, done, n_work)
                model = _build(shared, method, seed) if model is None else model
                trained = _train(shared, method, seed, folder, model, targets, problems, tick)
                if trained is not None:
                    _judge(
                        shared, method, trained, targets, paths, functools.partial(_tick, hook, done + steps, n_work)
                    )
                model = trained = None
            done, n_judged = done + steps + len(targets), n_judged + len(targets)
    except ConfigError as error:
        problems.append(str(error))
    _finish(folder, "; ".join(dict.fromkeys(problems)) or None)


def _tick(hook: ProgressHook, before: int, total: int, done: int, _: int = 0) -> None:
    hook(before + done, total)


def _build(shared: Comparison, method: str, seed: int) -> Any:
    """Return the model of a method as it starts."""
    from skipmodel.control_routing import build

    made = shared.recipes[method]
    if made.start is None:
        return build(shared.bench.load_dense(), made, [], None, shared.settings.seed + seed)
    start = shared.bench.folder(shared.start_name(made))
    found = read_json(start / "calibration.json")
    if "problem" in found:
        raise ConfigError(found["problem"])
    path = start / "routing.safetensors"
    return build(shared.bench.load_dense(), made, found["routed_units"], path, shared.settings.seed + seed)


def _order(shared: Comparison, method: str, model: Any) -> list[int]:
    """Return the layers in the order in which they are dropped."""
    from skipmodel.controls import drop_order

    made = shared.recipes[method]
    damage: dict[int, float] = {}
    if made.start is not None:
        found = read_json(shared.bench.folder(shared.start_name(made)) / "calibration.json")
        damage = dict(zip(found["units"], found["damage_nats"], strict=True))
    return drop_order(method, damage, model)


def _groups(shared: Comparison, method: str, model: Any) -> list[list[float]]:
    """Return the skip rates to be judged, one list per training."""
    from skipmodel.controls import drop_counts

    rates = shared.config.skip_rates
    if shared.recipes[method].routing != "dropped":
        return [list(rates)]
    n_layers, n_droppable = model.work.n_layers, len(model.config.routed_units)
    targets = [count / n_layers for count in drop_counts(rates, n_layers, n_droppable)]
    if not targets:
        raise ConfigError(
            f"compare.skip_rates: none of {rates} is near a number of dropped layers between 1 and {n_droppable}, of "
            f"{n_layers}; raise the rates, or model.skip.max_layer_damage_nats"
        )
    return [[target] for target in targets] if shared.config.heal_per_rate else [targets]


def _train(
    shared: Comparison, method: str, seed: int, folder: Path, model: Any, targets: Sequence[float],
    problems: list[str], tick: Callable[[int, int], None],
) -> Any:  # fmt: skip
    """Train the model in place and return it, or the one found trained; None when that fails, and why in `problems`."""
    from skipmodel.controls import NestedDrop, fixed_routing
    from skipmodel.train import skip_tune

    made = shared.recipes[method]
    if (folder / "weights").exists():
        return _load(shared, folder / "weights", seed)
    number = shared.settings.seed + seed
    drop = None
    if made.routing == "dropped":
        n_layers = model.work.n_layers
        drop = NestedDrop(
            _order(shared, method, model), [round(target * n_layers) for target in targets], len(model.units), number
        )
    log: dict[str, Any] = {"rows": [], "n_tokens": 0}
    try:
        with shared.teacher(model) as teacher:
            done = skip_tune(
                model, shared.training_blocks(seed), made.tune, number, force_critical=made.force_critical,
                progress=tick, checkpoints=folder / "checkpoints" / f"{len(targets)}-{targets[0]:.4f}",
                teacher=teacher, fixed=fixed_routing(model, made, shared.config, drop),
            )  # fmt: skip
        log = {"rows": done.rows, "n_tokens": done.n_tokens}
    except TrainingError as error:
        problems.append(str(error))
        write_json(folder / _PROBLEMS, problems)
        if _COLLAPSED not in str(error):
            return None
    write_json(folder / "log.json", log)
    if method == OWN:
        _save(shared, model, folder / "weights")
    return model.eval()


def _judge(
    shared: Comparison, method: str, model: Any, targets: Sequence[float], paths: Sequence[Path],
    tick: Callable[[int], None],
) -> None:  # fmt: skip
    """Write one point per skip rate."""
    from skipmodel.control_routing import open_routed, routing_at
    from skipmodel.engine.executor import Routing
    from skipmodel.evaluate import score_blocks
    from skipmodel.thresholds import static_masks

    made = shared.recipes[method]
    _allocate(shared, method, model)
    engine = open_routed(model, made)
    margins = made.skip.class_margins
    order = _order(shared, method, model) if made.routing == "dropped" else []

    def make(target: float) -> dict[str, Any]:
        routing: Routing | None
        if made.routing == "dropped":
            shape = (len(shared.scored), shared.scored.ids_NT.shape[1])
            dropped = order[: round(target * engine.n_layers)]
            routing = Routing(override_mask_LBT=static_masks(engine.n_units, dropped, shape))
        else:
            routing = routing_at(engine, model, made, shared.held_out, target, margins)
        if routing is None:
            return _unreachable(target)
        scores = score_blocks(engine, shared.scored, routing, force_critical=made.force_critical, margins=margins)
        return shared.record(engine, scores, target)

    for number, (target, path) in enumerate(zip(targets, paths, strict=True)):
        write_once(path, functools.partial(make, target))
        tick(number + 1)


def _allocate(shared: Comparison, method: str, model: Any) -> None:
    """Move skips between units by measured damage, where routers were not trained: as the PoC run does."""
    from skipmodel.engine.masked import open_engine
    from skipmodel.levels import apply_levels, calibrate_levels

    made = shared.recipes[method]
    if made.tune.steps or method in (*DROPPED, *RIVALS):
        return
    levels = calibrate_levels(
        open_engine(model), shared.held_out, force_critical=made.force_critical,
        reference_skip_rate=shared.settings.calibrate.level_skip_rate,
    )  # fmt: skip
    apply_levels(model, levels)


# --- weights and files ------------------------------------------------------------------------------------------


def _base_changes(shared: Comparison) -> bool:
    return shared.own.tune.lora_rank > 0 and shared.own.tune.steps > 0


def _save(shared: Comparison, model: Any, folder: Path) -> None:
    """Keep the own method's weights for what is derived from them; a folder of that name is whole."""
    new = folder.with_name("weights.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    if _base_changes(shared):
        model.save_pretrained(new)
    else:
        model.save_routing(new / "routing.safetensors")
    os.replace(new, folder)


def _load(shared: Comparison, folder: Path, seed: int) -> Any:
    """Return the own method's model."""
    from skipmodel.base import default_device
    from skipmodel.model import SkipLayerForCausalLM

    if _base_changes(shared):
        model: Any = SkipLayerForCausalLM.from_pretrained(folder, dtype="auto")
        return model.to(default_device()).eval()
    model = _build(shared, OWN, seed)
    model.load_routing(folder / "routing.safetensors")
    return model


def _unreachable(target: float) -> dict[str, Any]:
    return {"target_skip_rate": target, "skip_rate": None}


def _finish(folder: Path, problem: str | None) -> None:
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    write_json(folder / "arm.json", {"problem": problem})
