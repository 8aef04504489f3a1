"""Executing a routed model with the skipped work left out.

`Engine.hidden` is the gathered backend: per layer, only executed rows meet the large matrices; their queries
attend to the keys and values of all tokens at the true positions. `Engine.step` is the branch backend: one
token, one decision per layer, and a skipped layer touches its K/V, router and skip-path weights only. Both
run densely, through the same kernels, when no routing is given: that is the baseline they are timed against.

Legend: B sequences, T tokens in this call, S key positions, N = B*T rows, X executed rows, D width,
H query heads, G key/value heads, E head width, L layers, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, silu

from skipmodel.engine.attention import Attention
from skipmodel.engine.weights import LayerWeights, extract, shares_router_norm
from skipmodel.gate import execute_mask
from skipmodel.kv_cache import KVCache
from skipmodel.router import normalise
from skipmodel.work import Work


@dataclass(frozen=True)
class Routing:
    """Who decides which token executes which layer.

    Attributes:
        threshold_logit: Execute iff router_logit >= this plus the unit's own offset; -inf executes all.
        force_first_positions: Positions below this always execute.
        override_mask_LBT: Decisions given instead of the routers' (random, static); None asks the routers.
    """

    threshold_logit: float = -math.inf
    force_first_positions: int = 0
    override_mask_LBT: Tensor | None = None


@dataclass(frozen=True)
class EngineOutput:
    """Result of a pass.

    Attributes:
        hidden_BTD: Scaled final hidden states.
        execute_mask_LBT: Who executed what, all layers; None for a dense pass.
        router_logit_LBT: Router logits of the routed layers; empty for a dense pass.
    """

    hidden_BTD: Tensor
    execute_mask_LBT: Tensor | None
    router_logit_LBT: Tensor


class Engine:
    """Executes the weights of a `SkipLayerForCausalLM`; holds its own fused copy of them."""

    def __init__(self, model: Any) -> None:
        self.weights = extract(model)
        self._shared_norm = shares_router_norm(self.weights)
        self.force_first_positions: int = model.config.force_first_positions

    @property
    def device(self) -> torch.device:
        """Where the weights are; token ids go there."""
        return self.weights.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        return self.weights.embedding.dtype

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return len(self.weights.layers)

    @property
    def n_units(self) -> int:
        """Number of units, routed or not; here a unit is a layer."""
        return self.n_layers

    @property
    def routed_units(self) -> list[int]:
        """Numbers of the units, here layers, that tokens may skip."""
        return [index for index, layer in enumerate(self.weights.layers) if layer.is_routed]

    @property
    def threshold_offsets(self) -> list[float]:
        """Per unit, added to the threshold's logit."""
        return self.weights.threshold_offsets

    @property
    def work(self) -> Work:
        """Counted work of the units and of the whole model."""
        return self.weights.work

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """Return an empty cache for this model."""
        w = self.weights
        return KVCache(
            self.n_layers, batch, capacity, w.n_kv_heads, w.head_width, w.embedding.dtype, w.embedding.device
        )

    def routing(self, threshold_logit: float) -> Routing:
        """Return learned routing at this threshold, with the model's own guards."""
        return Routing(threshold_logit, self.force_first_positions)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return vocabulary logits (..., V) of scaled hidden states (..., D)."""
        return linear(hidden, self.weights.head)

    @torch.inference_mode()
    def hidden(
        self,
        ids_BT: Tensor,
        routing: Routing | None = None,
        *,
        cache: KVCache | None = None,
        position_BT: Tensor | None = None,
        allowed_BTS: Tensor | None = None,
        forced_BT: Tensor | None = None,
        margin_BT: Tensor | None = None,
    ) -> EngineOutput:
        """Run all layers over new tokens; gathered where `routing` is given, dense otherwise.

        Args:
            ids_BT: Token ids, (B, T).
            routing: None runs densely.
            cache: Earlier keys and values; extended and advanced by this call.
            position_BT: Rotary positions; counted on from the cache when absent.
            allowed_BTS: Which keys each token may see, (B, T, S); causal when absent. A row must see one key.
            forced_BT: True where a guard forces every layer to run.
            margin_BT: Added to the router logits by a guard, (B, T).
        """
        w = self.weights
        margin_N = 0.0 if margin_BT is None else margin_BT.reshape(-1)
        n_past = 0 if cache is None else cache.length
        n_batch, n_tokens = ids_BT.shape
        if position_BT is None:
            position_BT = torch.arange(n_past, n_past + n_tokens, device=ids_BT.device).expand(n_batch, -1)
        hidden_ND = w.embedding[ids_BT].reshape(n_batch * n_tokens, -1)
        cos, sin = w.rotary(w.embedding[:1, None], position_BT)
        rotary = (cos.reshape(-1, 1, cos.shape[-1]), sin.reshape(-1, 1, sin.shape[-1]))
        is_causal = allowed_BTS is None and n_past == 0
        if allowed_BTS is None:
            key = torch.arange(n_past + n_tokens, device=ids_BT.device)
            query = torch.arange(n_past, n_past + n_tokens, device=ids_BT.device)
            allowed_BTS = (key[None] <= query[:, None]).expand(n_batch, -1, -1)
        forced_N = None
        if routing is not None:
            forced = position_BT < routing.force_first_positions
            forced_N = (forced if forced_BT is None else forced | forced_BT).reshape(-1)
        masks: list[Tensor] = []
        logits: list[Tensor] = []
        for index, layer in enumerate(w.layers):
            attend = Attention(w, index, layer, (n_batch, n_tokens), rotary, allowed_BTS, is_causal, cache)
            if routing is None or not layer.is_routed:
                hidden_ND = self._dense_layer(layer, hidden_ND, attend)
                masks.append(torch.ones(len(hidden_ND), dtype=torch.bool, device=hidden_ND.device))
            else:
                hidden_ND, mask_N, logit_N = self._routed_layer(
                    index, layer, hidden_ND, attend, routing, forced_N, margin_N
                )
                masks.append(mask_N)
                logits.append(logit_N)
        if cache is not None:
            cache.advance(n_tokens)
        scaled = self._scale(hidden_ND).view(n_batch, n_tokens, -1)
        shape = (-1, n_batch, n_tokens)
        mask_LBT = None if routing is None else torch.stack(masks).view(shape)
        logit_LBT = torch.stack(logits).view(shape) if logits else scaled.new_empty(0, n_batch, n_tokens)
        return EngineOutput(scaled, mask_LBT, logit_LBT)

    def _scale(self, hidden: Tensor) -> Tensor:
        """RMSNorm without its weight, which is folded into the matrices behind it."""
        wide = hidden.float()
        return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.weights.norm_eps)).to(hidden.dtype)

    def _mlp(self, layer: LayerWeights, hidden: Tensor) -> Tensor:
        gate, up = linear(self._scale(hidden), layer.gate_up).chunk(2, -1)
        return linear(silu(gate) * up, layer.mlp_down)

    def _dense_layer(self, layer: LayerWeights, hidden_ND: Tensor, attend: Attention) -> Tensor:
        qkv = linear(self._scale(hidden_ND), layer.qkv, layer.qkv_bias)
        attend.store(qkv[:, layer.n_query :])
        attended = attend(qkv[:, : layer.n_query], None)
        hidden_ND = hidden_ND + linear(attended, layer.out, layer.out_bias)
        return hidden_ND + self._mlp(layer, hidden_ND)

    def _routed_layer(
        self,
        index: int,
        layer: LayerWeights,
        hidden_ND: Tensor,
        attend: Attention,
        routing: Routing,
        forced_N: Tensor | None,
        margin_N: Tensor | float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        scaled_ND = self._scale(hidden_ND)
        normal_ND = scaled_ND if self._shared_norm else normalise(hidden_ND)
        key_value, logit_N = self._front(layer, scaled_ND, normal_ND)
        attend.store(key_value)
        if routing.override_mask_LBT is None:
            mask_N = execute_mask(logit_N + margin_N, routing.threshold_logit + self.weights.threshold_offsets[index])
        else:
            mask_N = routing.override_mask_LBT[index].reshape(-1)
        if forced_N is not None:
            mask_N = mask_N | forced_N
        executed = mask_N.nonzero().squeeze(1)
        skipped = (~mask_N).nonzero().squeeze(1)
        result_ND = hidden_ND
        if len(skipped) and layer.path is not None:
            result_ND = hidden_ND.index_add(0, skipped, layer.path(normal_ND[skipped]))
        if len(executed):
            query = linear(scaled_ND[executed], layer.query, layer.query_bias)
            rows_XD = hidden_ND[executed] + linear(attend(query, mask_N), layer.out, layer.out_bias)
            rows_XD = rows_XD + self._mlp(layer, rows_XD)
            result_ND = result_ND.index_copy(0, executed, rows_XD)
        return result_ND, mask_N, logit_N

    def _front(self, layer: LayerWeights, scaled: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
        """Keys, values and router logits of all rows; one product where dtype and norm allow it."""
        if layer.router is None:
            raise AssertionError("the front product exists for routed layers only")
        if self._shared_norm and layer.front is not None:
            front = linear(scaled, layer.front, layer.front_bias)
            return front[..., :-1], front[..., -1]
        return linear(scaled, layer.key_value, layer.key_value_bias), layer.router(normal)

    @torch.inference_mode()
    def step(
        self,
        token: Tensor,
        cache: KVCache,
        routing: Routing | None = None,
        execute_L: list[bool] | None = None,
        *,
        forced: bool = False,
        margin: float = 0.0,
    ) -> tuple[Tensor, int]:
        """Decode one token of one sequence, branching per layer.

        Args:
            token: Token id, (1, 1).
            cache: Holds all earlier positions; extended by this one.
            routing: None runs densely.
            execute_L: Decisions given instead of the routers' (random routing for timings).
            forced: A guard makes this token execute every layer.
            margin: Added to the router logits by a guard.

        Returns:
            Logits (1, V) and the number of layers skipped.
        """
        w = self.weights
        position = torch.full((1, 1), cache.length, device=token.device)
        cos, sin = w.rotary(w.embedding[:1, None], position)
        rotary = (cos.reshape(1, 1, -1), sin.reshape(1, 1, -1))
        hidden = w.embedding[token[0]]
        may_skip = routing is not None and not forced and cache.length >= routing.force_first_positions
        n_skipped = 0
        for index, layer in enumerate(w.layers):
            attend = Attention(w, index, layer, (1, 1), rotary, None, False, cache)
            if not (may_skip and layer.is_routed):
                hidden = self._dense_layer(layer, hidden, attend)
                continue
            scaled = self._scale(hidden)
            normal = scaled if self._shared_norm else normalise(hidden)
            key_value, logit = self._front(layer, scaled, normal)
            attend.store(key_value)
            if routing is not None and execute_L is None:
                runs = logit.item() + margin >= routing.threshold_logit + w.threshold_offsets[index]
            else:
                runs = execute_L is None or execute_L[index]
            if runs:
                attended = attend(linear(scaled, layer.query, layer.query_bias), None)
                hidden = hidden + linear(attended, layer.out, layer.out_bias)
                hidden = hidden + self._mlp(layer, hidden)
            else:
                n_skipped += 1
                if layer.path is not None:
                    hidden = hidden + layer.path(normal)
        cache.advance(1)
        return self.logits(self._scale(hidden)), n_skipped
