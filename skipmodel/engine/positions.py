"""Rotary angles as tables, so that a step looks them up instead of computing them.

Legend: P positions, B sequences, T tokens in this call, N = B*T rows, E head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skipmodel.engine.weights import ModelWeights

_FIRST_LENGTH = 1024


@dataclass(frozen=True)
class Angles:
    """Cosines and sines of some positions, with a dimension for the heads: (N, 1, E) or (1, E).

    The sine carries the sign of the rotation, and widths that do not rotate have cosine 1 and sine 0.
    """

    cos: Tensor
    sin: Tensor


class RotaryTables:
    """Tables of every kind of rotary position that a model has; they grow with the longest position asked for."""

    def __init__(self, weights: ModelWeights) -> None:
        self._w = weights
        self._kinds = {layer.rotary for layer in weights.layers if layer.rotary is not None}
        self._tables: dict[str, Angles] = {}
        self._length = 0

    def reach(self, length: int) -> None:
        """Make sure that positions below `length` are in the tables."""
        if length <= self._length:
            return
        self._length = max(_FIRST_LENGTH, 2 * self._length, length)
        w = self._w
        position_1P = torch.arange(self._length, device=w.embedding.device)[None]
        for kind in self._kinds:
            cos, sin = (w.rotary(w.embedding[:1, None], position_1P) if kind == "all"
                        else w.rotary(w.embedding[:1, None], position_1P, kind))  # fmt: skip
            half = cos.shape[-1] // 2
            sin = torch.cat([-sin[..., :half], sin[..., half:]], -1)
            rest = (*cos.shape[:2], w.head_width - cos.shape[-1])
            self._tables[kind] = Angles(
                torch.cat([cos, cos.new_ones(rest)], -1)[0], torch.cat([sin, sin.new_zeros(rest)], -1)[0]
            )

    def of_rows(self, position_BT: Tensor) -> dict[str, Angles]:
        """Return the angles of all tokens of a call, per kind: (N, 1, E)."""
        position_N = position_BT.reshape(-1)
        return {
            kind: Angles(table.cos[position_N].unsqueeze(1), table.sin[position_N].unsqueeze(1))
            for kind, table in self._tables.items()
        }

    def of_token(self, position: int, n_heads: int, n_groups: int) -> tuple[dict[str, Angles], dict[str, Angles]]:
        """Return the angles of one token, per kind, as tables over heads, (heads, E).

        First for queries, keys and values as an executed layer's fused matrix gives them, then for keys and values
        alone, as a skipped layer's does; values do not turn. One product and one sum then rotate them all.
        """
        full, kept = {}, {}
        for kind, table in self._tables.items():
            cos, sin = table.cos[position], table.sin[position]
            full[kind] = Angles(
                torch.cat([cos.expand(n_heads + n_groups, -1), torch.ones_like(cos).expand(n_groups, -1)]),
                torch.cat([sin.expand(n_heads + n_groups, -1), torch.zeros_like(sin).expand(n_groups, -1)]),
            )
            kept[kind] = Angles(full[kind].cos[n_heads:], full[kind].sin[n_heads:])
        return full, kept


def rotate(heads: Tensor, angles: Angles, rotary_width: int) -> Tensor:
    """Rotate heads (..., E), halves convention: x * cos + swap(x) * sin, the sine carrying the sign."""
    width = heads.shape[-1]
    if rotary_width == width:
        swapped = heads.roll(width // 2, -1)
    else:
        first, second, rest = heads.split([rotary_width // 2, rotary_width // 2, width - rotary_width], -1)
        swapped = torch.cat([second, first, rest], -1)
    return torch.addcmul(heads * angles.cos, swapped, angles.sin)
