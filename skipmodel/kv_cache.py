"""What a skipped token leaves for later tokens.

Policy `project` (SkipLayer, arXiv 2311.15436): its keys and values, projected like any other token's. They come
from the layer's input, which a skipped token has too. So every layer holds every position, masks and positions
stay those of the dense model, and a later token that executes the layer sees the skipped one.

Policy `drop` (as in Mixture-of-Depths, arXiv 2404.02258, and D-LLM): nothing; later tokens do not see it in that
layer. Every layer of the cache still holds every position, so that all lengths agree, but the key of a dropped
token is all zeros, which no projected key is: that mark survives the reordering of beam search.

Legend: B sequences, S positions held, T tokens in this call, G key/value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from skipmodel.errors import ConfigError


class KVCache:
    """Preallocated keys and values of all layers; appending copies into place and allocates nothing.

    A layer's keys and values lie in one tensor, key heads before value heads, so that one copy stores both.
    """

    def __init__(
        self, n_layers: int, batch: int, capacity: int, n_kv_heads: int, head_width: int, dtype: torch.dtype,
        device: torch.device,
    ) -> None:  # fmt: skip
        shape = (batch, 2 * n_kv_heads, capacity, head_width)
        self.layers = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(n_layers)]
        self.n_kv_heads = n_kv_heads
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, key_value_B2GTE: Tensor) -> tuple[Tensor, Tensor]:
        """Store this call's keys and values of one layer behind the current length; return all held so far.

        The length itself grows only by `advance`, once all layers have appended.

        Raises:
            ConfigError: The capacity is too small.
        """
        self.room_for(key_value_B2GTE.shape[2])
        end = self.length + key_value_B2GTE.shape[2]
        held_B2GSE = self.layers[layer][:, :, :end]
        held_B2GSE[:, :, self.length :] = key_value_B2GTE
        return held_B2GSE[:, : self.n_kv_heads], held_B2GSE[:, self.n_kv_heads :]

    def write(self, layer: int, key_value_2GE: Tensor) -> None:
        """Store keys and values of one token of one sequence, (2*G, E); who calls has checked `room_for` it."""
        self.layers[layer][0].select(1, self.length).copy_(key_value_2GE)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of one sequence up to the token just written, (1, G, S, E) each."""
        held_B2GSE = self.layers[layer].narrow(2, 0, self.length + 1)
        return held_B2GSE.narrow(1, 0, self.n_kv_heads), held_B2GSE.narrow(1, self.n_kv_heads, self.n_kv_heads)

    def room_for(self, n_tokens: int) -> None:
        """Refuse to go beyond the capacity.

        Raises:
            ConfigError: The capacity is too small.
        """
        end = self.length + n_tokens
        if end > self.capacity:
            raise ConfigError(f"K/V cache holds {self.capacity} positions, {end} asked for; make it larger")

    def advance(self, n_tokens: int) -> None:
        """Make the appended positions part of the past."""
        self.length += n_tokens

    def rewind(self, length: int) -> None:
        """Forget all positions from `length` on, for repeated timings on one prompt."""
        self.length = length


class KeyDropMixin:
    """Added to the class of an attention module under policy `drop`; see `make_dropping`."""

    drop_unit: int
    drop_state: Any

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Attend without the keys of tokens that skip; takes and returns what the base attention does."""
        executes_BT = self.drop_state.gates_BT.get(self.drop_unit)
        if executes_BT is None:
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        executes_BT = executes_BT.detach() > 0.5
        past = _past_layer((*args, *kwargs.values()), self.layer_idx)  # type: ignore[attr-defined]
        executed_BS = executes_BT
        if past is not None and past.keys is not None and past.keys.numel():
            executed_BS = torch.cat([past.keys.ne(0).any(-1).any(1), executes_BT], 1)
        if not bool(executed_BS.all()):
            kwargs["attention_mask"] = _without_dropped(kwargs.get("attention_mask"), executed_BS, executes_BT.shape[1])
        output = super().forward(*args, **kwargs)  # type: ignore[misc]
        if past is not None:
            kept_BT = executes_BT[:, -past.keys.shape[2] :]  # a sliding window holds the last ones only
            past.keys[:, :, -kept_BT.shape[1] :].mul_(kept_BT[:, None, :, None].to(past.keys.dtype))
        return output


def make_dropping(attention: nn.Module, unit: int, state: Any) -> None:
    """Make an attention module hide the keys of tokens that skip routed unit `unit`, in place."""
    base_class = type(attention)
    attention.__class__ = type("Dropping" + base_class.__name__, (KeyDropMixin, base_class), {})
    object.__setattr__(attention, "drop_unit", unit)
    object.__setattr__(attention, "drop_state", state)


def _past_layer(arguments: Sequence[Any], layer_index: int) -> Any:
    """Return the layer of the cache among these arguments, made if it is not there yet; None without a cache."""
    from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer

    cache: Any = next((value for value in arguments if isinstance(value, Cache)), None)  # families name it differently
    if cache is None:
        return None
    while len(cache.layers) <= layer_index:
        cache.layers.append(cache.layer_class_to_replicate())
    layer = cache.layers[layer_index]
    if type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
        raise ConfigError(
            f"model.skip.kv is drop, which needs the growing cache of transformers (DynamicCache); got a "
            f"{type(layer).__name__}; leave cache_implementation unset, or use model.skip.kv: project"
        )
    return layer


def _without_dropped(mask: Tensor | None, executed_BS: Tensor, n_tokens: int) -> Tensor:
    """Take the dropped keys out of an attention mask (B, 1, T, S), boolean or additive; a token sees itself."""
    n_keys = executed_BS.shape[1]
    at_S = torch.arange(n_keys, device=executed_BS.device)
    at_T = at_S[-n_tokens:, None]
    visible_B1TS = (executed_BS[:, None, None, :] | (at_S == at_T)) & (at_S <= at_T)
    if mask is None:
        return visible_B1TS
    if mask.dtype == torch.bool:
        return mask & visible_B1TS
    return mask.masked_fill(~visible_B1TS, torch.finfo(mask.dtype).min)
