"""Two training loops: LoRA tuning of the dense base, then fine-tuning of routers and skip paths.

The SkipLayer fine-tune keeps the tuned base frozen. So teacher and student share their weights, threshold 0
stays exactly the dense model, and falling back to dense costs nothing.

Legend: B sequences, T tokens, P positions that count.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from skipmodel.config import DenseTuneConfig, SkipTuneConfig
from skipmodel.data import Blocks
from skipmodel.errors import DataError, TrainingError
from skipmodel.losses import critical_loss, density_loss, distillation_loss, floor_loss, skip_rate
from skipmodel.model import SkipLayerForCausalLM

Progress = Callable[[int, int], None]
_LORA_TARGETS = "all-linear"


@dataclass
class TrainingLog:
    """One row of numbers per step, and what the whole took."""

    rows: list[dict[str, float]] = field(default_factory=list)
    n_tokens: int = 0

    def mean_of(self, key: str, part: slice) -> float:
        """Mean of a column over some steps."""
        values = [row[key] for row in self.rows[part]]
        return sum(values) / len(values)


def _batches(blocks: Blocks, steps: int, batch_blocks: int) -> list[Blocks]:
    if len(blocks) == 0:
        raise DataError("training: no block to train on")
    order = [i % len(blocks) for i in range(steps * batch_blocks)]
    return [blocks.take(order[i * batch_blocks : (i + 1) * batch_blocks]) for i in range(steps)]


def _schedule(step: int, steps: int) -> float:
    """Warm-up over the first tenth, then cosine down to a tenth of the peak."""
    warm_up = max(1, steps // 10)
    if step < warm_up:
        return (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return 0.1 + 0.45 * (1 + math.cos(math.pi * progress))


def _optimiser(groups: list[tuple[list[nn.Parameter], float]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [{"params": parameters, "lr": rate, "peak": rate} for parameters, rate in groups],
        betas=(0.9, 0.98), weight_decay=0.0,
    )  # fmt: skip


def _step(optimiser: torch.optim.Optimizer, loss: Tensor, scale: float, where: str) -> None:
    if not math.isfinite(loss.item()):
        raise TrainingError(f"{where}: the loss became {loss.item()}; lower the learning rate and run again")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    for group in optimiser.param_groups:
        nn.utils.clip_grad_norm_(group["params"], 1.0)
        group["lr"] = group["peak"] * scale
    optimiser.step()


def dense_tune(
    base: nn.Module, blocks: Blocks, config: DenseTuneConfig, seed: int, progress: Progress = lambda done, total: None
) -> tuple[nn.Module, TrainingLog]:
    """Tune the dense base with LoRA on full blocks and merge the result into its weights.

    Args:
        base: Hugging Face causal LM; changed in place.
        blocks: Full training blocks, used in order.
        config: Steps, rank, learning rate.
        seed: Seed of the LoRA matrices.
        progress: Called with steps done and total.

    Returns:
        The merged model in evaluation mode, and the loss per step.

    Raises:
        TrainingError: The loss is not a number.
    """
    from peft import LoraConfig, get_peft_model

    log = TrainingLog()
    if config.steps == 0:
        return base, log
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_rank, target_modules=_LORA_TARGETS, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():  # peft still asks transformers for an attribute under its old name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        tuned: Any = get_peft_model(base, lora)
    tuned.train()
    optimiser = _optimiser([([p for p in tuned.parameters() if p.requires_grad], config.learning_rate)])
    for step, batch in enumerate(_batches(blocks, config.steps, config.batch_blocks)):
        ids_BT = batch.ids_NT.to(tuned.device)
        logits = tuned(input_ids=ids_BT, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1).float(), ids_BT[:, 1:].flatten())
        _step(optimiser, loss, _schedule(step, config.steps), f"dense tune, step {step}")
        log.rows.append({"step": step, "loss": loss.item()})
        log.n_tokens += batch.ids_NT.numel()
        progress(step + 1, config.steps)
    merged: nn.Module = tuned.merge_and_unload()
    for parameter in merged.parameters():
        parameter.requires_grad_(False)
    return merged.eval(), log


def skip_tune(
    model: SkipLayerForCausalLM,
    blocks: Blocks,
    config: SkipTuneConfig,
    seed: int,
    *,
    force_critical: bool,
    progress: Progress = lambda done, total: None,
) -> TrainingLog:
    """Fine-tune routers and skip paths of a calibrated model, in place; everything else stays frozen.

    Gates are hard in the forward pass and soft in the backward pass; noise is on for the first
    `noise_share` of the steps and off for the rest, so that training ends on what inference does.

    Args:
        model: Calibrated model.
        blocks: Full training blocks with their critical tokens, used in order.
        config: Steps, weights, target.
        seed: Seed of noise and loss positions.
        force_critical: Critical tokens execute every layer, in training as at inference.
        progress: Called with steps done and total.

    Returns:
        Loss terms and skip rate per step.

    Raises:
        TrainingError: The loss is not a number, or the routers collapsed to all-execute or all-skip.
    """
    log = TrainingLog()
    if config.steps == 0:
        return log
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    routers = [p.requires_grad_() for _, layer in model.routed for p in layer.router.parameters()]
    paths = [p.requires_grad_() for _, layer in model.routed for p in layer.skip_path.parameters()]
    groups = [(routers, config.learning_rate_router), (paths, config.learning_rate_path)]
    optimiser = _optimiser([group for group in groups if group[0]])
    generator = torch.Generator().manual_seed(seed)
    for step, batch in enumerate(_batches(blocks, config.steps, config.batch_blocks)):
        noisy = step < config.noise_share * config.steps
        scale = config.gumbel_scale if noisy else 0.0
        terms = _skip_losses(model, batch, config, generator, scale, force_critical)
        ramp = min(1.0, 3.0 * (step + 1) / config.steps)
        loss = (
            config.kl_weight * terms["kl"] + config.ce_weight * terms["ce"] + terms["floor"]
            + ramp * config.density_weight * terms["density"] + config.critical_weight * terms["critical"]
        )  # fmt: skip
        _step(optimiser, loss, _schedule(step, config.steps), f"skip tune, step {step}")
        log.rows.append({"step": step, "loss": loss.item()} | {name: float(t.detach()) for name, t in terms.items()})
        log.n_tokens += batch.ids_NT.numel()
        progress(step + 1, config.steps)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    _check_routers(log)
    return log


def _skip_losses(
    model: SkipLayerForCausalLM, batch: Blocks, config: SkipTuneConfig, generator: torch.Generator, scale: float,
    force_critical: bool,
) -> dict[str, Tensor]:  # fmt: skip
    ids_BT, critical_BT = batch.ids_NT.to(model.device), batch.critical_NT.to(model.device)
    n_positions = max(1, round(config.loss_positions * (ids_BT.shape[1] - 1)))
    drawn_P = torch.randperm(ids_BT.shape[1] - 1, generator=generator)[:n_positions]
    positions_P = drawn_P.sort().values.to(model.device)
    targets = ids_BT[:, positions_P + 1].flatten()
    with torch.no_grad(), model.routing("dense"):
        teacher = model(ids_BT, use_cache=False, logits_to_keep=positions_P).logits.flatten(0, 1)
    state = {"gumbel_scale": scale, "temperature": config.temperature, "generator": generator}
    with model.routing("train", **state):
        forced = critical_BT if force_critical else None
        student = model(ids_BT, force_execute=forced, use_cache=False, logits_to_keep=positions_P).logits.flatten(0, 1)
        gates = dict(model.state.gates_BT)
    n_layers = len(model.layers)
    ce = cross_entropy(student.float(), targets) if config.ce_weight > 0 else torch.zeros(())
    return {
        "kl": distillation_loss(student, teacher),
        "ce": ce,
        "density": density_loss(gates, n_layers, config.target_skip_rate),
        "floor": floor_loss(gates, config.floor),
        "critical": critical_loss(gates, critical_BT, config.critical_floor),
        "skip_rate": skip_rate(gates, n_layers),
    }


def _check_routers(log: TrainingLog) -> None:
    """Refuse a result whose routers no longer decide anything."""
    rate = log.mean_of("skip_rate", slice(-max(1, len(log.rows) // 5), None))
    if not 0.001 < rate < 0.95:
        raise TrainingError(
            f"skip tune: the routers collapsed, skip rate {rate:.3f} over the last steps; lower "
            "model.skip_tune.density_weight or learning_rate_router, or start from another seed"
        )
