"""Reading thresholds off held-out text, and the masks of the control arms.

Legend: N blocks, T tokens in a block, L decoder layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skipmodel.data import Blocks
from skipmodel.engine.executor import Engine, Routing
from skipmodel.errors import DataError


def thresholds_for(
    engine: Engine, blocks: Blocks, target_skip_rates: Sequence[float], *, force_critical: bool
) -> list[float]:
    """Return one threshold logit per reachable target skip rate: a quantile of router logits on held-out text.

    Guards and always-run layers bound the skip rate; targets above that bound are left out. The first pass
    executes everything; a second one skips at the middle target, since skipping changes what later routers see,
    and its logits are the ones used.

    Raises:
        DataError: Guards leave too few tokens that may skip to reach even the lowest target.
    """
    real = blocks.real_NT
    free_NT = real & ~(blocks.critical_NT if force_critical else torch.zeros_like(real))
    free_NT[:, : engine.force_first_positions] = False
    logits_LNT = router_logits(engine, blocks, engine.routing(-math.inf), force_critical=force_critical)
    n_all = engine.n_layers * int(real.sum())
    n_free = logits_LNT.shape[0] * int(free_NT.sum())
    reachable = [rate for rate in target_skip_rates if round(rate * n_all) < n_free]
    if not reachable:
        raise DataError(
            f"model.sweep.target_skip_rates: {target_skip_rates[0]:.0%} cannot be reached; guards and always-run "
            f"layers leave {n_free / n_all:.1%} of all layer executions free to skip; lower the targets"
        )
    middle = _cut(logits_LNT[:, free_NT], round(reachable[len(reachable) // 2] * n_all))
    logits_LNT = router_logits(engine, blocks, engine.routing(middle), force_critical=force_critical)
    return [_cut(logits_LNT[:, free_NT], round(rate * n_all)) for rate in reachable]


def _cut(free_logits: Tensor, n_skip: int) -> float:
    """Return the logit below which exactly so many executions fall."""
    return float(free_logits.flatten().sort().values[n_skip])


def router_logits(engine: Engine, blocks: Blocks, routing: Routing, *, force_critical: bool) -> Tensor:
    """Return router logits of the routed layers under this routing, (routed layers, N, T)."""
    rows = []
    for start in range(0, len(blocks), 8):
        batch = blocks.take(range(start, min(start + 8, len(blocks))))
        forced = batch.critical_NT.to(engine.device) if force_critical else None
        rows.append(engine.hidden(batch.ids_NT.to(engine.device), routing, forced_BT=forced).router_logit_LBT.cpu())
    return torch.cat(rows, 1)


def random_masks(skip_rate_per_layer: Sequence[float], shape: tuple[int, int], seed: int) -> Tensor:
    """Return execute masks (L, N, T) that skip at random at these rates, the control for learned routing."""
    generator = torch.Generator().manual_seed(seed)
    rates = torch.tensor(list(skip_rate_per_layer))
    return torch.rand(len(rates), *shape, generator=generator) >= rates[:, None, None]


def static_masks(n_layers: int, dropped: Sequence[int], shape: tuple[int, int]) -> Tensor:
    """Return execute masks (L, N, T) under which every token skips the same layers: static layer drop."""
    mask = torch.ones(n_layers, *shape, dtype=torch.bool)
    mask[list(dropped)] = False
    return mask
