"""What a skipped token leaves in the cache: its keys and values, projected like any other token's.

They come from the layer's input, which a skipped token has too. So every layer holds every position, masks
and positions stay those of the dense model, and a later token that executes the layer sees the skipped one
(policy `project`; SkipLayer, arXiv 2311.15436).

Legend: B sequences, S capacity in positions, T tokens in this call, G key/value heads, E head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from skipmodel.errors import ConfigError


class KVCache:
    """Preallocated keys and values of all layers; appending copies into place and allocates nothing."""

    def __init__(
        self, n_layers: int, batch: int, capacity: int, n_kv_heads: int, head_width: int, dtype: torch.dtype,
        device: torch.device,
    ) -> None:  # fmt: skip
        shape = (n_layers, batch, n_kv_heads, capacity, head_width)
        self.keys_LBGSE = torch.zeros(shape, dtype=dtype, device=device)
        self.values_LBGSE = torch.zeros(shape, dtype=dtype, device=device)
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, keys_BGTE: Tensor, values_BGTE: Tensor) -> tuple[Tensor, Tensor]:
        """Store this call's keys and values of one layer behind the current length; return all held so far.

        The length itself grows only by `advance`, once all layers have appended.

        Raises:
            ConfigError: The capacity is too small.
        """
        end = self.length + keys_BGTE.shape[2]
        if end > self.capacity:
            raise ConfigError(f"K/V cache holds {self.capacity} positions, {end} asked for; make it larger")
        self.keys_LBGSE[layer, :, :, self.length : end] = keys_BGTE
        self.values_LBGSE[layer, :, :, self.length : end] = values_BGTE
        return self.keys_LBGSE[layer, :, :, :end], self.values_LBGSE[layer, :, :, :end]

    def advance(self, n_tokens: int) -> None:
        """Make the appended positions part of the past."""
        self.length += n_tokens

    def rewind(self, length: int) -> None:
        """Forget all positions from `length` on, for repeated timings on one prompt."""
        self.length = length
