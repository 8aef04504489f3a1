"""One scalar that a user can turn: level 0 is dense, level 1 skips everything that guards leave free.

    threshold of unit l at level v = cut(v) + offset_l

`cut` is read off held-out text: at level v the share v of all free executions lies below it. `offset_l` moves skips
between units until each costs the same measured damage per saved work; it helps routers in closed form, whose scale
differs between units, and harms trained ones, which have settled that among themselves (README.md), so it is
measured on demand. Both are saved with the model. Since every unit's threshold rises with the level, levels are
nested: on the same inputs a higher level never executes what a lower level skips.

**Source**: ours; greedy allocation by least damage per saved millisecond, with the router's own order of tokens.

Legend: N blocks, T tokens in a block, L routed units, U all units, M free tokens, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from skipmodel.config import ModelConfig
from skipmodel.data import Blocks
from skipmodel.engine.executor import Routing
from skipmodel.engine.masked import AnyEngine, open_engine
from skipmodel.errors import DataError
from skipmodel.guards import free_tokens
from skipmodel.losses import distillation_loss
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.thresholds import router_logits
from skipmodel.work import in_order

N_LEVELS = 100
LARGEST_OFFSET = 3.0
"""An offset moves a unit's logits by at most this much; measured damage of a rarely skipped unit is mostly noise."""
_ROWS_PER_CHUNK = 256


@dataclass(frozen=True)
class Levels:
    """What `calibrate_levels` found.

    Attributes:
        offsets: Per unit, added to the threshold's logit; 0 where nothing is routed.
        level_logits: Threshold logits of level 1/n, ... (n-1)/n, before the offset; rising. Level 0 is -inf, 1 is inf.
        damage_nats: Per routed unit, KL to the dense model that its skips add on the calibration text, with all
            other units routed as well; None where it was not measured. [nats/token]
    """

    offsets: tuple[float, ...]
    level_logits: tuple[float, ...]
    damage_nats: tuple[float, ...] | None


