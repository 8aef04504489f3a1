"""The rows backend: one pass over tokens of many sequences, each at its own position and under its own threshold.

A row is one token of one sequence. Sequences hold their keys and values in slots of one preallocated cache, may be of
any length, and join and leave between passes. Several rows of one sequence in one pass are its next tokens: that is
how a draft is verified.

What a row gives must not depend on the rows beside it. Three things see to that: every matrix is multiplied in the
same shape for executed and dense rows alike, never with fewer rows than `floor` (below a few rows, matrix libraries
switch to other kernels, which add up in another order), and every row attends on its own. `find_floor` tries it out on
the machine at hand.

Legend: N rows, X executed rows, S key positions, D width, H query heads, G key/value heads, E head width, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from skipmodel.engine.attention import capped_attention, head_norm
from skipmodel.engine.executor import Engine
from skipmodel.engine.positions import Angles, rotate
from skipmodel.engine.weights import LayerWeights, SkipWeights, path_update
from skipmodel.errors import ConfigError, MeasurementError
from skipmodel.kv_cache import KVCache
from skipmodel.router import normalise

FLOORS = (4, 8, 16, 1)
"""Fewest rows of a product, in the order in which they are tried; 1 is the last resort and promises nothing."""


class Slot(KVCache):
    """Keys and values of one sequence: a view of one row of a `SlotCache`, with a length of its own."""

    def __init__(self, cache: SlotCache, number: int) -> None:
        self.number = number
        self.layers = [layer[number : number + 1] for layer in cache.layers]
        self.n_kv_heads, self.capacity, self.length = cache.n_kv_heads, cache.capacity, 0

    def ahead(self, n_tokens: int) -> Slot:
        """Return the same slot as it is once `n_tokens` more are in it."""
        other = object.__new__(Slot)
        other.__dict__.update(self.__dict__)
        other.length = self.length + n_tokens
        return other


class SlotCache:
    """Keys and values of many sequences, preallocated: per layer (slots, 2*G, capacity, E)."""

    def __init__(self, engine: Engine, n_slots: int, capacity: int) -> None:
        whole = engine.new_cache(n_slots, capacity)
        self.layers, self.n_kv_heads, self.capacity = whole.layers, whole.n_kv_heads, capacity
        self.slots = [Slot(self, number) for number in range(n_slots)]


@dataclass(frozen=True)
class Row:
    """One token to run.

    Attributes:
        slot: Its sequence; the row comes behind `slot.length`, or behind earlier rows of this pass.
        token: Token id.
        threshold_logit: Execute iff router_logit >= this plus the layer's own offset; -inf executes everything.
        wants_logits: Whether vocabulary logits are computed.
    """

    slot: Slot
    token: int
    threshold_logit: float = -math.inf
    wants_logits: bool = True


@dataclass(frozen=True)
class RowsOutput:
    """Logits (rows that wanted them, V) in the order of the rows, and which layers each row skipped."""

    logits: Tensor
    skipped: list[tuple[int, ...]]


class RowPass:
    """Runs rows over the weights of an engine.

    Args:
        engine: The engine; weights and tables are shared with it.
        floor: Fewest rows of a product; see `find_floor`.
    """

    def __init__(self, engine: Engine, floor: int = FLOORS[0]) -> None:
        self.engine, self.w, self.floor = engine, engine.weights, floor
        self.offset_L = torch.tensor(engine.threshold_offsets, device=engine.device)

    @torch.inference_mode()
    def run(self, rows: Sequence[Row], cache: SlotCache) -> RowsOutput:
        """Feed rows; slots grow by them.

        Raises:
            ConfigError: A slot is full.
        """
        w, device = self.w, self.engine.device
        position = []
        grown: dict[int, int] = {}
        for row in rows:
            ahead = grown.get(row.slot.number, 0)
            row.slot.room_for(ahead + 1)
            position.append(row.slot.length + ahead)
            grown[row.slot.number] = ahead + 1
        n_rows = len(rows)
        # Rows up to the floor repeat the last one; they are computed and stored nowhere.
        padded = [*rows, *[rows[-1]] * (self.floor - n_rows)]
        at = [*position, *[position[-1]] * (self.floor - n_rows)]
        hidden_ND = self._embed([row.token for row in padded], at)
        self.engine._tables.reach(max(at) + 1)
        angles = self.engine._tables.of_rows(torch.tensor([at], device=device))
        base_N1 = torch.tensor([[row.threshold_logit] for row in padded], device=device)
        cut_NL = base_N1 + self.offset_L
        is_routed = any(row.threshold_logit > -math.inf for row in rows)
        places = [(row.slot.number, where + 1) for row, where in zip(rows, position, strict=True)]
        masks: list[tuple[int, Tensor]] = []
        for index, layer in enumerate(w.layers):
            call = _LayerCall(self, index, layer, cache, places, None if layer.rotary is None else angles[layer.rotary])
            mask_N = None
            scaled_ND = w.scale(hidden_ND)
            if layer.skip is not None and is_routed:
                normal_ND = scaled_ND if w.router_shares_norm else normalise(hidden_ND)
                mask_N = _router_logit(layer.skip, normal_ND) >= cut_NL[:, index]
                masks.append((index, mask_N))
            call.store(scaled_ND)
            if mask_N is None or bool(mask_N.all()):
                self._execute(layer, hidden_ND, scaled_ND, call, None)
                continue
            skipped_X = self._filled((~mask_N).nonzero().squeeze(1))
            executed_X = mask_N.nonzero().squeeze(1)
            if layer.skip is not None and layer.skip.path_up is not None:
                updated = hidden_ND[skipped_X] + self._path(layer.skip, normal_ND[skipped_X])
                hidden_ND[skipped_X] = updated
            if len(executed_X):
                self._execute(layer, hidden_ND, scaled_ND, call, self._filled(executed_X))
        for number, length in grown.items():
            cache.slots[number].advance(length)
        wanted = [i for i, row in enumerate(rows) if row.wants_logits]
        logits = self._logits(w.scale(hidden_ND), wanted)
        return RowsOutput(logits, _skipped(masks, n_rows))

    def _embed(self, tokens: list[int], position: list[int]) -> Tensor:
        ids_1N = torch.tensor([tokens], device=self.engine.device)
        return self.engine._embed(ids_1N, torch.tensor([position], device=self.engine.device))

    def _filled(self, rows_X: Tensor) -> Tensor:
        """Repeat the last of few rows up to the floor; its result is then written more than once."""
        n_missing = self.floor - len(rows_X)
        return rows_X if n_missing <= 0 else torch.cat([rows_X, rows_X[-1:].expand(n_missing)])

    def _path(self, skip: SkipWeights, normal_XD: Tensor) -> Tensor:
        if skip.path_down is None:
            raise AssertionError("identity has no update")
        return path_update(skip, skip.path_down.rows(normal_XD))

    def _execute(
        self, layer: LayerWeights, hidden_ND: Tensor, scaled_ND: Tensor, call: _LayerCall, rows_X: Tensor | None
    ) -> None:
        """Add a layer's updates to some rows, all when None, in place."""
        scaled = scaled_ND if rows_X is None else scaled_ND[rows_X]
        self.engine._execute(layer, hidden_ND, call.attend(layer.query.rows(scaled), rows_X), rows_X)

    def _logits(self, scaled_ND: Tensor, wanted: list[int]) -> Tensor:
        if not wanted:
            return scaled_ND.new_empty(0, self.w.head.n_outputs)
        rows_X = self._filled(torch.tensor(wanted, device=scaled_ND.device))
        return self.engine.logits(scaled_ND[rows_X])[: len(wanted)]


