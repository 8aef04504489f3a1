"""Reading thresholds off held-out text, and the masks of the control arms.

Legend: N blocks, T tokens in a block, L routed units (layers by default), M tokens that may skip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from skipmodel.data import Blocks
from skipmodel.engine.executor import Routing
from skipmodel.engine.masked import AnyEngine
from skipmodel.errors import DataError
from skipmodel.guards import class_margins, free_tokens
from skipmodel.work import in_order


def thresholds_for(
    engine: AnyEngine,
    blocks: Blocks,
    target_skip_rates: Sequence[float],
    *,
    force_critical: bool,
    margins: Mapping[str, float] | None = None,
) -> list[float]:
    """Return one threshold logit per reachable target skip rate: a quantile of router logits on held-out text.

    Guards and always-run layers bound the skip rate; targets above that bound are left out. The first pass
    executes everything; a second one skips at the middle target, since skipping changes what later routers see,
    and its logits are the ones used.

    Raises:
        DataError: Guards leave too few tokens that may skip to reach even the lowest target.
    """
    real = blocks.real_NT
    free_NT = free_tokens(blocks, engine.force_first_positions, force_critical=force_critical)
    logits_LNT = router_logits(
        engine, blocks, engine.routing(-math.inf), force_critical=force_critical, margins=margins
    )
    share_L = torch.tensor([engine.work.unit_share[index] for index in engine.routed_units])
    n_all = engine.n_layers * int(real.sum())
    n_free = float(share_L.sum()) * int(free_NT.sum())
    reachable = [rate for rate in target_skip_rates if round(rate * n_all) < n_free]
    if not reachable:
        raise DataError(
            f"model.sweep.target_skip_rates: {target_skip_rates[0]:.0%} cannot be reached; guards and always-run "
            f"layers leave {n_free / n_all:.1%} of all layer executions free to skip; lower the targets"
        )
    middle = _cuts(logits_LNT[:, free_NT], share_L, [reachable[len(reachable) // 2] * n_all])[0]
    logits_LNT = router_logits(engine, blocks, engine.routing(middle), force_critical=force_critical, margins=margins)
    return _cuts(logits_LNT[:, free_NT], share_L, [rate * n_all for rate in reachable])


def _cuts(free_logits_LM: Tensor, share_L: Tensor, wanted: Sequence[float]) -> list[float]:
    """Return the logits below which so many layer executions fall; a unit counts as its share of a layer."""
    ordered, done = in_order(free_logits_LM.double(), share_L)
    at = torch.searchsorted(done, torch.tensor([round(n) for n in wanted]).double(), right=True)
    # midway between two logits: loading a model anew can move a logit by the order of a sum
    return ((ordered[(at - 1).clamp(0, len(ordered) - 1)] + ordered[at.clamp_max(len(ordered) - 1)]) / 2).tolist()


def router_logits(
    engine: AnyEngine, blocks: Blocks, routing: Routing, *, force_critical: bool,
    margins: Mapping[str, float] | None = None,
) -> Tensor:  # fmt: skip
    """Return what is compared with the threshold under this routing, (L, N, T).

    That is the router logits of the routed units, less the units' threshold offsets, plus the margins of classes.
    """
    rows = []
    for start in range(0, len(blocks), 8):
        batch = blocks.take(range(start, min(start + 8, len(blocks))))
        forced = batch.critical_NT.to(engine.device) if force_critical else None
        margin_BT = class_margins(batch, margins or {})
        ids_BT, margin_BT = batch.ids_NT.to(engine.device), None if margin_BT is None else margin_BT.to(engine.device)
        logit_LBT = engine.hidden(ids_BT, routing, forced_BT=forced, margin_BT=margin_BT).router_logit_LBT.cpu()
        rows.append(logit_LBT if margin_BT is None else logit_LBT + margin_BT.cpu())
    offsets = torch.tensor([engine.threshold_offsets[index] for index in engine.routed_units])
    return torch.cat(rows, 1) - offsets[:, None, None]


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
