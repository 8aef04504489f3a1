"""What a skipped token gets instead of the layer: a low-rank linear guess of the layer's update.

Legend: B sequences, T tokens in this call, D hidden width, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LinearSkipPath(nn.Module):
    """update = (x @ down^T) @ up^T + bias, with x the normalised layer input.

    **Source**: ours. FlexiDepth (arXiv 2503.23798) puts an adapter FFN there; a linear map costs less and has
    a closed-form optimum to start from (`skipmodel.calibrate`).
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.zeros(rank, width))
        self.up = nn.Parameter(torch.zeros(width, rank))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, normalised_BTD: Tensor) -> Tensor:
        """Return the predicted update of the residual stream, (B, T, D)."""
        return nn.functional.linear(nn.functional.linear(normalised_BTD, self.down), self.up, self.bias)


class IdentitySkipPath(nn.Module):
    """No update: a skipped token leaves the layer as it came, as in the SkipLayer paper."""

    def forward(self, normalised_BTD: Tensor) -> Tensor:
        """Return zeros, (B, T, D)."""
        return torch.zeros_like(normalised_BTD)
