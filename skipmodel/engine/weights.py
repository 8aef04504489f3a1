"""The weights of a routed model, laid out for execution; one shape for all families.

Norm weights are folded into the matrices behind them, and matrices that read the same input share one storage, so
that dense execution reads queries, keys and values in one product, and a skipped layer keys, values and the inner
rows of its skip path in one:

    front = [ queries | keys, values | inner rows of the skip path ]
              executed: --------------|
                        skipped: ------------------------------------

Legend: D width, R inner width of a skip path, E head width, P positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from skipmodel.engine.matrix import Matrix
from skipmodel.router import NORM_EPS, PaperRouter, TokenRouter
from skipmodel.skip_path import AdapterSkipPath, IdentitySkipPath
from skipmodel.work import Work


@dataclass(frozen=True)
class SkipWeights:
    """Router and skip path of a routed layer."""

    router: nn.Module
    router_D: Tensor | None
    """Weights of a linear router in float32; None for others, which are called."""
    router_bias: float
    key_value: Matrix
    """Keys and values, then the inner rows of the skip path where it reads the same input."""
    path_down: Matrix | None
    """Inner rows of the path; None for identity."""
    is_path_in_front: bool
    """Whether `key_value` computes the inner rows too; `path_down` then shares its storage."""
    path_up: Matrix | None
    """None for identity."""
    is_adapter: bool
    """Whether SiLU stands between both."""


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer; `skip` is None where tokens cannot skip."""

    qkv: Matrix
    query: Matrix
    kept: Matrix
    """Keys and values alone."""
    out: Matrix
    up: Matrix
    """Gate and up rows of a gated MLP, or its only inner rows."""
    down: Matrix
    query_norm_E: Tensor | None
    key_norm_E: Tensor | None
    attention_norm_D: Tensor | None
    """Weights of a norm behind the attention's output (Gemma 2 and 3)."""
    mlp_norm_D: Tensor | None
    """The same behind the MLP."""
    rotary: str | None
    """Which rotary table; None for learned positions."""
    window: int | None
    """Keys further back than this many positions are not seen."""
    skip: SkipWeights | None

    @property
    def is_routed(self) -> bool:
        """Whether tokens may skip this layer."""
        return self.skip is not None


@dataclass(frozen=True)
class ModelWeights:
    """All layers, what stands before and behind them, and the facts of the family that execution needs."""

    layers: list[LayerWeights]
    threshold_offsets: list[float]
    """Per layer, added to the threshold's logit."""
    work: Work
    embedding: Tensor
    embedding_scale: float
    positions_PD: Tensor | None
    """Learned positions."""
    head: Matrix
    """Vocabulary matrix with the final norm folded in."""
    logit_cap: float | None
    norm: Literal["rms", "layer"]
    norm_eps: float
    activation: Callable[[Tensor], Tensor]
    is_gated: bool
    is_parallel: bool
    """Whether attention and MLP read the same input (GPT-NeoX)."""
    n_heads: int
    n_kv_heads: int
    head_width: int
    rotary_width: int
    attention_scale: float
    attention_cap: float | None
    rotary: Any
    """The model's module of rotary angles; None for learned positions."""

    @property
    def router_shares_norm(self) -> bool:
        """Whether the layer's scaled input is what router and skip path see."""
        return self.norm == "rms" and abs(self.norm_eps - NORM_EPS) < 1e-12

    def scale(self, hidden: Tensor) -> Tensor:
        """Norm without its weights, which are folded into the matrices behind it; any leading shape."""
        wide = hidden.float()
        if self.norm == "layer":
            return layer_norm(wide, wide.shape[-1:], eps=self.norm_eps).to(hidden.dtype)
        return (wide * rms_factor(wide, self.norm_eps)).to(hidden.dtype)


def rms_factor(wide: Tensor, eps: float) -> Tensor:
    """Return 1 / sqrt(mean square + eps) over the width, kept as a dimension; one pass over the data."""
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    return torch.rsqrt(length * length / wide.shape[-1] + eps)


def skip_weights(layer: Any, front: Matrix, bounds: tuple[int, int], path_in_front: bool) -> SkipWeights | None:
    """Collect what a routed layer needs to be skipped; None for a layer that always runs.

    Args:
        layer: The decoder layer.
        front: Its fused matrix.
        bounds: Where keys begin and where values end in it.
        path_in_front: Whether the rows behind them are those of the skip path.
    """
    router, path = layer._modules.get("router"), layer._modules.get("skip_path")
    if router is None:
        return None
    router_D, bias = None, 0.0
    if isinstance(router, TokenRouter):
        router_D, bias = router.weight.detach().float(), float(router.bias.detach())
    elif isinstance(router, PaperRouter):
        weight = router.weight.detach().float()
        router_D = weight[1] - weight[0]
    has_path = path is not None and not isinstance(path, IdentitySkipPath)
    dtype = front.dtype
    path_down = None
    if has_path:
        path_down = front.part(bounds[1], front.n_outputs) if path_in_front else Matrix(path.down.detach().to(dtype))
    return SkipWeights(
        router=router, router_D=router_D, router_bias=bias,
        key_value=front.part(bounds[0], front.n_outputs),
        path_down=path_down, is_path_in_front=path_in_front,
        path_up=Matrix(path.up.detach().to(dtype), path.bias.detach().to(dtype)) if has_path else None,
        is_adapter=isinstance(path, AdapterSkipPath),
    )  # fmt: skip


def path_rows(layer: Any) -> Tensor | None:
    """Return the inner rows (R, D) of a layer's skip path; None for identity or a layer that always runs."""
    path = layer._modules.get("skip_path")
    return None if path is None or isinstance(path, IdentitySkipPath) else path.down.detach()


def path_update(skip: SkipWeights, inner_NR: Tensor) -> Tensor:
    """Return the updates (N, D) of the skip path from its inner values."""
    if skip.path_up is None:
        raise AssertionError("identity has no update")
    return skip.path_up.rows(silu(inner_NR) if skip.is_adapter else inner_NR)


def path_onto(skip: SkipWeights, hidden_D: Tensor, inner_R: Tensor) -> Tensor:
    """Return a hidden state with the update of the skip path added."""
    if skip.path_up is None:
        raise AssertionError("identity has no update")
    return skip.path_up.add_vector(hidden_D, silu(inner_R) if skip.is_adapter else inner_R)
