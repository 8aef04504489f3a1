"""The lanes backend: tokens of many sequences side by side, each by the very operations of batch-1 decoding.

Layer by layer, every row goes through the branch backend's own functions, so that a row gives bit for bit what
`Engine.step` gives for it alone, whatever runs beside it, and skips its own layers at no cost to the others. What is
gained over one sequence after the other is that a layer's weights are read from memory once and then lie in the
processor's cache for the rows behind the first. On a CPU that wins up to about eight rows against products of several
rows, which `skipmodel.engine.rows` makes and which GPUs need.

Legend: D width, V vocabulary, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from skipmodel.engine.executor import Engine
from skipmodel.engine.rows import Row, RowsOutput, Slot, SlotCache
from skipmodel.router import NORM_EPS

HEAD_BYTES = 4 << 20
"""Vocabulary weights that are multiplied by all rows before the next ones are read."""


class LanePass:
    """Runs rows over the weights of an engine, one vector at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.w, self.branch = engine, engine.weights, engine._branch
        head = self.w.head
        n_outputs = max(1, HEAD_BYTES // (head.weight_OI.shape[1] * head.weight_OI.element_size()))
        self.head = [
            head.part(at, min(at + n_outputs, head.n_outputs)) for at in range(0, head.n_outputs, n_outputs)
        ]  # fmt: skip

    @torch.inference_mode()
    def run(self, rows: Sequence[Row], cache: SlotCache) -> RowsOutput:
        """Feed rows; slots grow by them.

        Raises:
            ConfigError: A slot is full.
        """
        places: list[Slot] = []
        grown: dict[int, int] = {}
        for row in rows:
            ahead = grown.get(row.slot.number, 0)
            row.slot.room_for(ahead + 1)
            places.append(row.slot.ahead(ahead) if ahead else row.slot)
            grown[row.slot.number] = ahead + 1
        hidden = [self._embed(row.token, place.length) for row, place in zip(rows, places, strict=True)]
        skipped: list[list[int]] = [[] for _ in rows]
        self._layers(rows, places, hidden, skipped)
        for number, length in grown.items():
            cache.slots[number].advance(length)
        wanted = [self.branch._scale(hidden[i]) for i, row in enumerate(rows) if row.wants_logits]
        return RowsOutput(self._logits(wanted), [tuple(layers) for layers in skipped])

    def _layers(
        self, rows: Sequence[Row], places: list[Slot], hidden: list[Tensor], skipped: list[list[int]]
    ) -> None:  # fmt: skip
        """Run all layers over all rows; `hidden` is replaced row by row, `skipped` takes the numbers of layers."""
        branch, w = self.branch, self.w
        branch.tables.reach(max(place.length for place in places) + 1)
        angles = [branch.tables.of_token(place.length, w.n_heads, w.n_kv_heads) for place in places]
        offsets = self.engine.threshold_offsets
        for index, layer in enumerate(w.layers):
            skip = layer.skip
            for i, row in enumerate(rows):
                full, kept = angles[i]
                turned = None if layer.rotary is None else full[layer.rotary]
                scaled = branch._scale(hidden[i])
                if skip is None or row.threshold_logit == -math.inf:
                    hidden[i] = branch._execute(index, layer, hidden[i], scaled, places[i], turned)
                    continue
                normal = scaled if w.router_shares_norm else branch._rms(hidden[i], NORM_EPS)
                if branch._router_logit(skip, normal) >= row.threshold_logit + offsets[index]:
                    hidden[i] = branch._execute(index, layer, hidden[i], scaled, places[i], turned)
                else:
                    skipped[i].append(index)
                    still = None if layer.rotary is None else kept[layer.rotary]
                    hidden[i] = branch._skip(index, layer, skip, hidden[i], scaled, normal, places[i], still)

    def _embed(self, token: int, position: int) -> Tensor:
        w = self.w
        hidden = w.embedding[token]
        if w.embedding_scale != 1.0:
            hidden = hidden * w.embedding_scale
        return hidden if w.positions_PD is None else hidden + w.positions_PD[position]

    def _logits(self, scaled: list[Tensor]) -> Tensor:
        """Return logits (rows, V) of final states (D,) each."""
        if not scaled:
            return self.w.embedding.new_empty(0, self.w.head.n_outputs)
        parts = [[part.vector(row_D) for row_D in scaled] for part in self.head]
        logits = torch.stack([torch.cat([part[i] for part in parts]) for i in range(len(scaled))])
        cap = self.w.logit_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap
