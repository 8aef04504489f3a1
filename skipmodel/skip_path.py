"""What a skipped token gets instead of the layer: a cheap guess of the layer's update.

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
        down, up, bias = (weight.to(normalised_BTD.dtype) for weight in (self.down, self.up, self.bias))
        return nn.functional.linear(nn.functional.linear(normalised_BTD, down), up, bias)


class AdapterSkipPath(nn.Module):
    """update = SiLU(x @ down^T) @ up^T + bias, with twice as many hidden units as the rank.

    **Source**: FlexiDepth (arXiv 2503.23798) puts such an adapter there, from noise. Here it starts as the linear
    path: SiLU(z) - SiLU(-z) = z, so the rows of `down` come in pairs of opposite sign, and those of `up` too.
    """

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.zeros(2 * rank, width))
        self.up = nn.Parameter(torch.zeros(width, 2 * rank))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, normalised_BTD: Tensor) -> Tensor:
        """Return the predicted update of the residual stream, (B, T, D)."""
        down, up, bias = (weight.to(normalised_BTD.dtype) for weight in (self.down, self.up, self.bias))
        return nn.functional.linear(nn.functional.silu(nn.functional.linear(normalised_BTD, down)), up, bias)


class IdentitySkipPath(nn.Module):
    """No update: a skipped token leaves the layer as it came, as in the SkipLayer paper."""

    def forward(self, normalised_BTD: Tensor) -> Tensor:
        """Return zeros, (B, T, D)."""
        return torch.zeros_like(normalised_BTD)


def make_path(kind: str, width: int, rank: int) -> nn.Module:
    """Return a skip path of a kind of `skipmodel.config.SkipPathKind`; its update is 0 until fitted."""
    rank = min(rank, width)
    if kind == "identity":
        return IdentitySkipPath()
    return AdapterSkipPath(width, rank) if kind == "adapter" else LinearSkipPath(width, rank)


@torch.no_grad()
def set_linear(path: nn.Module, down_RD: Tensor, up_DR: Tensor, bias_D: Tensor) -> None:
    """Make a linear path or an adapter compute x @ down^T @ up^T + bias exactly; identity stays what it is."""
    if isinstance(path, AdapterSkipPath):
        down_RD, up_DR = torch.cat([down_RD, -down_RD]), torch.cat([up_DR, -up_DR], 1)
    if isinstance(path, LinearSkipPath | AdapterSkipPath):
        path.down.copy_(down_RD)
        path.up.copy_(up_DR)
        path.bias.copy_(bias_D)
