"""Two training loops: LoRA tuning of the dense base, then fine-tuning of routers, skip paths and LoRA.

The SkipLayer fine-tune runs in up to three stages: routers alone, then everything with Gumbel noise, then without
noise, as at inference. With `lora_rank` 0 the tuned base stays frozen: teacher and student share their weights,
threshold 0 stays exactly the dense model, and falling back to dense costs nothing.

Legend: B sequences, T tokens, P positions that count, L routed units, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from skipmodel.collapse import Decisions, check_routers
from skipmodel.config import DenseTuneConfig, SkipTuneConfig
from skipmodel.data import Blocks, check_vocabulary
from skipmodel.errors import ConfigError, DataError
from skipmodel.gate import logistic_noise
from skipmodel.lora import Lora
from skipmodel.losses import ExecutedShares, distillation_loss, routing_losses
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.optimise import Trainer, TrainingLog
from skipmodel.teacher import Teacher, dense_hidden

Progress = Callable[[int, int], None]
DIVERGED_KL_NATS = 2.0
DIVERGED_CE_NATS = 12.0


def _batches(blocks: Blocks, steps: int, batch_blocks: int) -> list[Blocks]:
    if len(blocks) == 0:
        raise DataError("training: no block to train on")
    order = [i % len(blocks) for i in range(steps * batch_blocks)]
    return [blocks.take(order[i * batch_blocks : (i + 1) * batch_blocks]) for i in range(steps)]


def _identity(config: Any, seed: int, blocks: Blocks, model: Any, *more: Any) -> str:
    """Return what decides the result of a training, to tell whose checkpoint one is: settings, text, weights."""
    digest = hashlib.sha256()
    for tensor in (blocks.ids_NT, blocks.kind_NT, blocks.n_real_N):
        digest.update(tensor.contiguous().numpy().tobytes())
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().flatten()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(flat[:: max(1, flat.numel() // 16)].float().cpu().numpy().tobytes())
    return json.dumps([dataclasses.asdict(config), seed, *more, list(blocks.ids_NT.shape), digest.hexdigest()])


def dense_tune(
    base: nn.Module,
    blocks: Blocks,
    config: DenseTuneConfig,
    seed: int,
    progress: Progress = lambda done, total: None,
    *,
    checkpoints: Path | None = None,
) -> tuple[nn.Module, TrainingLog]:
    """Tune the dense base with LoRA, padding left out, and merge the result into its weights.

    Args:
        base: Hugging Face causal LM; changed in place.
        blocks: Training blocks, used in order.
        config: Steps, rank, learning rate.
        seed: Seed of the LoRA matrices.
        progress: Called with steps done and total.
        checkpoints: Folder of checkpoints; an interrupted training goes on from there.

    Returns:
        The merged model in evaluation mode, and the loss per step.

    Raises:
        TrainingError: The loss is not a number, or training diverges.
    """
    if config.steps == 0:
        return base, TrainingLog()
    check_vocabulary(blocks, cast(Any, base).get_input_embeddings().weight.shape[0])
    identity = _identity(config, seed, blocks, base)
    lora = Lora(base, config.lora_rank, seed)
    trainer = Trainer(
        {"LoRA matrices": (lora.parameters, config.learning_rate)}, config.steps, "dense tune", checkpoints,
        config.checkpoint_steps, identity,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    device = next(base.parameters()).device
    first = trainer.resume(generator)
    for step, batch in enumerate(_batches(blocks, config.steps, config.batch_blocks)[first:], start=first):
        ids_BT = batch.ids_NT.to(device)
        target_BT = ids_BT.masked_fill(~batch.real_NT.to(device), -100)[:, 1:]  # which cross_entropy leaves out
        logits = base(input_ids=ids_BT, use_cache=False).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1).float(), target_BT.flatten())
        trainer.log.rows.append({"step": step, "loss": loss.item()})
        trainer.log.n_tokens += int(batch.n_real_N.sum())
        trainer.watch(step, "loss", DIVERGED_CE_NATS)
        loss.backward()
        trainer.step(step)
        trainer.save(step + 1, generator)
        progress(step + 1, config.steps)
    lora.merge()
    for parameter in base.parameters():
        parameter.requires_grad_(False)
    return base.eval(), trainer.log


def skip_tune(
    model: SkipLayerForCausalLM,
    blocks: Blocks,
    config: SkipTuneConfig,
    seed: int,
    *,
    force_critical: bool,
    progress: Progress = lambda done, total: None,
    checkpoints: Path | None = None,
    teacher: Teacher | None = None,
    fixed: Fixed | None = None,
) -> TrainingLog:
    """Fine-tune routers and skip paths of a calibrated model, in place, and its base by LoRA if asked for.

    Gates are hard in the forward pass and soft in the backward pass; noise is on for the first `noise_share` of the
    steps and off for the rest, so that training ends on what inference does.

    Args:
        model: Calibrated model.
        blocks: Training blocks with their critical tokens, used in order.
        config: Steps, weights, target.
        seed: Seed of noise, loss positions and LoRA matrices.
        force_critical: Critical tokens execute every unit, in training as at inference.
        progress: Called with steps done and total.
        checkpoints: Folder of checkpoints; an interrupted training goes on from there.
        teacher: Hidden states of the dense model, when several trainings share them; made here when absent.
        fixed: Routing given from outside instead of the routers': a control to be healed with the same recipe.

    Returns:
        Loss terms and skip rate per step.

    Raises:
        TrainingError: The loss is not a number, training diverges, or the routers collapsed.
    """
    if config.steps == 0:
        return TrainingLog()
    check_vocabulary(blocks, cast(Any, model.get_input_embeddings()).weight.shape[0])
    run = _SkipTune(model, blocks, config, seed, force_critical, checkpoints, teacher, fixed)
    return run.run(progress)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Routing of a control during healing, see `skipmodel.controls`.

    Attributes:
        mask_LBT: Makes the execute mask of a batch, (units, B, T); None leaves the decision to the routers.
        fields: Further fields of the routing state, such as a top-k capacity.
    """

    mask_LBT: Callable[[Tensor, int], Tensor] | None = None
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Part:
    """What a part of a step leaves for its end."""

    losses: Tensor
    """KL and cross-entropy, each its share of the step's weighted mean."""
    counted: ExecutedShares
    slopes: list[tuple[Tensor, Tensor]]


