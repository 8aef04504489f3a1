"""From router logits to the decision execute or skip.

Legend: B sequences, T tokens in this call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skipmodel.errors import ConfigError


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


def logistic_noise(shape: Sequence[int], generator: torch.Generator | None = None) -> Tensor:
    """Draw standard logistic noise, which is the difference of two standard Gumbel variables.

    Drawn on the CPU, so that a seed gives the same noise on every device.
    """
    uniform = torch.rand(tuple(shape), generator=generator).clamp_(1e-6, 1 - 1e-6)
    return uniform.log() - (-uniform).log1p()


def straight_through_gumbel(
    router_logit_BT: Tensor, *, temperature: float, scale: float = 0.0, noise_BT: Tensor | None = None
) -> Tensor:
    """Sample a hard gate whose backward pass is that of the soft one.

    **Formula**: soft = sigmoid((logit + scale * (g1 - g0)) / temperature), g1 and g0 standard Gumbel;
    hard = [soft > 0.5]; the value is hard, the gradient is that of soft. The difference of two Gumbel
    variables is logistic (`logistic_noise`), so this is the two-class straight-through Gumbel-Softmax.

    **Source**: D. Zeng et al., SkipLayer, arXiv 2311.15436. They keep two logits per token, which is the
    same up to a shift; `scale` below 1 is ours and calms fine-tuning from an already good router.

    Returns:
        Gate (B, T) in {0, 1} with gradient; 1 means execute.
    """
    logit_BT = router_logit_BT
    if noise_BT is not None and scale > 0:
        logit_BT = logit_BT + scale * noise_BT
    soft_BT = torch.sigmoid(logit_BT / temperature)
    hard_BT = (soft_BT > 0.5).to(soft_BT.dtype)
    return hard_BT + soft_BT - soft_BT.detach()


def top_k_gate(router_logit_BT: Tensor, capacity: float) -> Tensor:
    """Let the layer run for the `capacity` share of each sequence with the highest logits.

    The value is hard, the gradient that of sigmoid(logit). Which tokens are among the highest depends on later
    tokens, so this is for training and controls; decoding takes a threshold.

    **Source**: Mixture-of-Depths, arXiv 2404.02258 (expert-choice routing). There the layer's output is scaled by
    the router weight; here the straight-through gate carries the gradient, as in the rest of this package.

    Returns:
        Gate (B, T) in {0, 1} with gradient; 1 means execute.
    """
    n_run = max(1, round(capacity * router_logit_BT.shape[1]))
    hard_BT = torch.zeros_like(router_logit_BT)
    hard_BT.scatter_(1, router_logit_BT.topk(n_run, dim=1).indices, 1.0)
    soft_BT = torch.sigmoid(router_logit_BT)
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


def level_to_logit(level_logits: Sequence[float], level: float) -> float:
    """Return the threshold logit of a level in [0, 1]: -inf at 0, inf at 1, linear between the calibrated ones.

    Args:
        level_logits: Threshold logits of level 1/n, 2/n, ... (n-1)/n, rising.
        level: The level.

    Raises:
        ConfigError: The level is outside [0, 1], or there are no calibrated ones.
    """
    if not level_logits:
        raise ConfigError("this model has no levels; calibrate them on held-out text (skipmodel.levels) first")
    if not 0.0 <= level <= 1.0:
        raise ConfigError(f"level must lie within 0 (dense) and 1 (skip all that may skip), got {level}")
    if level in (0.0, 1.0):
        return -math.inf if level == 0.0 else math.inf
    position = min(max(level * (len(level_logits) + 1) - 1, 0.0), len(level_logits) - 1.0)
    low = math.floor(position)
    below, above = level_logits[low], level_logits[min(low + 1, len(level_logits) - 1)]
    return below + (position - low) * (above - below)
