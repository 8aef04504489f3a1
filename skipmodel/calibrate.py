"""The closed-form start: skip paths, routers and always-run layers without a gradient step.

One dense pass over training text gives, per layer, the normalised input x and the update u = layer(h) - h.

    skip path   P = argmin |u - (W x + b)|^2 + ridge |W|^2, cut to rank R along the leading directions of W x
    damage      d = loss with every token skipping this layer - dense loss, path included      [nats/token]
    residual    r = |u - P x| / |h + u|
    router      log r ~ w . x + c by ridge regression;  expected damage of one skip = d * r^2 / mean r^2
    logit       log(expected damage) - log(cut), one cut for all layers and tokens

**Source**: ours; SkipLayer (arXiv 2311.15436) starts from noise and trains from scratch.

Legend: B sequences, T tokens, D width, R rank, M tokens that count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from skipmodel.config import CalibrateConfig
from skipmodel.data import Blocks
from skipmodel.errors import ConfigError
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.router import normalise
from skipmodel.skip_path import LinearSkipPath

SMALLEST_DAMAGE_NATS = 1e-3  # measured damage scatters around 0 for the cheapest layers


@dataclass
class LayerStatistics:
    """Sums over tokens that the regressions of one layer need, and a sample for its router."""

    n: int = 0
    sum_x: Tensor | float = 0.0
    sum_u: Tensor | float = 0.0
    gram: Tensor | float = 0.0
    cross: Tensor | float = 0.0
    sample_x: list[Tensor] = field(default_factory=list)
    sample_u: list[Tensor] = field(default_factory=list)
    sample_log_out: list[Tensor] = field(default_factory=list)

    def add(self, x_MD: Tensor, u_MD: Tensor, log_out_M: Tensor, keep: bool) -> None:
        """Add tokens; `keep` also stores them for the router regression."""
        self.n += len(x_MD)
        self.sum_x = self.sum_x + x_MD.sum(0)
        self.sum_u = self.sum_u + u_MD.sum(0)
        self.gram = self.gram + x_MD.T @ x_MD
        self.cross = self.cross + x_MD.T @ u_MD
        if keep:
            self.sample_x.append(x_MD.bfloat16())
            self.sample_u.append(u_MD.bfloat16())
            self.sample_log_out.append(log_out_M)


@dataclass(frozen=True)
class CalibrationReport:
    """What calibration found, per layer that could be routed."""

    layers: list[int]
    damage_nats: list[float]
    router_correlation: list[float]
    """Correlation of predicted and true log residual on the regression's tokens."""
    closed_layers: list[int]
    """Layers found indispensable; they always run."""
    n_tokens: int


