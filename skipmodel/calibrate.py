"""The closed-form start: skip paths, routers and always-run layers without a gradient step.

One dense pass over training text gives, per unit, the normalised input x and the update u that a skip leaves out.

    skip path   P = argmin |u - (W x + b)|^2 + ridge |W|^2, cut to rank R along the leading directions of W x
    damage      d = KL(dense || every token skips this unit, path included)                    [nats/token]
    residual    r = |u - P x| / |h + u|
    router      log r ~ w . x + c by ridge regression;  expected damage of one skip = d * r^2 / mean r^2
    logit       log(expected damage / share of a layer that the unit is) - log(cut), one cut for all units and tokens

**Source**: ours; SkipLayer (arXiv 2311.15436) starts from noise and trains from scratch.

Legend: B sequences, T tokens, D width, R rank, M tokens that count, L routed units, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from skipmodel.config import CalibrateConfig
from skipmodel.data import Blocks, check_vocabulary
from skipmodel.errors import ConfigError
from skipmodel.losses import distillation_loss
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.router import PaperRouter, normalise
from skipmodel.skip_path import IdentitySkipPath, set_linear
from skipmodel.work import in_order

SMALLEST_DAMAGE_NATS = 1e-4
KEPT_BATCHES = 8
LEAST_WEIGHT = 0.02
"""Of tokens that will hardly ever skip, when a path is fitted for those that do."""


@dataclass
class UnitStatistics:
    """Sums over tokens that the regressions of one unit need, and a sample for its router."""

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

    def weighted(self, weight_M: Tensor) -> UnitStatistics:
        """Return the sums over the kept tokens, each counted `weight_M` times."""
        x_MD, u_MD = torch.cat(self.sample_x).float(), torch.cat(self.sample_u).float()
        weight_M = weight_M / weight_M.mean()
        heavy_MD = x_MD * weight_M[:, None]
        return UnitStatistics(
            len(x_MD), heavy_MD.sum(0), (u_MD * weight_M[:, None]).sum(0), heavy_MD.T @ x_MD, heavy_MD.T @ u_MD
        )


@dataclass(frozen=True)
class CalibrationReport:
    """What calibration found, per unit that could be routed."""

    units: list[int]
    damage_nats: list[float]
    """KL to the dense model when every token skips the unit. [nats/token]"""
    router_correlation: list[float]
    """Correlation of predicted and true log residual on the regression's tokens; NaN where nothing was fitted."""
    closed_units: list[int]
    """Units found indispensable; they always run."""
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
        max_layer_damage_nats: Units above this are closed.
        target_skip_rate: Share of all layer executions to skip at threshold 0.5.
        batch_blocks: Blocks per forward pass.
        progress: Called with work done and total, in passes.

    Raises:
        ConfigError: Every unit is too damaging to skip.
    """
    check_vocabulary(blocks, cast(Any, model.get_input_embeddings()).weight.shape[0])
    first = model.config.force_first_positions
    candidates = list(model.config.routed_units)
    n_damage = max(1, min(len(blocks), config.damage_tokens // blocks.ids_NT.shape[1]))
    n_batches = math.ceil(len(blocks) / batch_blocks)
    total = n_batches + 2 * len(candidates)
    statistics = _collect(model, blocks, first, batch_blocks, lambda done: progress(done, total))
    for done, (index, unit) in enumerate(model.routed):
        _fit_path(unit.skip_path, model.config.path_rank, statistics[index], config.ridge)
        progress(n_batches + done + 1, total)
    damage = unit_damage(
        model, blocks.take(range(n_damage)), batch_blocks, lambda i: progress(n_batches + len(candidates) + i, total)
    )
    closed = [index for index in candidates if damage[index] > max_layer_damage_nats]
    if len(closed) == len(candidates):
        raise ConfigError(
            f"model.skip.max_layer_damage_nats={max_layer_damage_nats}: skipping any single {model.config.unit} costs "
            f"more (least {min(damage.values()):.3f} nats); raise it, or do not skip on this model"
        )
    model.close_units(closed)
    correlation = {}
    if not isinstance(model.routed[0][1].router, PaperRouter):
        correlation = _route(model, statistics, damage, config, target_skip_rate)
    return CalibrationReport(
        candidates, [damage[i] for i in candidates], [correlation.get(i, math.nan) for i in candidates], closed,
        int(blocks.n_real_N.sum()),
    )  # fmt: skip


def _route(
    model: SkipLayerForCausalLM, statistics: dict[int, UnitStatistics], damage: dict[int, float],
    config: CalibrateConfig, target_skip_rate: float,
) -> dict[int, float]:  # fmt: skip
    """Fit all routers and the one cut, then fit the paths again for the tokens that are to take them, and repeat.

    Returns:
        Correlation of predicted and true log residual, per unit.
    """
    share = model.work.unit_share
    shares = torch.tensor([share[index] for index in model.config.routed_units])
    log_damage: dict[int, Tensor] = {}
    correlation: dict[int, float] = {}
    cut = 0.0
    for turn in range(config.refits + 1):
        for index, unit in model.routed:
            s = statistics[index]
            if turn > 0 and not isinstance(unit.skip_path, IdentitySkipPath):
                weight_M = torch.sigmoid(cut - log_damage[index]).clamp_min(LEAST_WEIGHT)
                _fit_path(unit.skip_path, model.config.path_rank, s.weighted(weight_M), config.ridge)
            log_damage[index], correlation[index] = _fit_router(unit, s, damage[index] / share[index], config.ridge)
        cut = _set_cut(model, torch.stack(list(log_damage.values())), shares, target_skip_rate)
    return correlation


@torch.no_grad()
def _collect(
    model: SkipLayerForCausalLM, blocks: Blocks, first: int, batch_blocks: int, progress: Callable[[int], None]
) -> dict[int, UnitStatistics]:
    statistics = {index: UnitStatistics() for index in model.config.routed_units}
    keep = False
    stream: dict[str, Tensor] = {}

    def remember_stream(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream["hidden_BTD"] = args[0] if args else kwargs["hidden_states"]

    def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = args[0] if args else kwargs["hidden_states"]
        out = (output if isinstance(output, Tensor) else output[0]).float()
        update = out - given.float() if module.skip_adds_residual else out
        after = out if module.skip_adds_residual else stream["hidden_BTD"].float() + out
        log_out = after[:, first:].flatten(0, 1).norm(dim=-1).clamp_min(1e-9).log()
        x = normalise(given)[:, first:].flatten(0, 1).float()
        statistics[module.skip_index].add(x, update[:, first:].flatten(0, 1), log_out, keep)

    handles = [layer.register_forward_pre_hook(remember_stream, with_kwargs=True) for layer in model.layers]
    handles += [unit.register_forward_hook(hook, with_kwargs=True) for _, unit in model.routed]
    try:
        starts = range(0, len(blocks), batch_blocks)
        for done, start in enumerate(starts):
            keep = done < KEPT_BATCHES or done % 2 == 0  # of much text, half is enough and takes half the memory
            with model.routing("dense"):
                model(blocks.ids_NT[start : start + batch_blocks].to(model.device), use_cache=False, logits_to_keep=1)
            progress(done + 1)
    finally:
        for handle in handles:
            handle.remove()
    return statistics


def _fit_path(path: Any, rank: int, s: UnitStatistics, ridge: float) -> None:
    """Ridge regression of u on x with free intercept, then the best rank-R cut of the prediction."""
    if isinstance(path, IdentitySkipPath):
        return
    mean_x, mean_u = torch.as_tensor(s.sum_x) / s.n, torch.as_tensor(s.sum_u) / s.n
    gram = (torch.as_tensor(s.gram) / s.n - mean_x[:, None] * mean_x[None]).double()
    cross = (torch.as_tensor(s.cross) / s.n - mean_x[:, None] * mean_u[None]).double()
    eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    weight_DD = torch.linalg.solve(gram + ridge * gram.diagonal().mean() * eye, cross)
    predicted_covariance = weight_DD.T @ gram @ weight_DD
    _, vectors = torch.linalg.eigh(predicted_covariance)
    leading_DR = vectors[:, -min(rank, len(gram)) :]
    down_DR = weight_DD @ leading_DR
    set_linear(path, down_DR.T, leading_DR, mean_u.double() - mean_x.double() @ down_DR @ leading_DR.T)


@torch.no_grad()
def unit_damage(
    model: SkipLayerForCausalLM, blocks: Blocks, batch_blocks: int, progress: Callable[[int], None] = lambda done: None
) -> dict[int, float]:
    """Return, per routed unit, the mean KL to the dense model when all tokens skip that unit alone, in nats per token.

    For whole layers only the later ones are computed again.
    """
    indices = model.config.routed_units
    whole = model.config.unit == "layer"
    damage = dict.fromkeys(indices, 0.0)
    for start in range(0, len(blocks), batch_blocks):
        ids = blocks.ids_NT[start : start + batch_blocks].to(model.device)
        hidden: dict[int, Tensor] = {}

        def keep_input(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], hidden: Any = hidden) -> None:
            hidden[module.skip_index] = args[0] if args else kwargs["hidden_states"]

        handles = [unit.register_forward_pre_hook(keep_input, with_kwargs=True) for _, unit in model.routed if whole]
        try:
            with model.routing("dense"):
                dense = model(ids, use_cache=False).logits.flatten(0, 1)
        finally:
            for handle in handles:
                handle.remove()
        for done, index in enumerate(indices):
            state: dict[str, Any] = {"mode": "replay", "replay_layer": index, "replay_hidden_BTD": hidden.get(index)}
            if not whole:
                mask = torch.ones(len(model.units), *ids.shape, dtype=torch.bool, device=ids.device)
                mask[index] = False
                state = {"mode": "hard", "override_mask_LBT": mask}
            with model.routing(**state):
                skipped = model(ids, use_cache=False).logits.flatten(0, 1)
            damage[index] += float(distillation_loss(skipped, dense)) * len(ids) / len(blocks)
            progress(int((start + len(ids) * (done + 1) / len(indices)) * len(indices) / len(blocks)))
    return damage


@torch.no_grad()
def _fit_router(unit: Any, s: UnitStatistics, damage: float, ridge: float) -> tuple[Tensor, float]:
    """Regress the log residual on x; set w and c such that the logit is the log of expected damage."""
    x_MD, u_MD = torch.cat(s.sample_x).float(), torch.cat(s.sample_u).float()
    path = unit.skip_path
    residual = (u_MD - path(x_MD.to(next(unit.parameters()).dtype)).float()).norm(dim=-1).clamp_min(1e-9)
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
    unit.router.set_linear(2 * w, 2 * (mean_y - mean_x @ w) + shift)
    return 2 * predicted + shift, correlation


@torch.no_grad()
def _set_cut(model: SkipLayerForCausalLM, log_damage_LM: Tensor, share_L: Tensor, target_skip_rate: float) -> float:
    """Shift all routers so that threshold 0.5 skips the target share of all layer executions; return the shift."""
    ordered, done = in_order(log_damage_LM, share_L)
    wanted = target_skip_rate * len(model.layers)
    cut = float(ordered[int(torch.searchsorted(done / log_damage_LM.shape[1], wanted).clamp_max(len(ordered) - 1))])
    for _, unit in model.routed:
        unit.router.bias.sub_(cut)
    return cut
