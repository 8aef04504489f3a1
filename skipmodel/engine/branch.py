"""The branch backend: one token of one sequence, one decision per layer, and the least that a step can cost.

A step is bound by reading weights, and what is not reading weights is dispatching small operations: some microseconds
each, thirty layers long. So a token is a vector here, the router is asked by one dot product *before* queries, keys
and values are computed, an executed layer is then the very same products as in the dense model, and a skipped layer
one product for keys, values and the inner rows of its skip path, and one for the path's outer ones.

Legend: D width, H query heads, G key/value heads, E head width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from skipmodel.engine.attention import capped_attention, head_norm
from skipmodel.engine.positions import Angles, rotate
from skipmodel.engine.weights import LayerWeights, ModelWeights, SkipWeights, path_onto, rms_factor
from skipmodel.kv_cache import KVCache
from skipmodel.router import NORM_EPS

if TYPE_CHECKING:
    from skipmodel.engine.positions import RotaryTables

Decide = Callable[[int, float], bool]
"""Takes the number of a layer and its router logit; says whether the layer runs."""


class Branch:
    """Steps of batch-1 decoding over the weights of one model."""

    def __init__(self, weights: ModelWeights, tables: RotaryTables) -> None:
        self.w, self.tables = weights, tables
        self._is_rms = weights.norm == "rms"
        self._width = weights.embedding.shape[1]
        self._on_cpu = weights.embedding.device.type == "cpu"

    def step(self, token_id: int | Tensor, cache: KVCache, decide: Decide | None) -> tuple[Tensor, int]:
        """Feed one token; `decide` None runs densely.

        Args:
            token_id: The token, a number or a tensor of one element.
            cache: Holds all earlier positions; extended by this one.
            decide: Asked at every layer that can be skipped.

        Returns:
            Final hidden state (D,), scaled, and the number of layers skipped.
        """
        w, position = self.w, cache.length
        cache.room_for(1)
        self.tables.reach(position + 1)
        angles, kept = self.tables.of_token(position, w.n_heads, w.n_kv_heads)
        hidden = w.embedding[token_id].reshape(-1)
        if w.embedding_scale != 1.0:
            hidden = hidden * w.embedding_scale
        if w.positions_PD is not None:
            hidden = hidden + w.positions_PD[position]
        n_skipped = 0
        for index, layer in enumerate(w.layers):
            skip = layer.skip
            turned = None if layer.rotary is None else angles[layer.rotary]
            if decide is None or skip is None:
                hidden = self._execute(index, layer, hidden, self._scale(hidden), cache, turned)
                continue
            scaled = self._scale(hidden)
            normal = scaled if w.router_shares_norm else self._rms(hidden, NORM_EPS)
            if decide(index, self._router_logit(skip, normal)):
                hidden = self._execute(index, layer, hidden, scaled, cache, turned)
            else:
                n_skipped += 1
                still = None if layer.rotary is None else kept[layer.rotary]
                hidden = self._skip(index, layer, skip, hidden, scaled, normal, cache, still)
        cache.advance(1)
        return self._scale(hidden), n_skipped

    def _scale(self, hidden: Tensor) -> Tensor:
        return self._rms(hidden, self.w.norm_eps) if self._is_rms else self.w.scale(hidden)

    def _rms(self, hidden: Tensor, eps: float) -> Tensor:
        wide = hidden if hidden.dtype == torch.float32 else hidden.float()
        if not self._on_cpu:  # reading the number would wait for the device
            return (wide * rms_factor(wide, eps)).to(hidden.dtype)
        scaled = wide * (1.0 / math.sqrt(torch.dot(wide, wide).item() / self._width + eps))
        return scaled if hidden.dtype == torch.float32 else scaled.to(hidden.dtype)

    def _router_logit(self, skip: SkipWeights, normal: Tensor) -> float:
        if skip.router_D is None:
            return float(skip.router(normal[None]))
        wide = normal if normal.dtype == torch.float32 else normal.float()
        return torch.dot(skip.router_D, wide).item() + skip.router_bias

    def _execute(
        self, index: int, layer: LayerWeights, hidden: Tensor, scaled: Tensor, cache: KVCache, turned: Angles | None
    ) -> Tensor:
        w = self.w
        n_heads, n_groups = w.n_heads, w.n_kv_heads
        heads = layer.qkv.vector(scaled).view(n_heads + 2 * n_groups, -1)
        if layer.query_norm_E is not None:
            query, key, value = heads.split([n_heads, n_groups, n_groups])
            heads = torch.cat([head_norm(query, layer.query_norm_E, w.norm_eps),
                               head_norm(key, layer.key_norm_E, w.norm_eps), value])  # fmt: skip
        if turned is not None:
            heads = rotate(heads, turned, w.rotary_width)
        cache.write(index, heads.narrow(0, n_heads, 2 * n_groups))
        key, value = cache.read(index)
        query = heads.narrow(0, 0, n_heads).view(1, n_groups, n_heads // n_groups, -1)
        if layer.window is not None and key.shape[2] > layer.window:
            key, value = key[:, :, -layer.window :], value[:, :, -layer.window :]
        if w.attention_cap is None:
            attended = scaled_dot_product_attention(query, key, value, scale=w.attention_scale).view(-1)
        else:
            attended = capped_attention(w, query.reshape(1, 1, n_heads, -1), key, value, None).reshape(-1)
        if layer.attention_norm_D is not None:
            after = hidden + self._normed(layer.out.vector(attended), layer.attention_norm_D)
        else:
            after = layer.out.add_vector(hidden, attended)
        inner = layer.up.vector(self._scale(hidden if w.is_parallel else after))
        if w.is_gated:
            gate, up = inner.chunk(2)
            inner = w.activation(gate) * up
        else:
            inner = w.activation(inner)
        if layer.mlp_norm_D is not None:
            return after + self._normed(layer.down.vector(inner), layer.mlp_norm_D)
        return layer.down.add_vector(after, inner)

    def _normed(self, update: Tensor, weight_D: Tensor) -> Tensor:
        return self._rms(update, self.w.norm_eps) * weight_D

    def _skip(
        self, index: int, layer: LayerWeights, skip: SkipWeights, hidden: Tensor, scaled: Tensor, normal: Tensor,
        cache: KVCache, turned: Angles | None,
    ) -> Tensor:  # fmt: skip
        w = self.w
        n_groups = w.n_kv_heads
        rows = skip.key_value.vector(scaled)
        n_kept = 2 * n_groups * w.head_width
        heads = rows.narrow(0, 0, n_kept).view(2 * n_groups, -1)
        if layer.key_norm_E is not None:
            key, value = heads.chunk(2)
            heads = torch.cat([head_norm(key, layer.key_norm_E, w.norm_eps), value])
        if turned is not None:
            heads = rotate(heads, turned, w.rotary_width)
        cache.write(index, heads)
        if skip.path_up is None:
            return hidden
        if skip.path_down is None or skip.is_path_in_front:
            inner = rows.narrow(0, n_kept, len(rows) - n_kept)
        else:
            inner = skip.path_down.vector(normal)
        return path_onto(skip, hidden, inner)
