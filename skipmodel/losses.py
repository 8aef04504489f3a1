"""Losses of the SkipLayer fine-tune.

    total = kl_weight * KL(teacher || student) + ce_weight * CE
          + ramp * density_weight * |skip rate - target|            one global rate: layers may differ
          + floor hinge per layer + critical_weight * hinge on critical tokens

Legend: B sequences, T tokens, P positions that count, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax


def distillation_loss(student_logits_PV: Tensor, teacher_logits_PV: Tensor) -> Tensor:
    """Mean KL divergence from teacher to student per position, in nats; 0 when both agree."""
    return kl_div(
        log_softmax(student_logits_PV.float(), -1), log_softmax(teacher_logits_PV.float(), -1),
        reduction="batchmean", log_target=True,
    )  # fmt: skip


def skip_rate(gates_BT: dict[int, Tensor], n_layers: int) -> Tensor:
    """Share of all layer executions skipped: sum over routed layers of (1 - mean gate), over all layers.

    The denominator counts the layers that always run too, so that rates compare across routed ranges.
    """
    return torch.stack([1.0 - gate.mean() for gate in gates_BT.values()]).sum() / n_layers


def density_loss(gates_BT: dict[int, Tensor], n_layers: int, target_skip_rate: float) -> Tensor:
    """|skip rate - target|, over the whole model rather than per layer.

    **Source**: ours; SkipLayer sums (executed share - P)^2 per layer, which forces indispensable layers to the
    same share as redundant ones.
    """
    return (skip_rate(gates_BT, n_layers) - target_skip_rate).abs()


def floor_loss(gates_BT: dict[int, Tensor], floor: float) -> Tensor:
    """Sum over layers of how far the executed share falls below the floor; keeps layers from dying."""
    return torch.stack([(floor - gate.mean()).clamp_min(0.0) for gate in gates_BT.values()]).sum()


def critical_loss(gates_BT: dict[int, Tensor], critical_BT: Tensor, floor: float) -> Tensor:
    """Hinge on the executed share of critical tokens over all routed layers; 0 without critical tokens."""
    if not bool(critical_BT.any()):
        return torch.zeros(())
    share = torch.stack([gate[critical_BT].mean() for gate in gates_BT.values()]).mean()
    return (floor - share).clamp_min(0.0)
