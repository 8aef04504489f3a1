"""The router: one logit per token and layer, from the normalised layer input.

Legend: B sequences, T tokens in this call, D hidden width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

NORM_EPS = 1e-5
START_LOGIT = 3.0  # execute_prob 0.95


def normalise(hidden_BTD: Tensor) -> Tensor:
    """Return the input scaled to root mean square 1 along the width, without learned weights.

    Router and skip path see this, whatever norm the base model uses itself, so that one formula serves
    every family. Shape and dtype are kept.
    """
    hidden = hidden_BTD.float()
    scaled = hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + NORM_EPS)
    return scaled.to(hidden_BTD.dtype)


class TokenRouter(nn.Module):
    """Linear router: router_logit = x . w + b, execute_prob = sigmoid(router_logit). Kind `calibrated`.

    **Source**: ours. The weights come from a closed form (`skipmodel.calibrate`) rather than from noise, and are
    then trained. Everything is float32, because one rounding step near the threshold flips a decision.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width))
        self.bias = nn.Parameter(torch.full((), START_LOGIT))

    @torch.no_grad()
    def set_linear(self, weight_D: Tensor, bias: Tensor) -> None:
        """Make router_logit = x . weight_D + bias."""
        self.weight.copy_(weight_D)
        self.bias.copy_(bias)

    def forward(self, normalised_BTD: Tensor) -> Tensor:
        """Return router logits, (B, T), float32."""
        return normalised_BTD.float() @ self.weight.float() + self.bias.float()


class BottleneckRouter(nn.Module):
    """MLP router: router_logit = SiLU(x W1 + b1) . w2 + b2. Kind `bottleneck`.

    **Source**: FlexiDepth (arXiv 2503.23798) and D-LLM (NeurIPS 2024) route with a bottleneck MLP, from noise. Here it
    starts as the calibrated linear router: SiLU(z) - SiLU(-z) = z, so two hidden units carry it and the others, whose
    part in w2 is 0, are free to learn. Until calibrated every token executes with the same probability.
    """

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, hidden_width)
        self.weight = nn.Parameter(torch.zeros(hidden_width))
        self.bias = nn.Parameter(torch.full((), START_LOGIT))

    @torch.no_grad()
    def set_linear(self, weight_D: Tensor, bias: Tensor) -> None:
        """Make router_logit = x . weight_D + bias; needs two hidden units."""
        self.inner.weight[:2] = torch.stack([weight_D, -weight_D])
        self.inner.bias[:2] = 0.0
        self.weight.zero_()
        self.weight[:2] = torch.tensor([1.0, -1.0])
        self.bias.copy_(bias)

    def forward(self, normalised_BTD: Tensor) -> Tensor:
        """Return router logits, (B, T), float32."""
        inner = nn.functional.linear(normalised_BTD.float(), self.inner.weight.float(), self.inner.bias.float())
        return silu(inner) @ self.weight.float() + self.bias.float()


class PaperRouter(nn.Module):
    """Two logits without bias, skip and execute: router_logit = x . (w_execute - w_skip). Kind `linear`.

    **Source**: SkipLayer, arXiv 2311.15436. It starts from small random weights and so from about one half
    executed, which a net trained from scratch can afford and a fine-tuned one can not.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, width) * 0.02)

    def forward(self, normalised_BTD: Tensor) -> Tensor:
        """Return router logits, (B, T), float32."""
        weight = self.weight.float()
        return normalised_BTD.float() @ (weight[1] - weight[0])


def make_router(kind: str, width: int, hidden_width: int) -> nn.Module:
    """Return an untrained router of a kind of `skipmodel.config.RouterKind`."""
    if kind == "bottleneck":
        return BottleneckRouter(width, hidden_width)
    return PaperRouter(width) if kind == "linear" else TokenRouter(width)
