"""Attention inside the engine: queries of executed rows against keys and values of all rows.

Queries go in chunks, each against the keys up to its last position only: a causal call then does about half of the
products, whether all rows execute or some.

Legend: B sequences, T tokens in this call, S key positions, N = B*T rows, X executed rows, K columns (executed rows of
a sequence side by side), C columns of a chunk, H query heads, G key/value heads, E head width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from skipmodel.engine.positions import Angles, rotate
from skipmodel.engine.weights import LayerWeights, ModelWeights, rms_factor
from skipmodel.kv_cache import KVCache

CHUNK = 128
"""Tokens that the queries of a chunk lie within. Fewer save more products and make smaller ones."""


@dataclass(frozen=True)
class Pass:
    """What all layers of a call share."""

    shape: tuple[int, int]
    n_past: int
    angles: dict[str, Angles]
    allowed_BTS: Tensor | None
    """Which keys each token may see; None is causal."""
    cache: KVCache | None


class Attention:
    """Attention of one layer in one call."""

    def __init__(self, weights: ModelWeights, index: int, layer: LayerWeights, call: Pass) -> None:
        self.w, self.index, self.layer, self.call = weights, index, layer, call
        self.angles = None if layer.rotary is None else call.angles[layer.rotary]

    def store(self, key_value_N: Tensor) -> None:
        """Take keys and values of all rows, (N, 2*G*E); put them in the cache if there is one."""
        n_batch, n_tokens = self.call.shape
        n_heads = self.w.n_kv_heads
        key, value = key_value_N.view(n_batch * n_tokens, 2 * n_heads, -1).split(n_heads, 1)
        key = head_norm(key, self.layer.key_norm_E, self.w.norm_eps)
        if self.angles is not None:
            key = rotate(key, self.angles, self.w.rotary_width)
        if self.call.cache is None:
            self.key_BGSE, self.value_BGSE = (
                part.reshape(n_batch, n_tokens, n_heads, -1).transpose(1, 2) for part in (key, value)
            )
        else:
            joined = torch.cat([key, value], 1).view(n_batch, n_tokens, 2 * n_heads, -1).transpose(1, 2)
            self.key_BGSE, self.value_BGSE = self.call.cache.append(self.index, joined)

    def __call__(self, query: Tensor, rows_X: Tensor | None) -> Tensor:
        """Attend from some rows, all when None; query is (X, H*E), the result too.

        Args:
            query: Queries of those rows.
            rows_X: Their numbers in 0..N, rising.
        """
        (n_batch, n_tokens), w = self.call.shape, self.w
        query = head_norm(query.view(len(query), w.n_heads, -1), self.layer.query_norm_E, w.norm_eps)
        angles = self.angles
        if angles is not None:
            if rows_X is not None:
                angles = Angles(angles.cos.index_select(0, rows_X), angles.sin.index_select(0, rows_X))
            query = rotate(query, angles, w.rotary_width)
        if rows_X is None:
            return self._all(query.view(n_batch, n_tokens, w.n_heads, -1)).flatten(0, 1).flatten(1)
        if n_batch == 1:
            return self._chunks(query[None], rows_X[None])[0].flatten(1)
        if n_tokens == 1:
            return self._some_sequences(query, rows_X)
        # Ragged rows: lay each sequence's executed rows side by side, padded to the longest.
        sequence_X = rows_X // n_tokens
        n_rows_B = torch.bincount(sequence_X, minlength=n_batch)
        column_X = torch.arange(len(rows_X), device=rows_X.device) - (n_rows_B.cumsum(0) - n_rows_B)[sequence_X]
        widest = int(n_rows_B.max())
        padded_BKHE = query.new_zeros(n_batch, widest, w.n_heads, query.shape[-1])
        padded_BKHE[sequence_X, column_X] = query
        at_BK = rows_X.new_zeros(n_batch, widest)  # padding looks at what the first token sees
        at_BK[sequence_X, column_X] = rows_X % n_tokens
        return self._chunks(padded_BKHE, at_BK)[sequence_X, column_X].flatten(1)

    def _some_sequences(self, query_XHE: Tensor, rows_X: Tensor) -> Tensor:
        """One token per sequence: attend sequence by sequence, so that keys of those that skip are not read."""
        keys, values, allowed = self.key_BGSE, self.value_BGSE, self.call.allowed_BTS
        out = [
            self._attend(query_XHE[None, column : column + 1], keys[row : row + 1], values[row : row + 1],
                         self._window_of_last(None if allowed is None else allowed[row : row + 1], keys.shape[2]))
            for column, row in enumerate(rows_X.tolist())
        ]  # fmt: skip
        return torch.cat(out).flatten(1)

    def _all(self, query_BTHE: Tensor) -> Tensor:
        """Attend from all tokens; GPUs have a causal kernel of their own, which needs no chunks."""
        call = self.call
        at_first = call.n_past == 0 and call.allowed_BTS is None and call.shape[1] > 1
        within = self.layer.window is None or call.shape[1] <= self.layer.window
        if query_BTHE.device.type != "cpu" and at_first and within and self.w.attention_cap is None:
            return self._attend(query_BTHE, self.key_BGSE, self.value_BGSE, None, is_causal=True)
        return self._chunks(query_BTHE, torch.arange(call.shape[1], device=query_BTHE.device)[None])

    def _chunks(self, query_BKHE: Tensor, at_BK: Tensor) -> Tensor:
        """Attend chunk by chunk; `at_BK` tells which token of its sequence each column is."""
        (_, n_tokens), allowed_BTS = self.call.shape, self.call.allowed_BTS
        n_keys = self.key_BGSE.shape[2]
        if n_tokens == 1:
            return self._attend(query_BKHE, self.key_BGSE, self.value_BGSE, self._window_of_last(allowed_BTS, n_keys))
        at_BK = at_BK.expand(len(query_BKHE), -1)
        parts = []
        # As many chunks as if all tokens were queries: then the keys a chunk reads in vain are as few for it, too.
        size = math.ceil(query_BKHE.shape[1] / math.ceil(n_tokens / CHUNK))
        for first in range(0, query_BKHE.shape[1], size):
            at_BC = at_BK[:, first : first + size]
            if allowed_BTS is None:
                n_seen = self.call.n_past + int(at_BC.max()) + 1
                last_BC1 = (self.call.n_past + at_BC)[..., None]
                key_S = torch.arange(n_seen, device=at_BC.device)
                allowed_BCS = key_S <= last_BC1
                if self.layer.window is not None and n_seen > self.layer.window:
                    allowed_BCS &= key_S > last_BC1 - self.layer.window
            else:
                n_seen = n_keys
                allowed_BCS = allowed_BTS.gather(1, at_BC[..., None].expand(-1, -1, n_keys))
                if self.layer.window is not None:
                    key_S = torch.arange(n_keys, device=at_BC.device)
                    allowed_BCS = allowed_BCS & (key_S > (self.call.n_past + at_BC)[..., None] - self.layer.window)
            parts.append(
                self._attend(query_BKHE[:, first : first + size], self.key_BGSE[:, :, :n_seen],
                             self.value_BGSE[:, :, :n_seen], allowed_BCS)
            )  # fmt: skip
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

    def _window_of_last(self, allowed_B1S: Tensor | None, n_keys: int) -> Tensor | None:
        """Mask of the newest token, which sees all keys (None) but for its window."""
        window = self.layer.window
        if window is None or n_keys <= window:
            return allowed_B1S
        near_S = torch.arange(n_keys, device=self.key_BGSE.device) >= n_keys - window
        return near_S.expand(1, 1, -1) if allowed_B1S is None else allowed_B1S & near_S

    def _attend(
        self, query_BCHE: Tensor, key_BGSE: Tensor, value_BGSE: Tensor, allowed_BCS: Tensor | None,
        is_causal: bool = False,
    ) -> Tensor:  # fmt: skip
        n_batch, n_queries, n_heads, width = query_BCHE.shape
        w = self.w
        if w.attention_cap is not None:
            return capped_attention(w, query_BCHE, key_BGSE, value_BGSE, allowed_BCS)
        share = n_heads // w.n_kv_heads
        if n_queries > 1:
            if query_BCHE.device.type != "cpu" and share > 1:  # its fast kernels want as many key heads as query heads
                key_BGSE, value_BGSE = (part.repeat_interleave(share, 1) for part in (key_BGSE, value_BGSE))
            out = scaled_dot_product_attention(
                query_BCHE.transpose(1, 2), key_BGSE, value_BGSE, scale=w.attention_scale,
                attn_mask=None if allowed_BCS is None else allowed_BCS[:, None],
                is_causal=is_causal, enable_gqa=key_BGSE.shape[1] != n_heads,
            )  # fmt: skip
            return out.transpose(1, 2)
        # Query heads that share keys become query rows, so that keys are read once for all of them.
        query = query_BCHE.reshape(n_batch, w.n_kv_heads, share, width)
        allowed = None if allowed_BCS is None else allowed_BCS[:, None].expand(-1, -1, share, -1)
        out = scaled_dot_product_attention(query, key_BGSE, value_BGSE, attn_mask=allowed, scale=w.attention_scale)
        return out.reshape(n_batch, 1, n_heads, width)


def capped_attention(
    w: ModelWeights, query_BCHE: Tensor, key_BGSE: Tensor, value_BGSE: Tensor, allowed_BCS: Tensor | None
) -> Tensor:
    """Attend with scores kept within a bound: cap * tanh(score / cap), as Gemma 2; result (B, C, H, E)."""
    cap, share = w.attention_cap or 1.0, w.n_heads // w.n_kv_heads
    key, value = (part.repeat_interleave(share, 1) for part in (key_BGSE, value_BGSE))
    score_BHCS = query_BCHE.transpose(1, 2) @ key.transpose(2, 3) * w.attention_scale
    score_BHCS = torch.tanh(score_BHCS / cap) * cap
    if allowed_BCS is not None:
        score_BHCS = score_BHCS.masked_fill(~allowed_BCS[:, None], float("-inf"))
    return (score_BHCS.softmax(-1, dtype=torch.float32).to(value.dtype) @ value).transpose(1, 2)


def head_norm(heads: Tensor, weight_E: Tensor | None, eps: float) -> Tensor:
    """RMSNorm over the last dimension: heads of Qwen 3 and Gemma 3, updates of Gemma 2 and 3; unchanged if None."""
    if weight_E is None:
        return heads
    wide = heads.float()
    return (wide * rms_factor(wide, eps)).to(heads.dtype) * weight_E
