"""Attention inside the engine: queries of executed rows against keys and values of all rows.

Legend: B sequences, T tokens in this call, S key positions, N = B*T rows, X executed rows, K widest row count,
H query heads, G key/value heads, E head width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from skipmodel.engine.weights import LayerWeights, ModelWeights
from skipmodel.kv_cache import KVCache


class Attention:
    """Attention of one layer in one call: rotary positions, keys and values of all rows, queries of some."""

    def __init__(
        self,
        weights: ModelWeights,
        index: int,
        layer: LayerWeights,
        shape: tuple[int, int],
        rotary: tuple[Tensor, Tensor],
        allowed_BTS: Tensor | None,
        is_causal: bool,
        cache: KVCache | None,
    ) -> None:
        self.w, self.index, self.layer, self.shape = weights, index, layer, shape
        self.cos, self.sin = rotary
        self.allowed_BTS, self.is_causal, self.cache = allowed_BTS, is_causal, cache

    def store(self, key_value_N: Tensor) -> None:
        """Take keys and values of all rows, (N, 2*G*E); put them in the cache if there is one."""
        n_batch, n_tokens = self.shape
        key, value = key_value_N.view(n_batch * n_tokens, 2 * self.w.n_kv_heads, -1).chunk(2, 1)
        if self.layer.key_norm is not None:
            key = self._head_norm(key, self.layer.key_norm)
        key = _rotate(key, self.cos, self.sin)
        key, value = (part.view(n_batch, n_tokens, self.w.n_kv_heads, -1).transpose(1, 2) for part in (key, value))
        if self.cache is not None:
            key, value = self.cache.append(self.index, key, value)
        self.key_BGSE, self.value_BGSE = key, value

    def __call__(self, query: Tensor, mask_N: Tensor | None) -> Tensor:
        """Attend from the rows of `mask_N` (all when None); query is (X, H*E), the result too."""
        (n_batch, n_tokens), w = self.shape, self.w
        query = query.view(len(query), w.n_heads, -1)
        if self.layer.query_norm is not None:
            query = self._head_norm(query, self.layer.query_norm)
        cos, sin = (self.cos, self.sin) if mask_N is None else (self.cos[mask_N], self.sin[mask_N])
        query = _rotate(query, cos, sin)
        if mask_N is None:
            query_BTHE = query.view(n_batch, n_tokens, w.n_heads, -1)
            return self._attend(query_BTHE, self.allowed_BTS, self.is_causal).flatten(0, 1).flatten(1)
        if self.allowed_BTS is None:
            raise AssertionError("gathered attention needs the mask of allowed keys")
        mask_BT = mask_N.view(n_batch, n_tokens)
        if n_batch == 1:
            allowed_BXS = self.allowed_BTS[:, mask_BT[0]]
            return self._attend(query[None], allowed_BXS, False)[0].flatten(1)
        # Ragged rows: lay each sequence's executed rows side by side, padded to the longest.
        column = (mask_BT.long().cumsum(1) - 1)[mask_BT]
        row = torch.arange(n_batch, device=mask_BT.device)[:, None].expand_as(mask_BT)[mask_BT]
        widest = int(mask_BT.sum(1).max())
        padded_BKHE = query.new_zeros(n_batch, widest, w.n_heads, query.shape[-1])
        padded_BKHE[row, column] = query
        allowed_BKS = self.allowed_BTS.new_zeros(n_batch, widest, self.allowed_BTS.shape[-1])
        allowed_BKS[..., 0] = True  # padding rows must see something, or softmax gives NaN
        allowed_BKS[row, column] = self.allowed_BTS[mask_BT]
        return self._attend(padded_BKHE, allowed_BKS, False)[row, column].flatten(1)

    def _attend(self, query_BTHE: Tensor, allowed_BTS: Tensor | None, is_causal: bool) -> Tensor:
        n_batch, n_queries, n_heads, width = query_BTHE.shape
        n_groups = self.w.n_kv_heads
        share = n_heads // n_groups
        if is_causal:
            key, value = (part.repeat_interleave(share, 1) for part in (self.key_BGSE, self.value_BGSE))
            out = scaled_dot_product_attention(query_BTHE.transpose(1, 2), key, value, is_causal=True)
            return out.transpose(1, 2)
        # Query heads that share keys become extra query rows, so keys are not copied per head.
        query = query_BTHE.view(n_batch, n_queries, n_groups, share, width).permute(0, 2, 3, 1, 4)
        query = query.reshape(n_batch, n_groups, share * n_queries, width)
        allowed = None if allowed_BTS is None else allowed_BTS[:, None].repeat(1, 1, share, 1)
        out = scaled_dot_product_attention(query, self.key_BGSE, self.value_BGSE, attn_mask=allowed)
        out = out.view(n_batch, n_groups, share, n_queries, width).permute(0, 3, 1, 2, 4)
        return out.reshape(n_batch, n_queries, n_heads, width)

    def _head_norm(self, heads: Tensor, weight: Tensor) -> Tensor:
        wide = heads.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.w.norm_eps)).to(heads.dtype) * weight


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, halves convention; heads (N, heads, E), cos and sin (N, 1, E)."""
    first, second = heads.chunk(2, -1)
    return heads * cos + torch.cat([-second, first], -1) * sin