def calibrate(
    model: SkipLayerForCausalLM,
    blocks: Blocks,
    config: CalibrateConfig,
    *,
    max_layer_damage_nats: float,
    target_skip_rate: float,
    batch_blocks: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CalibrationReport:
    """Set skip paths, routers and the routed range of a freshly wrapped model, in place.

    Args:
        model: Fresh from `SkipLayerForCausalLM.from_base`.
        blocks: Full training blocks; the first `damage_tokens` of them also measure damage.
        config: Budgets and ridge strength.
        max_layer_damage_nats: Layers above this are closed.
        target_skip_rate: Share of all layer executions to skip at threshold 0.5.
        batch_blocks: Blocks per forward pass.
        progress: Called with work done and total, in passes.

    Raises:
        ConfigError: Every layer is too damaging to skip.
    """
    first = model.config.force_first_positions
    candidates = list(model.config.routed_layers)
    n_damage = max(1, min(len(blocks), config.damage_tokens // blocks.ids_NT.shape[1]))
    n_batches = math.ceil(len(blocks) / batch_blocks)
    total = n_batches + 2 * len(candidates)
    statistics = _collect(model, blocks, first, batch_blocks, lambda done: progress(done, total))
    for done, (index, layer) in enumerate(model.routed):
        if isinstance(layer.skip_path, LinearSkipPath):
            _fit_path(layer.skip_path, statistics[index], config.ridge)
        progress(n_batches + done + 1, total)
    damage = _layer_damage(
        model, blocks.take(range(n_damage)), batch_blocks, lambda i: progress(n_batches + len(candidates) + i, total)
    )
    closed = [index for index in candidates if damage[index] > max_layer_damage_nats]
    if len(closed) == len(candidates):
        raise ConfigError(
            f"model.skip.max_layer_damage_nats={max_layer_damage_nats}: skipping any single layer costs more "
            f"(least {min(damage.values()):.3f} nats); raise it, or do not skip on this model"
        )
    model.close_layers(closed)
    log_damage, correlation = [], {}
    for index, layer in model.routed:
        predicted, correlation[index] = _fit_router(layer, statistics.pop(index), damage[index], config.ridge)
        log_damage.append(predicted)
    _set_cut(model, torch.stack(log_damage), target_skip_rate)
    return CalibrationReport(
        candidates, [damage[i] for i in candidates], [correlation.get(i, math.nan) for i in candidates], closed,
        int(blocks.n_real_N.sum()),
    )  # fmt: skip


@torch.no_grad()
def _collect(
    model: SkipLayerForCausalLM, blocks: Blocks, first: int, batch_blocks: int, progress: Callable[[int], None]
) -> dict[int, LayerStatistics]:
    statistics = {index: LayerStatistics() for index in model.config.routed_layers}
    keep = False

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        out = output if isinstance(output, Tensor) else output[0]
        x = normalise(hidden)[:, first:].flatten(0, 1).float()
        u = (out.float() - hidden.float())[:, first:].flatten(0, 1)
        log_out = out.float()[:, first:].flatten(0, 1).norm(dim=-1).clamp_min(1e-9).log()
        statistics[module.skip_index].add(x, u, log_out, keep)

    handles = [layer.register_forward_hook(hook, with_kwargs=True) for _, layer in model.routed]
    try:
        starts = range(0, len(blocks), batch_blocks)
        for done, start in enumerate(starts):
            keep = done % 2 == 0  # half of the tokens are enough for the routers and halve the memory
            with model.routing("dense"):
                model(blocks.ids_NT[start : start + batch_blocks].to(model.device), use_cache=False, logits_to_keep=1)
            progress(done + 1)
    finally:
        for handle in handles:
            handle.remove()
    return statistics


def _fit_path(path: LinearSkipPath, s: LayerStatistics, ridge: float) -> None:
    """Ridge regression of u on x with free intercept, then the best rank-R cut of the prediction."""
    mean_x, mean_u = torch.as_tensor(s.sum_x) / s.n, torch.as_tensor(s.sum_u) / s.n
    gram = (torch.as_tensor(s.gram) / s.n - mean_x[:, None] * mean_x[None]).double()
    cross = (torch.as_tensor(s.cross) / s.n - mean_x[:, None] * mean_u[None]).double()
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight_DD = torch.linalg.solve(gram + ridge * gram.diagonal().mean() * eye, cross)
    predicted_covariance = weight_DD.T @ gram @ weight_DD
    _, vectors = torch.linalg.eigh(predicted_covariance)
    leading_DR = vectors[:, -path.down.shape[0] :]
    with torch.no_grad():
        path.down.copy_((weight_DD @ leading_DR).T)
        path.up.copy_(leading_DR)
        path.bias.copy_(mean_u.double() - mean_x.double() @ weight_DD @ leading_DR @ leading_DR.T)


@torch.no_grad()
def _layer_damage(
    model: SkipLayerForCausalLM, blocks: Blocks, batch_blocks: int, progress: Callable[[int], None]
) -> dict[int, float]:
    """Loss rise per layer when all its tokens take the skip path; later layers only are computed again."""
    indices = model.config.routed_layers
    rise = dict.fromkeys(indices, 0.0)
    n_batches = 0
    for start in range(0, len(blocks), batch_blocks):
        ids = blocks.ids_NT[start : start + batch_blocks].to(model.device)
        hidden: dict[int, Tensor] = {}

        def keep_input(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Any = hidden) -> None:
            hidden[module.skip_index] = args[0] if args else kwargs["hidden_states"]

        handles = [layer.register_forward_pre_hook(keep_input, with_kwargs=True) for _, layer in model.routed]
        try:
            with model.routing("dense"):
                dense = _loss(model, ids)
        finally:
            for handle in handles:
                handle.remove()
        for index in indices:
            with model.routing("replay", replay_layer=index, replay_hidden_BTD=hidden[index]):
                rise[index] += _loss(model, ids) - dense
        n_batches += 1
        progress(int(len(indices) * min(1.0, (start + batch_blocks) / len(blocks))))
    return {index: value / n_batches for index, value in rise.items()}


def _loss(model: SkipLayerForCausalLM, ids_BT: Tensor) -> float:
    logits = model(ids_BT, use_cache=False).logits[:, :-1]
    return float(cross_entropy(logits.flatten(0, 1).float(), ids_BT[:, 1:].flatten()))


@torch.no_grad()
def _fit_router(layer: Any, s: LayerStatistics, damage: float, ridge: float) -> tuple[Tensor, float]:
    """Regress the log residual on x; set w and c such that the logit is the log of expected damage."""
    x_MD, u_MD = torch.cat(s.sample_x).float(), torch.cat(s.sample_u).float()
    path = layer.skip_path
    residual = (u_MD - path(x_MD.to(next(layer.parameters()).dtype)).float()).norm(dim=-1).clamp_min(1e-9)
    log_residual = residual.log() - torch.cat(s.sample_log_out)
    mean_x, mean_y = x_MD.mean(0), log_residual.mean()
    centred = (x_MD - mean_x).double()
    gram = centred.T @ centred / len(centred)
    right = centred.T @ (log_residual - mean_y).double() / len(centred)
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    w = torch.linalg.solve(gram + ridge * gram.diagonal().mean() * eye, right).float()
    predicted = x_MD @ w + mean_y - mean_x @ w
    correlation = float(torch.corrcoef(torch.stack([predicted, log_residual]))[0, 1])
    shift = math.log(max(damage, SMALLEST_DAMAGE_NATS)) - float((2 * log_residual).exp().mean().log())
    layer.router.weight.copy_(2 * w)
    layer.router.bias.copy_(2 * (mean_y - mean_x @ w) + shift)
    return 2 * predicted + shift, correlation


@torch.no_grad()
def _set_cut(model: SkipLayerForCausalLM, log_damage_LM: Tensor, target_skip_rate: float) -> None:
    """Shift all routers so that threshold 0.5 skips the target share of all layer executions."""
    share = target_skip_rate * len(model.layers) / len(log_damage_LM)
    cut = float(torch.quantile(log_damage_LM.flatten()[:: max(1, log_damage_LM.numel() // 1_000_000)], min(share, 1.0)))
    for _, layer in model.routed:
        layer.router.bias.sub_(cut)
