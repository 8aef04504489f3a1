"""From router logits to the decision execute or skip.

Legend: B sequences, T tokens in this call.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def execute_mask(router_logit_BT: Tensor, threshold_logit: float) -> Tensor:
    """Decide without noise: execute iff execute_prob >= threshold, compared as logits.

    Comparing logits rather than probabilities keeps decisions exact where the sigmoid saturates.

    Args:
        router_logit_BT: Router logits, (B, T); execute_prob = sigmoid(logit).
        threshold_logit: logit(threshold); -inf (threshold 0) executes everything.

    Returns:
        Boolean mask (B, T); True means that the layer runs.
    """
    return router_logit_BT >= threshold_logit


def straight_through_gumbel(
    router_logit_BT: Tensor, *, scale: float, temperature: float, generator: torch.Generator | None = None
) -> Tensor:
    """Sample a hard gate whose backward pass is that of the soft one.

    **Formula**: soft = sigmoid((logit + scale * (g1 - g0)) / temperature), g1 and g0 standard Gumbel;
    hard = [soft > 0.5]; the value is hard, the gradient is that of soft. The difference of two Gumbel
    variables is logistic, so this is the two-class straight-through Gumbel-Softmax.

    **Source**: D. Zeng et al., SkipLayer, arXiv 2311.15436. They keep two logits per token, which is the
    same up to a shift; `scale` below 1 is ours and calms fine-tuning from an already good router.

    Returns:
        Gate (B, T) in {0, 1} with gradient; 1 means execute.
    """
    logit_BT = router_logit_BT
    if scale > 0:
        # drawn on the CPU, so that a seed gives the same noise on every device
        uniform_BT = torch.rand(logit_BT.shape, generator=generator).clamp_(1e-6, 1 - 1e-6).to(logit_BT.device)
        logit_BT = logit_BT + scale * (uniform_BT.log() - (-uniform_BT).log1p())
    soft_BT = torch.sigmoid(logit_BT / temperature)
    hard_BT = (soft_BT > 0.5).to(soft_BT.dtype)
    return hard_BT + soft_BT - soft_BT.detach()


def threshold_to_logit(threshold: float) -> float:
    """Return logit(threshold) with the ends mapped to -inf (execute all) and +inf (skip all)."""
    if threshold <= 0.0:
        return -math.inf
    if threshold >= 1.0:
        return math.inf
    return math.log(threshold) - math.log1p(-threshold)


def logit_to_threshold(logit: float) -> float:
    """Return the threshold in [0, 1] that belongs to a logit."""
    if logit == -math.inf:
        return 0.0
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))
