"""How the controls start, and how they are routed when they are judged: causally, by thresholds off held-out text.

Legend: B sequences, T tokens, N blocks, L routed units, M free tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from skipmodel.calibrate import SMALLEST_DAMAGE_NATS
from skipmodel.controls import Recipe, rate_in_each
from skipmodel.data import Blocks
from skipmodel.engine.executor import Routing
from skipmodel.engine.masked import AnyEngine, MaskedEngine, open_engine
from skipmodel.errors import DataError
from skipmodel.guards import free_tokens
from skipmodel.losses import distillation_loss
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.router import BottleneckRouter, PaperRouter
from skipmodel.thresholds import random_masks, router_logits, thresholds_for
from skipmodel.work import in_order


def build(dense: Any, recipe: Recipe, routed_units: Sequence[int], start: Path | None, seed: int) -> Any:
    """Wrap a dense model for a recipe and give it the calibrated start.

    Skip paths come from the start, and routers too where they are `calibrated` or `bottleneck`, which can carry the
    same map. Linear routers that choose the top tokens of each unit take its direction, which is kinder to them than
    noise; else they start as they are made.

    Args:
        dense: The dense tuned model; its weights are shared.
        recipe: What to build.
        routed_units: Units that the calibration left open; read where the recipe closes the others.
        start: Routing file of the calibration; None for none.
        seed: Seed of routers that start from noise.
    """
    torch.manual_seed(seed)
    model = SkipLayerForCausalLM.from_base(dense, recipe.skip)
    if start is None:
        return model
    if recipe.closes:
        model.close_units([unit for unit in model.config.routed_units if unit not in routed_units])
    read, own = load_file(start, device=str(model.device)), model.state_dict()
    wanted = (".skip_path.", ".router.") if recipe.skip.router == "calibrated" else (".skip_path.",)
    taken = {name: read[name] for name in own if name in read and any(part in name for part in wanted)}
    model.load_state_dict(taken, strict=False)
    names = {id(module): name for name, module in model.named_modules()}
    for _, unit in model.routed:
        name = names[id(unit.router)]
        if isinstance(unit.router, BottleneckRouter):
            unit.router.set_linear(read[f"{name}.weight"], read[f"{name}.bias"])
        elif isinstance(unit.router, PaperRouter) and recipe.routing == "per_unit":
            with torch.no_grad():
                unit.router.weight.zero_()
                unit.router.weight[1].copy_(read[f"{name}.weight"])
    return model


@torch.no_grad()
def exit_damage(model: SkipLayerForCausalLM, blocks: Blocks, batch_blocks: int = 4) -> dict[int, float]:
    """Return, per routed unit, the mean KL to the dense model when all tokens leave there, in nats per token."""
    damage = dict.fromkeys(model.config.routed_units, 0.0)
    for start in range(0, len(blocks), batch_blocks):
        ids_BT = blocks.ids_NT[start : start + batch_blocks].to(model.device)
        with model.routing("dense"):
            dense = model(ids_BT, use_cache=False).logits.flatten(0, 1)
        for unit in damage:
            mask_LBT = torch.ones(len(model.units), *ids_BT.shape, dtype=torch.bool, device=ids_BT.device)
            mask_LBT[unit:] = False
            with model.routing("hard", override_mask_LBT=mask_LBT):
                left = model(ids_BT, use_cache=False).logits.flatten(0, 1)
            damage[unit] += float(distillation_loss(left, dense)) * len(ids_BT) / len(blocks)
    return damage


@torch.no_grad()
def start_exits(
    model: SkipLayerForCausalLM, blocks: Blocks, unit_damage_nats: Mapping[int, float], target_skip_rate: float
) -> dict[int, float]:
    """Turn calibrated routers, which predict the damage of one skip, into ones that predict that of leaving; in place.

    **Formula**: logit_l += log(exit_l / damage_l) - log(units from l on); then all are shifted by one cut, under
    which leaving at the first logit below 0 skips the target share of all layer executions.
    **Source**: ours; the relative update of a layer as sign of saturation is that of CALM (arXiv 2207.07061).

    Returns:
        Exit damage per routed unit. [nats/token]
    """
    exits = exit_damage(model, blocks)
    share = model.work.unit_share
    for number, (unit, module) in enumerate(model.routed):
        alone = max(unit_damage_nats[unit] / share[unit], SMALLEST_DAMAGE_NATS)
        n_later = len(model.routed) - number
        module.router.bias.add_(math.log(max(exits[unit], SMALLEST_DAMAGE_NATS) / alone / n_later))
    cut = cumulative_cut(MaskedEngine(model), blocks, target_skip_rate, n_refinements=0)
    for _, module in model.routed:
        module.router.bias.sub_(0.0 if cut is None else cut)
    return exits


def open_routed(model: SkipLayerForCausalLM, recipe: Recipe) -> AnyEngine:
    """Return an engine that routes as the recipe says; exits and cuts per unit need the masked one."""
    model.state.is_cumulative = recipe.routing == "cumulative"
    return MaskedEngine(model) if recipe.routing in ("cumulative", "per_unit") else open_engine(model)


def routing_at(
    engine: AnyEngine, model: SkipLayerForCausalLM, recipe: Recipe, blocks: Blocks, rate: float,
    margins: Mapping[str, float],
) -> Routing | None:  # fmt: skip
    """Return the causal routing that skips about `rate` of all layer executions; None when it cannot be reached.

    Args:
        engine: From `open_routed`.
        model: The model that it executes.
        recipe: How it is routed, anything but `dropped`.
        blocks: Held-out text on which thresholds are read off.
        rate: Target.
        margins: Softer guards of the settings, per class of token.
    """
    if recipe.routing == "cumulative":
        cut = cumulative_cut(engine, blocks, rate)
        return None if cut is None else engine.routing(cut)
    if recipe.routing == "per_unit":
        offsets = unit_cuts(engine, model, blocks, rate_in_each(engine.work, model, rate))
        if offsets is None:
            return None
        model.config.threshold_offsets = offsets
        return engine.routing(0.0)
    try:
        (cut,) = thresholds_for(engine, blocks, [rate], force_critical=recipe.force_critical, margins=margins)
    except DataError:
        return None
    return engine.routing(cut)


def cumulative_cut(engine: AnyEngine, blocks: Blocks, rate: float, n_refinements: int = 1) -> float | None:
    """Return the threshold logit under which leaving for good skips `rate` of all layer executions; None: it cannot.

    A token skips a unit iff one of the logits up to there lies below the cut, so the cut is a quantile of the running
    minimum. The first pass executes everything; others leave at the cut found before them.
    """
    free_NT = free_tokens(blocks, engine.force_first_positions, force_critical=False)
    share_L = torch.tensor([engine.work.unit_share[unit] for unit in engine.routed_units])
    wanted = rate * engine.n_layers * int(blocks.real_NT.sum())
    if wanted >= float(share_L.sum()) * int(free_NT.sum()):
        return None
    cut = -math.inf
    for _ in range(1 + n_refinements):
        logits_LNT = router_logits(engine, blocks, engine.routing(cut), force_critical=False)
        least_LM = logits_LNT.cummin(0).values[:, free_NT]
        ordered, done = in_order(least_LM, share_L)
        cut = float(ordered[min(int(torch.searchsorted(done, wanted, right=True)), len(ordered) - 1)])
    return cut


def unit_cuts(
    engine: AnyEngine, model: SkipLayerForCausalLM, blocks: Blocks, rate: float, n_refinements: int = 2
) -> list[float] | None:
    """Return threshold offsets, all units in order, under which every routed unit skips `rate` of the tokens.

    They take the place of the choice among all tokens of a sequence, which generation cannot make. None: guards
    leave too few tokens. The model's own offsets are left at the last ones tried.
    """
    free_NT = free_tokens(blocks, engine.force_first_positions, force_critical=False)
    n_skipped = round(rate * int(blocks.real_NT.sum()))
    if n_skipped >= int(free_NT.sum()):
        return None
    cut = -math.inf
    offsets = [0.0] * engine.n_units
    for _ in range(1 + n_refinements):
        model.config.threshold_offsets = offsets
        logits_LNT = router_logits(engine, blocks, engine.routing(cut), force_critical=False)
        offsets, before, cut = [0.0] * engine.n_units, offsets, 0.0
        for unit, logits_NT in zip(engine.routed_units, logits_LNT, strict=True):
            offsets[unit] = float(logits_NT[free_NT].sort().values[n_skipped]) + before[unit]
    return offsets


def random_routing(rate_per_unit: Sequence[float], blocks: Blocks, force_first_positions: int, seed: int) -> Routing:
    """Return random decisions at these rates per unit; first positions execute, the others make up for them."""
    real_NT = blocks.real_NT
    n_free = int(real_NT[:, force_first_positions:].sum())
    rates = [min(1.0, rate * int(real_NT.sum()) / max(n_free, 1)) for rate in rate_per_unit]
    shape = (len(blocks), blocks.ids_NT.shape[1])
    return Routing(force_first_positions=force_first_positions, override_mask_LBT=random_masks(rates, shape, seed))
