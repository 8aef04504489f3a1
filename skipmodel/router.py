"""The router: one logit per token and layer, from the normalised layer input.

Legend: B sequences, T tokens in this call, D hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORM_EPS = 1e-5


def normalise(hidden_BTD: Tensor) -> Tensor:
    """Return the input scaled to root mean square 1 along the width, without learned weights.

    Router and skip path see this, whatever norm the base model uses itself, so that one formula serves
    every family. Shape and dtype are kept.
    """
    hidden = hidden_BTD.float()
    scaled = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + NORM_EPS)
    return scaled.to(hidden_BTD.dtype)


class TokenRouter(nn.Module):
    """Linear router: router_logit = x . w + b, execute_prob = sigmoid(router_logit).

    **Source**: SkipLayer (arXiv 2311.15436) uses a linear map to two logits; the difference of the two is
    this one. Unlike the paper it has a bias, starts from a closed form (`skipmodel.calibrate`) rather than
    from noise, and computes in float32, because one rounding step near the threshold flips a decision.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.full((), 3.0))  # execute_prob 0.95 until calibrated

    def forward(self, normalised_BTD: Tensor) -> Tensor:
        """Return router logits, (B, T), float32."""
        return normalised_BTD.float() @ self.weight.float() + self.bias.float()