class _LayerCall:
    """Keys, values and attention of one layer in one pass."""

    def __init__(
        self, rows: RowPass, index: int, layer: LayerWeights, cache: SlotCache, places: list[tuple[int, int]],
        angles: Angles | None,
    ) -> None:  # fmt: skip
        self.w, self.layer, self.angles, self.places = rows.w, layer, angles, places
        self.held, self.n_groups = cache.layers[index], cache.n_kv_heads

    def store(self, scaled_ND: Tensor) -> None:
        """Project keys and values of all rows and put them into the slots."""
        layer, w = self.layer, self.w
        key, value = layer.kept.rows(scaled_ND).view(len(scaled_ND), 2 * self.n_groups, -1).split(self.n_groups, 1)
        key = head_norm(key, layer.key_norm_E, w.norm_eps)
        if self.angles is not None:
            key = rotate(key, self.angles, w.rotary_width)
        joined = torch.cat([key, value], 1)
        slots = torch.tensor([slot for slot, _ in self.places], device=joined.device)
        ends = torch.tensor([end for _, end in self.places], device=joined.device)
        self.held[slots, :, ends - 1] = joined[: len(self.places)]

    def attend(self, query: Tensor, rows_X: Tensor | None) -> Tensor:
        """Attend from some rows, all when None, each to the keys of its own sequence; (X, H*E) to the same."""
        w = self.w
        query = head_norm(query.view(len(query), w.n_heads, -1), self.layer.query_norm_E, w.norm_eps)
        if self.angles is not None:
            turned = self.angles
            if rows_X is not None:
                turned = Angles(turned.cos[rows_X], turned.sin[rows_X])
            query = rotate(query, turned, w.rotary_width)
        last = len(self.places) - 1
        numbers = range(len(query)) if rows_X is None else rows_X.tolist()
        out: list[Tensor] = []
        before = -1
        for column, number in enumerate(numbers):
            row = min(number, last)  # rows that only fill up to the floor look where the last one looks
            out.append(out[-1] if row == before else self._one(query[column], *self.places[row]))
            before = row
        return torch.stack(out)

    def _one(self, query_HE: Tensor, slot: int, end: int) -> Tensor:
        w, window = self.w, self.layer.window
        start = 0 if window is None else max(0, end - window)
        held_2GSE = self.held[slot, :, start:end]
        key, value = held_2GSE[None, : self.n_groups], held_2GSE[None, self.n_groups :]
        if w.attention_cap is not None:
            return capped_attention(w, query_HE[None, None], key, value, None).flatten()
        shared = query_HE.view(1, self.n_groups, w.n_heads // self.n_groups, -1)
        return scaled_dot_product_attention(shared, key, value, scale=w.attention_scale).flatten()


def _skipped(masks: list[tuple[int, Tensor]], n_rows: int) -> list[tuple[int, ...]]:
    """Return the numbers of the layers that each row skipped."""
    if not masks:
        return [()] * n_rows
    executed = torch.stack([mask_N[:n_rows] for _, mask_N in masks], 1).tolist()
    return [
        tuple(index for (index, _), runs in zip(masks, row, strict=True) if not runs) for row in executed
    ]  # fmt: skip


def _router_logit(skip: SkipWeights, normal_ND: Tensor) -> Tensor:
    """Return router logits (N,), added up row by row: a matrix times a vector would mix rows into its order."""
    if skip.router_D is None:
        logit_N: Tensor = skip.router(normal_ND)
        return logit_N
    return (normal_ND.float() * skip.router_D).sum(-1) + skip.router_bias


@torch.inference_mode()
def find_floor(engine: Engine, *, n_rows: int = 7, n_tokens: int = 3) -> int:
    """Return the fewest rows from which, on this machine, a row's logits do not depend on the rows beside it.

    Bit for bit: a few tokens of a few sequences, once alone and once beside others, densely and half skipped.

    Raises:
        MeasurementError: Under none of the tried floors they agree.
    """
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, len(engine.weights.embedding), (n_rows, n_tokens), generator=generator).tolist()
    for floor in FLOORS:
        if all(_agrees(RowPass(engine, floor), ids, logit) for logit in (-math.inf, _middle(engine))):
            return floor
    raise MeasurementError(
        f"rows: expected the same logits alone and beside other rows, got different ones with any of {FLOORS} rows at "
        "least; serve with numerics 'fast', where answers may depend on what else is running"
    )


