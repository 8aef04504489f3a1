"""Reading the weights of each supported family into the one shape of `skipmodel.engine.weights`.

Legend: D width, F inner width of the MLP, A query width (heads x head width), C key width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers.activations import ACT2FN

from skipmodel.engine.matrix import Matrix
from skipmodel.engine.weights import LayerWeights, ModelWeights, path_rows, skip_weights
from skipmodel.errors import ConfigError


@dataclass
class RawLayer:
    """The parts of a layer as the family keeps them, matrices as (out, in)."""

    qkv: list[Tensor]
    qkv_bias: list[Tensor] | None
    out: Tensor
    out_bias: Tensor | None
    up: list[Tensor]
    up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    norm_in: tuple[Tensor, Tensor | None]
    norm_mlp: tuple[Tensor, Tensor | None]
    query_norm: Tensor | None = None
    key_norm: Tensor | None = None
    attention_norm: Tensor | None = None
    mlp_norm: Tensor | None = None


def extract(model: Any, *, is_int8: bool = False) -> ModelWeights:
    """Lay out the weights of a `SkipLayerForCausalLM`.

    Raises:
        ConfigError: The model needs the masked backend; the message says why.
    """
    refused = why_not(model)
    if refused:
        raise ConfigError(f"{refused} has no gathered or branch engine; it runs with backend 'masked' only")
    config, inner = model.config.text_config, _inner(model)
    family = config.model_type
    is_gemma = family.startswith("gemma")
    has_layer_norm = family in LAYER_NORM
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    scale = getattr(config, "query_pre_attn_scalar", None) or width
    rotary = getattr(inner, "rotary_emb", None)
    embedding = model.get_input_embeddings().weight.detach()
    final, final_bias = _norm(inner.get_submodule(FINAL_NORM[family]), is_gemma)
    head, head_bias = _folded([model.get_output_embeddings().weight.detach()], None, (final, final_bias))
    weights = ModelWeights(
        layers=[], threshold_offsets=list(model.config.threshold_offsets or [0.0] * len(model.layers)),
        work=model.work, embedding=embedding,
        embedding_scale=float(torch.tensor(config.hidden_size**0.5).to(embedding.dtype)) if is_gemma else 1.0,
        positions_PD=_positions(inner, family), head=Matrix(head, head_bias),
        logit_cap=getattr(config, "final_logit_softcapping", None), norm="layer" if has_layer_norm else "rms",
        norm_eps=_eps(config) if has_layer_norm else config.rms_norm_eps,
        activation=_activation(config), is_gated=not has_layer_norm,
        is_parallel=bool(getattr(config, "use_parallel_residual", False)), n_heads=heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or heads, head_width=width,
        rotary_width=int(width * _partial(config)), attention_scale=scale**-0.5,
        attention_cap=getattr(config, "attn_logit_softcapping", None), rotary=rotary,
    )  # fmt: skip
    for index, layer in enumerate(model.layers):
        raw = _READERS.get(family, _read_llama)(layer, config)
        weights.layers.append(_lay_out(weights, config, index, layer, raw, is_int8))
    return weights


def why_not(model: Any) -> str | None:
    """Return what about a model keeps it from the engine, in words; None if nothing does."""
    config, text = model.config, model.config.text_config
    if config.unit != "layer" or config.kv != "project":
        return f"unit {config.unit!r} with kv {config.kv!r}"
    if text.model_type not in FINAL_NORM:
        return f"family {text.model_type!r}"
    kinds = _rope_kinds(getattr(_inner(model), "rotary_emb", None))
    reasons = {
        "OPT with norms behind its sub-layers": not getattr(text, "do_layer_norm_before", True),
        "OPT with a projected embedding": getattr(text, "word_embed_proj_dim", text.hidden_size) != text.hidden_size,
        "GPT-2 with its own scaling of attention": (
            getattr(text, "scale_attn_by_inverse_layer_idx", False) or not getattr(text, "scale_attn_weights", True)
        ),
        "attention to later tokens": getattr(text, "use_bidirectional_attention", False),
        f"rotary positions that change with the length ({', '.join(sorted(kinds))})": (
            "longrope" in kinds or any("dynamic" in kind for kind in kinds)
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


LAYER_NORM = ("gpt2", "gpt_neox", "opt")
"""Families with LayerNorm, biases and a plain MLP; the others have RMSNorm and a gated one."""
FINAL_NORM = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"), "norm"),
    "gpt2": "ln_f", "gpt_neox": "final_layer_norm", "opt": "final_layer_norm",
}  # fmt: skip


def _inner(model: Any) -> Any:
    """Return the module that holds layers, final norm and rotary angles."""
    base = model.lm.base_model
    return getattr(base, "decoder", base)


def _lay_out(weights: ModelWeights, config: Any, index: int, layer: Any, raw: RawLayer, is_int8: bool) -> LayerWeights:
    dtype = raw.out.dtype
    front, bias = _folded(raw.qkv, raw.qkv_bias, raw.norm_in)
    n_query, n_qkv = len(raw.qkv[0]), len(front)
    inner_rows = path_rows(layer)
    path_in_front = inner_rows is not None and weights.router_shares_norm
    if inner_rows is not None and path_in_front:
        front = torch.cat([front, inner_rows.to(dtype)])
        bias = None if bias is None else torch.cat([bias, bias.new_zeros(len(inner_rows))])
    fused = Matrix(front, bias, is_int8=is_int8)
    up, up_bias = _folded(raw.up, None if raw.up_bias is None else [raw.up_bias], raw.norm_mlp)
    kinds = getattr(config, "layer_types", None)
    kind = kinds[index] if kinds else None
    rotary = None if weights.rotary is None else (kind if isinstance(weights.rotary.rope_type, dict) else "all")
    return LayerWeights(
        qkv=fused.part(0, n_qkv), query=fused.part(0, n_query), kept=fused.part(n_query, n_qkv),
        out=Matrix(raw.out.detach(), _detached(raw.out_bias), is_int8=is_int8),
        up=Matrix(up, up_bias, is_int8=is_int8),
        down=Matrix(raw.down.detach(), _detached(raw.down_bias), is_int8=is_int8),
        query_norm_E=raw.query_norm, key_norm_E=raw.key_norm, attention_norm_D=raw.attention_norm,
        mlp_norm_D=raw.mlp_norm, rotary=rotary, window=_window(config, kind),
        skip=skip_weights(layer, fused, (n_query, n_qkv), path_in_front),
    )  # fmt: skip


def _folded(
    parts: list[Tensor], biases: list[Tensor] | None, norm: tuple[Tensor, Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    """Stack matrices and fold the norm before them in: W (n * g + b) + c = (W g) n + (W b + c)."""
    dtype = parts[0].dtype
    matrix = torch.cat([part.detach().float() for part in parts])
    weight, shift = norm
    bias = None if biases is None else torch.cat([bias.detach().float() for bias in biases])
    if shift is not None:
        shifted = matrix @ shift
        bias = shifted if bias is None else bias + shifted
    return (matrix * weight).to(dtype), None if bias is None else bias.to(dtype)


def _norm(module: Any, is_gemma: bool = False) -> tuple[Tensor, Tensor | None]:
    """Weights and bias of a norm in float32; Gemma stores its weights less one, OPT may have none."""
    if module.weight is None:
        return torch.ones(module.normalized_shape), None
    weight = module.weight.detach().float()
    bias = getattr(module, "bias", None)
    return weight + 1.0 if is_gemma else weight, None if bias is None else bias.detach().float()


def _detached(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach()


def _read_llama(layer: Any, config: Any) -> RawLayer:
    attention, mlp = layer.self_attn, layer.mlp
    is_gemma = config.model_type.startswith("gemma")
    biases = [attention.q_proj.bias, attention.k_proj.bias, attention.v_proj.bias]
    has_four = hasattr(layer, "pre_feedforward_layernorm")

    def behind(owner: Any, name: str) -> Tensor | None:
        module = getattr(owner, name, None)
        return None if module is None else _norm(module, is_gemma)[0].to(attention.o_proj.weight.dtype)

    return RawLayer(
        qkv=[attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight],
        qkv_bias=None if biases[0] is None else biases,
        out=attention.o_proj.weight, out_bias=attention.o_proj.bias,
        up=[mlp.gate_proj.weight, mlp.up_proj.weight],
        up_bias=None if mlp.up_proj.bias is None else torch.cat([mlp.gate_proj.bias, mlp.up_proj.bias]),
        down=mlp.down_proj.weight, down_bias=mlp.down_proj.bias,
        norm_in=_norm(layer.input_layernorm, is_gemma),
        norm_mlp=_norm(layer.pre_feedforward_layernorm if has_four else layer.post_attention_layernorm, is_gemma),
        query_norm=behind(attention, "q_norm"), key_norm=behind(attention, "k_norm"),
        attention_norm=behind(layer, "post_attention_layernorm") if has_four else None,
        mlp_norm=behind(layer, "post_feedforward_layernorm") if has_four else None,
    )  # fmt: skip


def _read_gpt2(layer: Any, config: Any) -> RawLayer:
    attention, mlp = layer.attn, layer.mlp
    return RawLayer(
        qkv=list(attention.c_attn.weight.t().chunk(3)), qkv_bias=list(attention.c_attn.bias.chunk(3)),
        out=attention.c_proj.weight.t(), out_bias=attention.c_proj.bias,
        up=[mlp.c_fc.weight.t()], up_bias=mlp.c_fc.bias, down=mlp.c_proj.weight.t(), down_bias=mlp.c_proj.bias,
        norm_in=_norm(layer.ln_1), norm_mlp=_norm(layer.ln_2),
    )  # fmt: skip


def _read_gpt_neox(layer: Any, config: Any) -> RawLayer:
    fused, mlp = layer.attention.query_key_value, layer.mlp
    heads = config.num_attention_heads
    # Rows come head by head: queries, keys and values of one head, then of the next.
    qkv = [part.flatten(0, 1) for part in fused.weight.unflatten(0, (heads, 3, -1)).unbind(1)]
    bias = (
        None if fused.bias is None else [part.flatten() for part in fused.bias.unflatten(0, (heads, 3, -1)).unbind(1)]
    )
    return RawLayer(
        qkv=qkv, qkv_bias=bias, out=layer.attention.dense.weight, out_bias=layer.attention.dense.bias,
        up=[mlp.dense_h_to_4h.weight], up_bias=mlp.dense_h_to_4h.bias,
        down=mlp.dense_4h_to_h.weight, down_bias=mlp.dense_4h_to_h.bias,
        norm_in=_norm(layer.input_layernorm), norm_mlp=_norm(layer.post_attention_layernorm),
    )  # fmt: skip


def _read_opt(layer: Any, config: Any) -> RawLayer:
    attention = layer.self_attn
    parts = [attention.q_proj, attention.k_proj, attention.v_proj]
    return RawLayer(
        qkv=[part.weight for part in parts],
        qkv_bias=None if parts[0].bias is None else [part.bias for part in parts],
        out=attention.out_proj.weight, out_bias=attention.out_proj.bias,
        up=[layer.fc1.weight], up_bias=layer.fc1.bias, down=layer.fc2.weight, down_bias=layer.fc2.bias,
        norm_in=_norm(layer.self_attn_layer_norm), norm_mlp=_norm(layer.final_layer_norm),
    )  # fmt: skip


_READERS: dict[str, Callable[[Any, Any], RawLayer]] = {
    "gpt2": _read_gpt2, "gpt_neox": _read_gpt_neox, "opt": _read_opt,
}  # fmt: skip


def _positions(inner: Any, family: str) -> Tensor | None:
    if family == "gpt2":
        learned: Tensor = inner.wpe.weight.detach()
        return learned
    if family == "opt":
        shifted: Tensor = inner.embed_positions.weight.detach()[inner.embed_positions.offset :]
        return shifted
    return None


def _eps(config: Any) -> float:
    """LayerNorm epsilon; OPT has torch's default and no setting."""
    for name in ("layer_norm_epsilon", "layer_norm_eps"):
        if hasattr(config, name):
            return float(getattr(config, name))
    return 1e-5


def _activation(config: Any) -> Callable[[Tensor], Tensor]:
    names = ("hidden_activation", "hidden_act", "activation_function")
    name = next(value for value in (getattr(config, name, None) for name in names) if value is not None)
    activation: Callable[[Tensor], Tensor] = silu if name == "silu" else ACT2FN[name]
    return activation


def _partial(config: Any) -> float:
    parameters = getattr(config, "rope_parameters", None) or {}
    return float(parameters.get("partial_rotary_factor", 1.0) or 1.0)


def _rope_kinds(rotary: Any) -> set[str]:
    kind = getattr(rotary, "rope_type", None)
    if kind is None:
        return set()
    return set(kind.values()) if isinstance(kind, dict) else {kind}


def _window(config: Any, kind: str | None) -> int | None:
    window: int | None = getattr(config, "sliding_window", None)
    if config.model_type == "mistral" or kind == "sliding_attention":
        return window
    return None