class _SkipTune:
    """One SkipLayer fine-tune: what it trains, and one step of it."""

    def __init__(
        self, model: SkipLayerForCausalLM, blocks: Blocks, config: SkipTuneConfig, seed: int, force_critical: bool,
        checkpoints: Path | None, teacher: Teacher | None, fixed: Fixed | None,
    ) -> None:  # fmt: skip
        from accelerate import Accelerator

        self.model, self.blocks, self.config = model, blocks, config
        self.force_critical, self.fixed = force_critical, fixed
        self.accelerator = Accelerator(cpu=model.device.type == "cpu")
        n_parts = config.accumulate * self.accelerator.num_processes
        if config.batch_blocks % n_parts:
            raise ConfigError(
                f"model.skip_tune.batch_blocks must be a multiple of accumulate times devices, "
                f"{config.accumulate} * {self.accelerator.num_processes}, got {config.batch_blocks}"
            )
        routing = model.config.unit, model.config.kv, model.config.force_first_positions, model.state.is_cumulative
        given = None if fixed is None else [fixed.mask_LBT is None, sorted(fixed.fields)]
        identity = _identity(config, seed, blocks, model, force_critical, routing, given)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self.lora = Lora(model.lm, config.lora_rank, seed) if config.lora_rank else None
        learns_routing = fixed is None or fixed.mask_LBT is None
        self.routers = [p for _, unit in model.routed for p in unit.router.parameters()] if learns_routing else []
        paths = [p for _, unit in model.routed for p in unit.skip_path.parameters()]
        for parameter in paths:
            parameter.data = parameter.data.float()  # Adam's small steps vanish in bfloat16
        for parameter in self.routers + paths:
            parameter.requires_grad_(True)
        self.trainer = Trainer(
            {
                "routers": (self.routers, config.learning_rate_router),
                "skip paths": (paths, config.learning_rate_path),
                "LoRA matrices": (self.lora.parameters if self.lora else [], config.learning_rate_lora),
            },
            config.steps, "skip tune", checkpoints, config.checkpoint_steps, identity,
            writes=self.accelerator.is_main_process,
        )  # fmt: skip
        self.wrapped = self.accelerator.prepare_model(model) if self.accelerator.num_processes > 1 else model
        self.generator = torch.Generator().manual_seed(seed)
        repeats = config.steps * config.batch_blocks > len(blocks)
        self.teacher = teacher or Teacher(model, keep=repeats)
        work = model.work
        self.n_layers = work.n_layers
        shares = [work.unit_share[i] for i in model.config.routed_units]
        self.unit_share_L = torch.tensor(shares, device=model.device)
        self.decisions = Decisions(self.trainer.counts)

    def run(self, progress: Progress) -> TrainingLog:
        """Train to the end and return the log."""
        config, trainer = self.config, self.trainer
        first = trainer.resume(self.generator)
        _recompute(self.model, config.gradient_checkpointing)
        try:
            for step, batch in enumerate(_batches(self.blocks, config.steps, config.batch_blocks)[first:], start=first):
                trainer.log.rows.append({"step": step} | self._step(step, batch))
                trainer.log.n_tokens += int(batch.n_real_N.sum())
                trainer.watch(step, "loss" if step < config.steps / 2 else "kl", DIVERGED_KL_NATS)
                trainer.step(step, ("skip paths", "LoRA matrices") if step < config.router_share * config.steps else ())
                trainer.save(step + 1, self.generator)
                progress(step + 1, config.steps)
        finally:
            _recompute(self.model, False)
            if self.lora is not None:
                self.lora.merge()
            for parameter in self.model.parameters():
                parameter.requires_grad_(False)
            for _, unit in self.model.routed:
                unit.skip_path.to(self.model.dtype)
        if self.routers:
            counts = self.decisions.counts.items()
            check_routers(Decisions({name: self._sum(value.to(self.model.device)).cpu() for name, value in counts}))
        return trainer.log

    def _sum(self, value: Tensor) -> Tensor:
        """Return the sum over all devices."""
        return cast(Tensor, self.accelerator.reduce(value, "sum"))

    def _step(self, step: int, batch: Blocks) -> dict[str, float]:
        """Accumulate the gradient of one step over its parts; return the loss terms.

        Noise, outside masks and the weights of the means are made for the whole step and then cut, so that the
        result depends neither on the number of parts nor on that of devices.
        """
        config, accelerator = self.config, self.accelerator
        rows = list(range(len(batch)))[accelerator.process_index :: accelerator.num_processes]
        size = len(rows) // config.accumulate
        drawn_P = torch.randperm(batch.ids_NT.shape[1] - 1, generator=self.generator)
        positions_P = drawn_P[: max(1, round(config.loss_positions * len(drawn_P)))].sort().values
        weight_NP = self._weights(batch, positions_P)
        fields = self._routing_fields(step, batch)
        total: ExecutedShares | None = None
        slopes: list[tuple[Tensor, Tensor]] = []
        sums = torch.zeros(2, device=self.model.device)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            made = self._part(
                step, batch.take(part), positions_P, weight_NP[part], float(weight_NP.sum()),
                {name: x[:, part] if isinstance(x, Tensor) else x for name, x in fields.items()},
            )  # fmt: skip
            sums = sums + made.losses
            slopes = _added(slopes, made.slopes)
            total = made.counted if total is None else total + made.counted
        if total is None:
            raise DataError("training: no block in a step")
        kl, ce = (float(x) for x in self._sum(sums))
        routing = self._add_routing_gradient(step, total, slopes)
        loss_value = config.kl_weight * kl + config.ce_weight * ce + routing.pop("routing")
        return {"loss": loss_value, "kl": kl, "ce": ce} | routing

    def _part(
        self, step: int, batch: Blocks, positions_P: Tensor, weight_BP: Tensor, weight_sum: float,
        fields: dict[str, Any],
    ) -> _Part:  # fmt: skip
        """Run teacher and student over some blocks and add the gradient of the losses on text."""
        config, model, device = self.config, self.model, self.model.device
        ids_BT, critical_BT, real_BT = (x.to(device) for x in (batch.ids_NT, batch.critical_NT, batch.real_NT))
        positions_P, weight_BP = positions_P.to(device), weight_BP.to(device)
        teacher_BPD = self.teacher.hidden(ids_BT, self._teacher_pass)[:, positions_P]
        counts_BP = weight_BP > 0
        weight_P = weight_BP[counts_BP] / max(weight_sum, 1.0)
        with torch.no_grad():
            teacher_PV = model.vocabulary_logits(teacher_BPD[counts_BP])
        forced_BT = critical_BT if self.force_critical else None
        with model.routing("train", **fields):  # until after the backward pass, which may run layers again
            student_BPV = self.wrapped(
                ids_BT, force_execute=forced_BT, use_cache=False, logits_to_keep=positions_P
            ).logits  # fmt: skip
            gates_BT = dict(model.state.gates_BT)
            guarded_BT = model.state.force_execute_BT
            student_PV, target_P = student_BPV[counts_BP].float(), ids_BT[:, positions_P + 1][counts_BP]
            kl = distillation_loss(student_PV, teacher_PV, weight_P) * weight_P.sum()
            ce = torch.zeros_like(kl)
            if config.ce_weight > 0:
                ce = (cross_entropy(student_PV, target_P, reduction="none") * weight_P).sum()
            counted = ExecutedShares.of(gates_BT, real_BT, critical_BT)
            slopes = _slopes(counted, self.routers) if self.routers else []
            loss = config.kl_weight * kl + config.ce_weight * ce
            if loss.requires_grad:
                self.accelerator.backward(loss * self.accelerator.num_processes)  # which takes the mean over devices
        if self.routers and step >= int(0.8 * config.steps) and guarded_BT is not None:
            self.decisions.add(gates_BT, ids_BT, real_BT & ~guarded_BT)
        return _Part(torch.stack([kl, ce]).detach(), counted.detached(), slopes)

    def _weights(self, batch: Blocks, positions_P: Tensor) -> Tensor:
        """Weights of these positions in the losses, (N, P); 0 where the next token is padding."""
        critical_NP = batch.critical_NT[:, positions_P] | batch.critical_NT[:, positions_P + 1]
        weight_NP = torch.where(critical_NP, self.config.critical_loss_weight, 1.0)
        return weight_NP * batch.real_NT[:, positions_P + 1]

    def _routing_fields(self, step: int, batch: Blocks) -> dict[str, Any]:
        """Return fields of the routing state for this step; tensors are (units, N, T)."""
        config = self.config
        if self.fixed is None:
            scale = config.gumbel_scale if step < config.noise_share * config.steps else 0.0
            noise_UNT = None
            if scale > 0:
                noise_UNT = logistic_noise((len(self.model.units), *batch.ids_NT.shape), self.generator)
            return {"gumbel_scale": scale, "temperature": config.temperature, "given_noise_LBT": noise_UNT}
        make_mask, ids_NT = self.fixed.mask_LBT, batch.ids_NT.to(self.model.device)
        mask_UNT = None if make_mask is None else make_mask(ids_NT, step)
        return {"override_mask_LBT": mask_UNT, **self.fixed.fields}

    def _teacher_pass(self, ids_BT: Tensor) -> Tensor:
        if self.lora is None:
            return dense_hidden(self.model, ids_BT)
        with self.lora.off():
            return dense_hidden(self.model, ids_BT)

    def _add_routing_gradient(
        self, step: int, total: ExecutedShares, slopes: list[tuple[Tensor, Tensor]]
    ) -> dict[str, float]:
        """Add the gradient of the routing losses, which need the whole step's shares, to the routers' own."""
        config = self.config
        total = total.reduced(self.accelerator.reduce).with_gradient()
        terms = routing_losses(total, self.unit_share_L, self.n_layers, config)
        ramp = min(1.0, 3.0 * (step + 1) / config.steps)
        loss = ramp * config.density_weight * terms["density"] + terms["floor"]
        loss = loss + config.critical_weight * terms["critical"]
        values = {name: float(term.detach()) for name, term in terms.items()} | {"routing": float(loss.detach())}
        if not slopes:
            return values | {"routing": 0.0}
        by_unit_L, by_critical = torch.autograd.grad(loss, [total.executed_L, total.critical_executed])
        unit_of = [n for n, (_, unit) in enumerate(self.model.routed) for _ in unit.router.parameters()]
        for parameter, number, pair in zip(self.routers, unit_of, slopes, strict=True):
            executed, critical = (self._sum(slope) for slope in pair)
            gradient = by_unit_L[number] * executed + by_critical * critical
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return values


def _slopes(counted: ExecutedShares, routers: list[nn.Parameter]) -> list[tuple[Tensor, Tensor]]:
    """Return, per router parameter, the gradient of its unit's executed tokens and of the critical ones.

    A gate depends on no router but its unit's own, so one backward pass through all gates gives every unit's slope.
    """
    executed, critical = (
        torch.autograd.grad(value, routers, retain_graph=True, materialize_grads=True)
        for value in (counted.executed_L.sum(), counted.critical_executed)
    )
    return list(zip(executed, critical, strict=True))


def _added(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    return [(a + c, b + d) for (a, b), (c, d) in zip(one, other, strict=True)] if one else other


def _recompute(model: SkipLayerForCausalLM, on: bool) -> None:
    """Switch recomputation of activations on or off; dropout stays off either way."""
    if on:
        model.lm.activation_checkpointing_enable({"use_reentrant": False})
    else:
        model.lm.activation_checkpointing_disable()
    for layer in model.layers:
        layer.training = on  # of the layer alone, not of the dropout inside: recomputation asks for it
        if isinstance(getattr(layer, "dropout", None), float):
            cast(Any, layer).dropout = 0.0  # OPT's layers drop by themselves