def calibrate_levels(
    engine: AnyEngine,
    blocks: Blocks,
    *,
    force_critical: bool,
    reference_skip_rate: float | None = None,
    saved_s_per_unit: Sequence[float] | None = None,
    dense_engine: AnyEngine | None = None,
    n_levels: int = N_LEVELS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Levels:
    """Measure what each unit's skips cost, and read offsets and cuts off held-out text.

    Args:
        engine: Executes the model; its present offsets are replaced, not added to.
        blocks: Held-out text.
        force_critical: Critical tokens execute every unit.
        reference_skip_rate: Skip rate of all layer executions at which damage is measured; None measures none and
            leaves the offsets at 0.
        saved_s_per_unit: Measured time that a skip of each unit saves, all units in order; its share of a layer's
            weights when absent.
        dense_engine: The reference of the damage; the same engine with nothing skipped when absent.
        n_levels: Steps between level 0 and level 1.
        progress: Called with passes done and total.

    Raises:
        DataError: No token may skip.
    """
    routed = engine.routed_units
    real_NT = blocks.real_NT
    free_NT = free_tokens(blocks, engine.force_first_positions, force_critical=force_critical)
    if not bool(free_NT.any()):
        raise DataError(
            f"levels: guards leave none of the {int(real_NT.sum())} calibration tokens free to skip; calibrate on more "
            "text or loosen model.skip.force_first_positions and force_critical"
        )
    raw_LNT = router_logits(engine, blocks, engine.routing(-math.inf), force_critical=force_critical)
    raw_LNT = raw_LNT + torch.tensor([engine.threshold_offsets[unit] for unit in routed])[:, None, None]
    raw_LM = raw_LNT[:, free_NT]
    offset_L, damage = torch.zeros(len(routed)), None
    if reference_skip_rate is not None:
        share_L = torch.tensor([engine.work.unit_share[unit] for unit in routed])
        saved_L = torch.tensor([(saved_s_per_unit or engine.work.unit_share)[unit] for unit in routed])
        wanted = reference_skip_rate * engine.n_layers * int(real_NT.sum()) / int(free_NT.sum())
        skips_LM = raw_LM < _cut(raw_LM, share_L, wanted)
        damage_L = _added_damage(engine, dense_engine or engine, blocks, free_NT, skips_LM, progress)
        offset_L = _offsets(raw_LM, skips_LM, damage_L, saved_L, int(free_NT.sum()))
        damage = tuple(damage_L.tolist())
    offsets = dict(zip(routed, offset_L.tolist(), strict=True))
    shifted = (raw_LM - offset_L[:, None]).flatten().sort().values
    inner = [float(shifted[round(i / n_levels * (len(shifted) - 1))]) for i in range(1, n_levels)]
    all_offsets = tuple(offsets.get(unit, 0.0) for unit in range(engine.n_units))
    return Levels(all_offsets, tuple(inner), damage)


def set_levels(model: SkipLayerForCausalLM, blocks: Blocks, config: ModelConfig) -> Levels:
    """Read the levels of a finished model off held-out text and write them into it.

    Where routers were not trained, skips are moved between units by measured damage as well; trained routers know.
    """
    levels = calibrate_levels(
        open_engine(model), blocks, force_critical=config.skip.force_critical,
        reference_skip_rate=None if config.skip_tune.steps else config.calibrate.level_skip_rate,
    )  # fmt: skip
    apply_levels(model, levels)
    return levels


def apply_levels(model: SkipLayerForCausalLM, levels: Levels) -> None:
    """Store offsets and levels in a model, to be saved with it; the present threshold stays."""
    model.config.threshold_offsets = list(levels.offsets)
    model.config.level_logits = list(levels.level_logits)
    model.set_threshold(model.config.threshold)


def _cut(logits_LM: Tensor, share_L: Tensor, wanted_per_token: float) -> float:
    """Return the logit below which this many layer executions per free token lie."""
    ordered, done = in_order(logits_LM, share_L)
    at = int(torch.searchsorted(done / logits_LM.shape[1], wanted_per_token).clamp_max(len(ordered) - 1))
    return float(ordered[at])


def _added_damage(
    engine: AnyEngine, dense_engine: AnyEngine, blocks: Blocks, free_NT: Tensor, skips_LM: Tensor,
    progress: Callable[[int, int], None],
) -> Tensor:  # fmt: skip
    """Return, per routed unit, the KL with all units skipping less the KL with this one executed. In nats per token."""
    mask_UNT = torch.ones(engine.n_units, *free_NT.shape, dtype=torch.bool)
    for number, unit in enumerate(engine.routed_units):
        mask_UNT[unit][free_NT] = ~skips_LM[number]
    total = len(engine.routed_units) + 1
    dense_RD = torch.cat(list(_passes(dense_engine, blocks, None)))
    everything = _kl(engine, dense_engine, blocks, mask_UNT, dense_RD)
    progress(1, total)
    damage = []
    for number, unit in enumerate(engine.routed_units):
        kept = mask_UNT[unit].clone()
        if bool(kept.all()):
            damage.append(0.0)
            continue
        mask_UNT[unit] = True
        damage.append(everything - _kl(engine, dense_engine, blocks, mask_UNT, dense_RD))
        mask_UNT[unit] = kept
        progress(number + 2, total)
    progress(total, total)
    return torch.tensor(damage)


def _passes(engine: AnyEngine, blocks: Blocks, mask_UNT: Tensor | None, batch_blocks: int = 8) -> Iterator[Tensor]:
    """Yield the final hidden states of real tokens, batch by batch, under given masks or densely, (rows, D)."""
    for start in range(0, len(blocks), batch_blocks):
        rows = slice(start, start + batch_blocks)
        ids_BT, real_BT = blocks.ids_NT[rows].to(engine.device), blocks.real_NT[rows].to(engine.device)
        routing = None if mask_UNT is None else Routing(override_mask_LBT=mask_UNT[:, rows].to(engine.device))
        yield engine.hidden(ids_BT, routing).hidden_BTD[real_BT]


def _kl(engine: AnyEngine, dense_engine: AnyEngine, blocks: Blocks, mask_UNT: Tensor, dense_RD: Tensor) -> float:
    """Return the mean KL from the dense model under given masks, over real tokens, in nats per token."""
    total, done = 0.0, 0
    for skip_RD in _passes(engine, blocks, mask_UNT):
        for at in range(0, len(skip_RD), _ROWS_PER_CHUNK):
            part = skip_RD[at : at + _ROWS_PER_CHUNK]
            reference = dense_RD[done : done + len(part)]
            total += float(distillation_loss(engine.logits(part), dense_engine.logits(reference))) * len(part)
            done += len(part)
    return total / done


def _offsets(raw_LM: Tensor, skips_LM: Tensor, damage_L: Tensor, saved_L: Tensor, n_free: int) -> Tensor:
    """Return per unit by how much its logits overstate the log damage per saved work, less the mean of that.

    A unit whose skips cost less than its logits say gets a positive offset: its threshold rises and it skips more.
    Units with few skips keep an offset near 0, their measured damage being noise: shrinkage by n / (n + n0).
    """
    said_L = (raw_LM.clamp(-30, 30).exp() * skips_LM).sum(1).clamp_min(1e-9) / n_free
    found_L = (damage_L / saved_L * saved_L.mean()).clamp_min(1e-5)
    log_ratio_L = said_L.log() - found_L.log()
    n_skips_L = skips_LM.sum(1).float()
    weight_L = n_skips_L / (n_skips_L + 0.02 * skips_LM.shape[1])
    active_L = n_skips_L > 0
    if not bool(active_L.any()):
        return torch.zeros_like(damage_L)
    mean = (log_ratio_L * weight_L)[active_L].sum() / weight_L[active_L].sum()
    offset_L = torch.where(active_L, (log_ratio_L - mean) * weight_L, torch.zeros_like(log_ratio_L))
    return offset_L.clamp(-LARGEST_OFFSET, LARGEST_OFFSET)
