"""The weights of a Llama-like model, laid out for execution.

Norm weights are folded into the matrices behind them, and matrices that read the same input are fused, so
that a skipped layer costs one small product: keys, values and router logit together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from skipmodel.errors import ConfigError
from skipmodel.families import family_of
from skipmodel.router import NORM_EPS, TokenRouter
from skipmodel.skip_path import IdentitySkipPath
from skipmodel.work import Work


@dataclass(frozen=True)
class LayerWeights:
    """One decoder layer. Matrices are (out, in); biases are None where the family has none."""

    qkv: Tensor
    """Query, key and value rows; the dense path reads them at once."""
    qkv_bias: Tensor | None
    n_query: int
    """Rows of qkv that make queries; the rest makes keys and values."""
    out: Tensor
    out_bias: Tensor | None
    gate_up: Tensor
    mlp_down: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None
    key_value: Tensor
    key_value_bias: Tensor | None
    front: Tensor | None
    """Key, value and router rows of a routed layer with a linear router; None elsewhere."""
    front_bias: Tensor | None
    router: nn.Module | None
    """Router alone, for kinds and dtypes that a fused product cannot serve; None where tokens cannot skip."""
    path: nn.Module | None
    """The skip path; None for identity."""

    @property
    def query(self) -> Tensor:
        """Query rows of the fused matrix."""
        return self.qkv[: self.n_query]

    @property
    def query_bias(self) -> Tensor | None:
        """Their bias."""
        return None if self.qkv_bias is None else self.qkv_bias[: self.n_query]

    @property
    def is_routed(self) -> bool:
        """Whether tokens may skip this layer."""
        return self.router is not None


@dataclass(frozen=True)
class ModelWeights:
    """All layers, and what stands before and behind them."""

    layers: list[LayerWeights]
    threshold_offsets: list[float]
    """Per layer, added to the threshold's logit."""
    work: Work
    embedding: Tensor
    head: Tensor
    """Vocabulary matrix with the final norm folded in."""
    rotary: nn.Module
    n_heads: int
    n_kv_heads: int
    head_width: int
    norm_eps: float


def extract(model: Any) -> ModelWeights:
    """Lay out the weights of a `SkipLayerForCausalLM`.

    Raises:
        ConfigError: The family has no engine yet; use the masked reference (`model.forward`) instead.
    """
    config = model.config.text_config
    if not family_of(config.model_type).has_engine:
        raise ConfigError(
            f"family {config.model_type!r} has no gathered or branch engine; it runs with backend 'masked' only"
        )
    if getattr(config, "use_sliding_window", False) or (
        config.model_type == "mistral" and getattr(config, "sliding_window", None)
    ):
        raise ConfigError("sliding-window attention has no engine; it runs with backend 'masked' only")
    if model.config.unit != "layer" or model.config.kv != "project":
        raise ConfigError(
            f"unit {model.config.unit!r} with kv {model.config.kv!r} has no gathered or branch engine; it runs with "
            "backend 'masked' only"
        )
    inner = model.lm.model
    norm = inner.norm.weight.detach().float()
    head = model.get_output_embeddings().weight.detach()
    n_kv_heads = config.num_key_value_heads
    return ModelWeights(
        layers=[_layer(layer) for layer in model.layers],
        threshold_offsets=list(model.config.threshold_offsets or [0.0] * len(model.layers)),
        work=model.work,
        embedding=model.get_input_embeddings().weight.detach(),
        head=(head.float() * norm).to(head.dtype),
        rotary=inner.rotary_emb,
        n_heads=config.num_attention_heads,
        n_kv_heads=n_kv_heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        norm_eps=config.rms_norm_eps,
    )


def _layer(layer: Any) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    norm_in, norm_mlp = layer.input_layernorm.weight.float(), layer.post_attention_layernorm.weight.float()
    dtype = attention.q_proj.weight.dtype

    def folded(matrix: Tensor, norm: Tensor) -> Tensor:
        return (matrix.detach().float() * norm.detach()).to(dtype)

    query, key_value = folded(attention.q_proj.weight, norm_in), torch.cat(
        [folded(attention.k_proj.weight, norm_in), folded(attention.v_proj.weight, norm_in)]
    )  # fmt: skip
    biases = [getattr(attention, name).bias for name in ("q_proj", "k_proj", "v_proj")]
    qkv_bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases])
    key_value_bias = None if qkv_bias is None else qkv_bias[len(query) :]
    router, path = layer._modules.get("router"), layer._modules.get("skip_path")
    front = front_bias = None
    if isinstance(router, TokenRouter):
        front = torch.cat([key_value, router.weight.detach().to(dtype)[None]])
        front_bias = torch.zeros(len(front), dtype=dtype, device=front.device)
        if key_value_bias is not None:
            front_bias[:-1] = key_value_bias
        front_bias[-1] = float(router.bias.detach())
    out_bias = attention.o_proj.bias
    return LayerWeights(
        qkv=torch.cat([query, key_value]), qkv_bias=qkv_bias, n_query=len(query),
        out=attention.o_proj.weight.detach(), out_bias=None if out_bias is None else out_bias.detach(),
        gate_up=torch.cat([folded(mlp.gate_proj.weight, norm_mlp), folded(mlp.up_proj.weight, norm_mlp)]),
        mlp_down=mlp.down_proj.weight.detach(),
        query_norm=_norm_of(attention, "q_norm"), key_norm=_norm_of(attention, "k_norm"),
        key_value=key_value, key_value_bias=key_value_bias, front=front, front_bias=front_bias, router=router,
        path=None if path is None or isinstance(path, IdentitySkipPath) else path,
    )  # fmt: skip


def _norm_of(attention: Any, name: str) -> Tensor | None:
    norm = getattr(attention, name, None)
    return None if norm is None else norm.weight.detach()


def shares_router_norm(weights: ModelWeights) -> bool:
    """Whether the family's RMSNorm input equals what the router sees, so that one scaled input serves both."""
    return abs(weights.norm_eps - NORM_EPS) < 1e-12 and weights.embedding.dtype == torch.float32