def _agrees(rows: RowPass, ids: list[list[int]], threshold_logit: float) -> bool:
    n_tokens = len(ids[0])
    together = SlotCache(rows.engine, len(ids), n_tokens)
    beside = []
    for t in range(n_tokens):  # odd sequences are dense, so that skipped and executed rows stand side by side
        batch = [
            Row(slot, row[t], threshold_logit if slot.number % 2 == 0 else -math.inf)
            for slot, row in zip(together.slots, ids, strict=True)
        ]
        beside.append(rows.run(batch, together).logits)
    for number in (0, 1, len(ids) - 1):
        alone = SlotCache(rows.engine, 1, n_tokens)
        for t in range(n_tokens):
            row = Row(alone.slots[0], ids[number][t], threshold_logit if number % 2 == 0 else -math.inf)
            if not torch.equal(rows.run([row], alone).logits[0], beside[t][number]):
                return False
    return True


def _middle(engine: Engine) -> float:
    """Return a threshold logit that skips about half of the routed decisions on random tokens."""
    if not engine.routed_units:
        return -math.inf
    ids = torch.randint(0, len(engine.weights.embedding), (1, 16), generator=torch.Generator().manual_seed(1))
    out = engine.hidden(ids.to(engine.device), engine.routing(-math.inf))
    offset_L = torch.tensor([engine.threshold_offsets[unit] for unit in engine.routed_units], device=engine.device)
    return float((out.router_logit_LBT.float() - offset_L[:, None, None]).median())


def check_context(engine: Engine, capacity: int, max_positions: int | None) -> None:
    """Refuse a cache longer than the positions that the model knows.

    Raises:
        ConfigError: It is longer.
    """
    learned = engine.weights.positions_PD
    limits = [limit for limit in (max_positions, None if learned is None else len(learned)) if limit is not None]
    if limits and capacity > min(limits):
        raise ConfigError(f"serve.context must be at most {min(limits)}, the positions of the model, got {capacity}")
