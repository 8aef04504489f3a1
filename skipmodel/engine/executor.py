"""Executing a routed model with the skipped work left out.

`Engine.hidden` is the gathered backend: per layer, only executed rows meet the large matrices; their queries
attend to the keys and values of all tokens at the true positions. `Engine.step` is the branch backend
(`skipmodel.engine.branch`): one token, one decision per layer, and a skipped layer touches its K/V, router and
skip-path weights only. Both run densely, through the same kernels, when no routing is given: that is the baseline
they are timed against.

Legend: B sequences, T tokens in this call, S key positions, N = B*T rows, X executed rows, D width,
H query heads, G key/value heads, E head width, L layers, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipmodel.engine.attention import Attention, Pass, head_norm
from skipmodel.engine.branch import Branch, Decide
from skipmodel.engine.layouts import extract
from skipmodel.engine.matrix import BLOCKED_ROWS
from skipmodel.engine.positions import RotaryTables
from skipmodel.engine.weights import LayerWeights, SkipWeights, path_update
from skipmodel.gate import execute_mask
from skipmodel.kv_cache import KVCache
from skipmodel.router import normalise
from skipmodel.work import Work

ROW_MULTIPLE = 16
"""Products of 410 rows take 4 to 15 % longer than those of 416 (float32, AVX2), but for those in blocks."""


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
    """Executes the weights of a `SkipLayerForCausalLM`; holds its own fused copy of them.

    Args:
        model: The model; its vocabulary matrix and norms are copied too.
        is_int8: Keep the matrices of the layers as int8 (`skipmodel.int8`); embedding and vocabulary stay.

    Attributes:
        group_rows: Executed rows that go through a layer's matrices at once in a gathered pass; 0 for all.
    """

    def __init__(self, model: Any, *, is_int8: bool = False) -> None:
        self.weights = extract(model, is_int8=is_int8)
        self.is_int8 = is_int8
        self.group_rows = 0
        self.force_first_positions: int = model.config.force_first_positions
        self._tables = RotaryTables(self.weights)
        self._branch = Branch(self.weights, self._tables)

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
        return KVCache(self.n_layers, batch, capacity, w.n_kv_heads, w.head_width, self.dtype, self.device)

    def routing(self, threshold_logit: float) -> Routing:
        """Return learned routing at this threshold, with the model's own guards."""
        return Routing(threshold_logit, self.force_first_positions)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return vocabulary logits (..., V) of scaled hidden states (..., D)."""
        w = self.weights
        rows = hidden.reshape(-1, hidden.shape[-1])
        logits = w.head.vector(rows[0])[None] if len(rows) == 1 else w.head.rows(rows)
        if w.logit_cap is not None:
            logits = torch.tanh(logits / w.logit_cap) * w.logit_cap
        return logits.view(*hidden.shape[:-1], -1)

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
            position_BT: Positions; counted on from the cache when absent.
            allowed_BTS: Which keys each token may see, (B, T, S); causal when absent. A row must see one key.
            forced_BT: True where a guard forces every layer to run.
            margin_BT: Added to the router logits by a guard, (B, T).
        """
        w = self.weights
        n_past = 0 if cache is None else cache.length
        n_batch, n_tokens = ids_BT.shape
        if position_BT is None:
            position_BT = torch.arange(n_past, n_past + n_tokens, device=ids_BT.device).expand(n_batch, -1)
            self._tables.reach(n_past + n_tokens)
        else:
            self._tables.reach(int(position_BT.max()) + 1)
        hidden_ND = self._embed(ids_BT, position_BT)
        call = Pass((n_batch, n_tokens), n_past, self._tables.of_rows(position_BT), allowed_BTS, cache)
        forced_N = None
        if routing is not None:
            forced = position_BT < routing.force_first_positions
            forced_N = (forced if forced_BT is None else forced | forced_BT).reshape(-1)
        margin_N = None if margin_BT is None else margin_BT.reshape(-1)
        masks: list[Tensor] = []
        logits: list[Tensor] = []
        for index, layer in enumerate(w.layers):
            attend = Attention(w, index, layer, call)
            if routing is None or layer.skip is None:
                self._dense_layer(layer, hidden_ND, attend)
                if routing is not None:
                    masks.append(torch.ones(len(hidden_ND), dtype=torch.bool, device=hidden_ND.device))
                continue
            scaled_ND = w.scale(hidden_ND)
            normal_ND = scaled_ND if w.router_shares_norm else normalise(hidden_ND)
            logit_N = layer.skip.router(normal_ND)
            mask_N = self._decide(index, logit_N, routing, forced_N, margin_N)
            self._routed_layer(layer, layer.skip, hidden_ND, scaled_ND, normal_ND, attend, mask_N)
            masks.append(mask_N)
            logits.append(logit_N)
        if cache is not None:
            cache.advance(n_tokens)
        scaled = w.scale(hidden_ND).view(n_batch, n_tokens, -1)
        shape = (-1, n_batch, n_tokens)
        mask_LBT = None if routing is None else torch.stack(masks).view(shape)
        logit_LBT = torch.stack(logits).view(shape) if logits else scaled.new_empty(0, n_batch, n_tokens)
        return EngineOutput(scaled, mask_LBT, logit_LBT)

    def _embed(self, ids_BT: Tensor, position_BT: Tensor) -> Tensor:
        w = self.weights
        hidden_BTD = w.embedding[ids_BT]
        if w.embedding_scale != 1.0:
            hidden_BTD = hidden_BTD * w.embedding_scale
        if w.positions_PD is not None:
            hidden_BTD = hidden_BTD + w.positions_PD[position_BT]
        return hidden_BTD.reshape(ids_BT.numel(), -1)

    def _decide(
        self, index: int, logit_N: Tensor, routing: Routing, forced_N: Tensor | None, margin_N: Tensor | None
    ) -> Tensor:
        if routing.override_mask_LBT is None:
            logit_N = logit_N if margin_N is None else logit_N + margin_N
            mask_N = execute_mask(logit_N, routing.threshold_logit + self.weights.threshold_offsets[index])
        else:
            mask_N = routing.override_mask_LBT[index].reshape(-1)
        return mask_N if forced_N is None else mask_N | forced_N

    def _dense_layer(self, layer: LayerWeights, hidden_ND: Tensor, attend: Attention) -> None:
        """Run a layer on all rows, in place."""
        qkv = layer.qkv.rows(self.weights.scale(hidden_ND))
        n_query = layer.query.n_outputs
        attend.store(qkv[:, n_query:])
        self._execute(layer, hidden_ND, attend(qkv[:, :n_query], None), None)

    def _routed_layer(
        self, layer: LayerWeights, skip: SkipWeights, hidden_ND: Tensor, scaled_ND: Tensor, normal_ND: Tensor,
        attend: Attention, mask_N: Tensor,
    ) -> None:  # fmt: skip
        """Run a layer on the rows of the mask and the skip path on the others, in place."""
        attend.store(layer.kept.rows(scaled_ND))
        executed_X = mask_N.nonzero().squeeze(1)
        if len(executed_X) < len(mask_N) and skip.path_down is not None:
            skipped = (~mask_N).nonzero().squeeze(1)
            inner = skip.path_down.rows(normal_ND.index_select(0, skipped))
            hidden_ND.index_add_(0, skipped, path_update(skip, inner))
        for group_X in executed_X.split(self.group_rows or max(1, len(executed_X))):
            if len(group_X) == len(mask_N):
                self._execute(layer, hidden_ND, attend(layer.query.rows(scaled_ND), None), None)
            elif len(group_X):
                rows_X = _round_up(group_X)
                query = layer.query.rows(scaled_ND.index_select(0, rows_X))
                self._execute(layer, hidden_ND, attend(query, rows_X), rows_X)

    def _execute(self, layer: LayerWeights, hidden_ND: Tensor, attended: Tensor, rows_X: Tensor | None) -> None:
        """Add a layer's updates to some rows, all when None, in place."""
        w = self.weights
        before = hidden_ND if rows_X is None else hidden_ND.index_select(0, rows_X)
        update = layer.out.rows(attended)
        if layer.attention_norm_D is not None:
            update = head_norm(update, layer.attention_norm_D, w.norm_eps)
        after = before + update
        inner = layer.up.rows(w.scale(before if w.is_parallel else after))
        if w.is_gated:
            gate, up = inner.chunk(2, -1)
            inner = w.activation(gate) * up
        else:
            inner = w.activation(inner)
        update = layer.down.rows(inner)
        if layer.mlp_norm_D is not None:
            update = head_norm(update, layer.mlp_norm_D, w.norm_eps)
        if rows_X is None:
            torch.add(after, update, out=hidden_ND)
        else:
            hidden_ND.index_copy_(0, rows_X, after + update)

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
            execute_L: Decisions given instead of the routers' (random routing for timings); the routers are asked
                all the same, so that their cost is in the time.
            forced: A guard makes this token execute every layer.
            margin: Added to the router logits by a guard.

        Returns:
            Logits (1, V) and the number of layers skipped.
        """
        decide: Decide | None = None
        if routing is not None and not forced and cache.length >= routing.force_first_positions:
            if execute_L is not None:
                decide = _given(execute_L)
            else:
                decide = _by_threshold([routing.threshold_logit + cut for cut in self.threshold_offsets], margin)
        hidden_D, n_skipped = self._branch.step(token, cache, decide)
        return self.logits(hidden_D[None]), n_skipped


def _round_up(rows_X: Tensor) -> Tensor:
    """Repeat the last of many rows until they are a multiple of `ROW_MULTIPLE`; its result is then written twice."""
    n_missing = -len(rows_X) % ROW_MULTIPLE
    if n_missing == 0 or len(rows_X) < BLOCKED_ROWS.stop:
        return rows_X
    return torch.cat([rows_X, rows_X[-1:].expand(n_missing)])


def _given(execute_L: list[bool]) -> Decide:
    return lambda index, logit: execute_L[index]


def _by_threshold(cut_L: list[float], margin: float) -> Decide:
    return lambda index, logit: logit + margin >= cut_L[index]
