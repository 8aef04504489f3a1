"""Losses of the SkipLayer fine-tune.

    total = kl_weight * KL(teacher || student) + ce_weight * CE
          + ramp * density_weight * density + floor hinge per unit + critical_weight * hinge on critical tokens

The three routing terms are functions of shares of executed tokens over everything that one optimiser step sees,
so their value does not depend on how the step's blocks are cut into parts or spread over devices.

Legend: B sequences, T tokens, P positions that count, V vocabulary, L routed units.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from skipmodel.config import SkipTuneConfig


def distillation_loss(student_logits_PV: Tensor, teacher_logits_PV: Tensor, weight_P: Tensor | None = None) -> Tensor:
    """Mean KL divergence from teacher to student per position, in nats; 0 when both agree.

    Args:
        student_logits_PV: Vocabulary logits of the model that learns.
        teacher_logits_PV: Those of the model it learns from.
        weight_P: Weights of the mean; equal when absent.
    """
    student, teacher = log_softmax(student_logits_PV.float(), -1), log_softmax(teacher_logits_PV.float(), -1)
    if weight_P is None:
        return kl_div(student, teacher, reduction="batchmean", log_target=True)
    per_position = kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    return (per_position * weight_P).sum() / weight_P.sum().clamp_min(1e-30)  # no position counts: 0


@dataclass
class ExecutedShares:
    """What the routers let run over the tokens of one step, padding left out.

    Attributes:
        executed_L: Executed tokens per routed unit.
        n_tokens: Tokens.
        critical_executed: Pairs of critical token and unit that executed.
        n_critical: Pairs of critical token and unit.
    """

    executed_L: Tensor
    n_tokens: Tensor
    critical_executed: Tensor
    n_critical: Tensor

    @classmethod
    def of(cls, gates_BT: dict[int, Tensor], real_BT: Tensor, critical_BT: Tensor) -> ExecutedShares:
        """Count the gates of one pass; the gradient flows to the gates."""
        gates_LBT = torch.stack(list(gates_BT.values())) * real_BT
        critical_BT = critical_BT & real_BT
        return cls(
            gates_LBT.sum((1, 2)), real_BT.sum().float(), (gates_LBT * critical_BT).sum(),
            critical_BT.sum().float() * len(gates_LBT),
        )  # fmt: skip

    def detached(self) -> ExecutedShares:
        """Return the same counts without gradient."""
        return ExecutedShares(*(value.detach() for value in self._values()))

    def with_gradient(self) -> ExecutedShares:
        """Return the same counts as leaves to differentiate for."""
        return ExecutedShares(*(value.detach().requires_grad_() for value in self._values()))

    def reduced(self, reduce: Callable[[Tensor, str], Tensor]) -> ExecutedShares:
        """Return the sums over all devices."""
        return ExecutedShares(*(reduce(value, "sum") for value in self._values()))

    def _values(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.executed_L, self.n_tokens, self.critical_executed, self.n_critical

    def __add__(self, other: ExecutedShares) -> ExecutedShares:
        return ExecutedShares(
            self.executed_L + other.executed_L, self.n_tokens + other.n_tokens,
            self.critical_executed + other.critical_executed, self.n_critical + other.n_critical,
        )  # fmt: skip


def skip_rate(execute_share_L: Tensor, unit_share_L: Tensor, n_layers: int) -> Tensor:
    """Share of all layer executions skipped; a unit counts as its share of a layer.

    The denominator counts the layers that always run too, so that rates compare across routed ranges.
    """
    return ((1.0 - execute_share_L) * unit_share_L).sum() / n_layers


def density_loss(execute_share_L: Tensor, unit_share_L: Tensor, n_layers: int, config: SkipTuneConfig) -> Tensor:
    """Distance of the skip rate from its target.

    **Formula**: `global`: |skip rate - target|. `per_layer`: sum over units of (executed share - P)^2, with the one
    P under which the whole model meets the target.
    **Source**: `per_layer` is SkipLayer's (arXiv 2311.15436), which forces indispensable layers to the same share as
    redundant ones; `global` is ours.
    """
    if config.density == "global":
        return (skip_rate(execute_share_L, unit_share_L, n_layers) - config.target_skip_rate).abs()
    wanted = 1.0 - config.target_skip_rate * n_layers / float(unit_share_L.sum())
    return (execute_share_L - max(wanted, 0.0)).square().sum()


def floor_loss(execute_share_L: Tensor, floor: float) -> Tensor:
    """Sum over units of how far the executed share falls below the floor; keeps units from dying."""
    return (floor - execute_share_L).clamp_min(0.0).sum()


def critical_loss(critical_share: Tensor, floor: float) -> Tensor:
    """Hinge on the executed share of critical tokens over all routed units."""
    return (floor - critical_share).clamp_min(0.0)


def routing_losses(
    shares: ExecutedShares, unit_share_L: Tensor, n_layers: int, config: SkipTuneConfig
) -> dict[str, Tensor]:
    """Return density, floor and critical loss of one step, and its skip rate."""
    execute_share_L = shares.executed_L / shares.n_tokens
    no_critical = shares.n_critical == 0
    critical_share = torch.where(no_critical, 1.0, shares.critical_executed / shares.n_critical.clamp_min(1.0))
    return {
        "density": density_loss(execute_share_L, unit_share_L, n_layers, config),
        "floor": floor_loss(execute_share_L, config.floor),
        "critical": critical_loss(critical_share, config.critical_floor),
        "skip_rate": skip_rate(execute_share_L, unit_share_L, n_layers),
    }
