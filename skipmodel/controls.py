"""The honest controls: what each one changes in the settings, and how it is healed.

All start from the same dense tuned base and are healed by `skipmodel.train.skip_tune` with the same steps, blocks,
learning rates and teacher as the SkipLayer model. What a rival needs to be at its best, it gets: LoRA where it has no
skip path to learn with, indispensable layers closed by measurement, a closed-form start where one can be made, first
positions forced. How they start and how they are routed when judged is in `skipmodel.control_routing`.

Legend: B sequences, T tokens, L units.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from skipmodel.config import SkipConfig, SkipTuneConfig
from skipmodel.config_compare import DROPPED, OWN, CompareConfig
from skipmodel.errors import ConfigError
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.thresholds import static_masks
from skipmodel.train import Fixed

RoutingKind = Literal["threshold", "per_unit", "cumulative", "dropped"]
NO_LIMIT_NATS = 1e9


@dataclass(frozen=True)
class Recipe:
    """How one method is made and judged.

    Attributes:
        skip: Units, routers, paths.
        tune: Training; 0 steps for none.
        start: Calibration that it starts from, with `calibrated` routers; None for none.
        closes: Units that the calibration found indispensable always run.
        exits: The routers of the start predict the damage of leaving for good.
        routing: `threshold`: one cut for all units. `per_unit`: a cut per unit, the same rate in each.
            `cumulative`: who skips one unit skips all later ones. `dropped`: all tokens skip the same units.
        force_critical: Critical tokens execute everything.
    """

    skip: SkipConfig
    tune: SkipTuneConfig
    start: SkipConfig | None
    closes: bool = True
    exits: bool = False
    routing: RoutingKind = "threshold"
    force_critical: bool = False


def recipe(method: str, skip: SkipConfig, tune: SkipTuneConfig, config: CompareConfig) -> Recipe | None:
    """Return how a trained method is made from the settings; None when it would change nothing or cannot be.

    Args:
        method: `skiplayer`, `skiplayer_closed_form`, a rival, a way of dropping layers, or an ablation.
        skip: The settings' own.
        tune: The settings' own.
        config: Rank of the rivals' LoRA, steps and blocks where they differ from the settings'.
    """
    tune = _budget(tune, config)
    rival = _rival(method, skip, tune, config)
    if rival is not None:
        return rival
    changes = _ablation(method, tune, config)
    try:
        changed = replace(skip, **changes["skip"])
    except ConfigError:
        return None
    changed_tune = replace(tune, **changes["tune"])
    if method != OWN and (changed, changed_tune) == (skip, tune):
        return None
    return Recipe(changed, changed_tune, _start(changed), force_critical=skip.force_critical)


def _rival(method: str, skip: SkipConfig, tune: SkipTuneConfig, config: CompareConfig) -> Recipe | None:
    unchanged = replace(skip, unit="layer", path="identity", router="calibrated", kv="project", class_margins={})
    healed = replace(tune, lora_rank=tune.lora_rank or config.rival_lora_rank)
    own_rules = replace(healed, floor=0.0, critical_weight=0.0)  # no hinge of ours bends a rival's routing
    if method == "static_path":
        layers = replace(unchanged, path="linear" if skip.path == "identity" else skip.path)
        return Recipe(_unguarded(layers), replace(tune, router_share=0.0), _start(layers), routing="dropped")
    if method in DROPPED:
        start = _start(unchanged) if method == "static_identity" else None
        layers = unchanged if start else replace(unchanged, always_run_first=0, always_run_last=1)
        return Recipe(_unguarded(layers), replace(healed, router_share=0.0), start, closes=False, routing="dropped")
    if method == "mixture_of_depths":
        tokens = replace(unchanged, router="linear", kv="drop")
        return Recipe(tokens, replace(own_rules, density_weight=0.0), _start(unchanged), routing="per_unit")
    if method == "early_exit":
        # recomputed activations would find the exits of the end of the pass, not those of their own layer
        leaving = replace(own_rules, gradient_checkpointing=False)
        start = replace(_start(unchanged), max_layer_damage_nats=NO_LIMIT_NATS)
        return Recipe(unchanged, leaving, start, closes=False, exits=True, routing="cumulative")
    if method == "linear_router":
        paper = replace(own_rules, density="per_layer", density_weight=0.1)
        return Recipe(replace(unchanged, router="linear"), paper, _start(unchanged))
    return None


def _ablation(method: str, tune: SkipTuneConfig, config: CompareConfig) -> dict[str, dict[str, Any]]:
    field, _, value = method.partition("_")
    changed: dict[str, dict[str, Any]] = {"skip": {}, "tune": {}}
    if method == "lora_off" or (method == "lora_on" and not tune.lora_rank):
        changed["tune"] = {"lora_rank": 0 if method == "lora_off" else config.rival_lora_rank}
    elif method == "skiplayer_closed_form":
        changed["tune"] = {"steps": 0}
    elif field in ("path", "router", "kv", "unit"):
        changed["skip"] = {field: value}
    return changed


def _budget(tune: SkipTuneConfig, config: CompareConfig) -> SkipTuneConfig:
    steps = tune.steps if config.steps is None else config.steps
    batch = config.batch_blocks or tune.batch_blocks
    accumulate = tune.accumulate if batch % tune.accumulate == 0 else 1
    return replace(tune, steps=steps, batch_blocks=batch, accumulate=accumulate)


def _unguarded(skip: SkipConfig) -> SkipConfig:
    """A dropped layer is dropped for every token, the first ones included."""
    return replace(skip, force_first_positions=0)


def _start(skip: SkipConfig) -> SkipConfig:
    """Return the settings of the calibration, with what it does not depend on at its default."""
    plain = SkipConfig()
    return replace(
        skip, router=plain.router, router_width=plain.router_width, kv=plain.kv, force_critical=plain.force_critical,
        class_margins={},
    )  # fmt: skip


class NestedDrop:
    """Execute masks of a training with dropped units: how many is drawn per step, which ones is a fixed order.

    Args:
        order: Units, the first to be dropped first: a larger number drops the same and more.
        counts: Numbers of dropped units to draw from.
        n_units: All units of the model.
        seed: Seed of the draws; a step draws the same whenever it is run, so a resumed training goes on as it was.
    """

    def __init__(self, order: Sequence[int], counts: Sequence[int], n_units: int, seed: int) -> None:
        self.order, self.counts, self.n_units, self.seed = list(order), list(counts), n_units, seed

    def __call__(self, ids_BT: Tensor, step: int) -> Tensor:
        """Return the mask of one step, (L, B, T)."""
        count = random.Random(f"{self.seed}/{step}").choice(self.counts)
        shape = (ids_BT.shape[0], ids_BT.shape[1])
        return static_masks(self.n_units, self.order[:count], shape).to(ids_BT.device)


class DrawnCapacity(Mapping[str, Any]):
    """Routing field `capacity`, drawn anew for every pass from torch's generator, which checkpoints keep."""

    def __init__(self, capacities: Sequence[float]) -> None:
        self.capacities = list(capacities)

    def __getitem__(self, name: str) -> float:
        """Draw."""
        if name != "capacity":
            raise KeyError(name)
        return self.capacities[int(torch.randint(len(self.capacities), ()))]

    def __iter__(self) -> Iterator[str]:
        return iter(("capacity",))

    def __len__(self) -> int:
        return 1


def fixed_routing(
    model: SkipLayerForCausalLM, recipe: Recipe, config: CompareConfig, drop: NestedDrop | None
) -> Fixed | None:
    """Return the routing of a training; None leaves it to the routers. Exits are switched on in the model itself."""
    if drop is not None:
        return Fixed(mask_LBT=drop)
    if recipe.routing == "cumulative":
        model.state.is_cumulative = True
    if recipe.routing == "per_unit":
        rates = [rate_in_each(model.work, model, rate) for rate in config.skip_rates]
        capacities = [1.0 - rate for rate in rates if rate < 1.0]
        if not capacities:
            raise ConfigError(
                f"compare.skip_rates: {config.skip_rates[0]:.0%} of all layer executions cannot be skipped by the "
                f"{len(model.routed)} routed units; lower the rates"
            )
        return Fixed(fields=DrawnCapacity(capacities))  # type: ignore[arg-type]
    return None


def rate_in_each(work: Any, model: SkipLayerForCausalLM, skip_rate: float) -> float:
    """Return the skip rate of every routed unit at which the model as a whole skips `skip_rate`; above 1: it cannot."""
    return skip_rate * float(work.n_layers) / sum(work.unit_share[unit] for unit in model.config.routed_units)


def drop_order(method: str, damage_nats: Mapping[int, float], model: SkipLayerForCausalLM) -> list[int]:
    """Return the layers in the order in which they are dropped: by damage, or from the last but one downwards."""
    if method == "truncated":
        return sorted(model.config.routed_units, reverse=True)
    return sorted(model.config.routed_units, key=lambda unit: (damage_nats[unit], unit))


def drop_counts(skip_rates: Sequence[float], n_layers: int, n_droppable: int) -> list[int]:
    """Return the numbers of layers next to each rate, below and above: a rival has whole layers only."""
    near = {n for rate in skip_rates for n in (math.floor(rate * n_layers + 1e-9), math.ceil(rate * n_layers - 1e-9))}
    return sorted(n for n in near if 1 <= n <= n_droppable)
