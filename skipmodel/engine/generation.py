"""`model.generate()` through the engine: the same interface, skipped work really left out.

    use_engine(model)           every later generate() that the engine can serve goes through it
    use_engine(model, False)    back to transformers' own decoding

What it can serve: one or several prompts without beam search, one answer each. Greedy and sampled decoding, logits
processors, stopping criteria and streamers are transformers' own; only the forward passes are ours. So `pipeline()`
and evaluation harnesses run unchanged. Anything else falls back to transformers' decoding and gives the same answers.

Legend: B sequences, T tokens, S positions, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast

from skipmodel.engine.executor import Engine, Routing
from skipmodel.engine.layouts import why_not
from skipmodel.errors import ConfigError
from skipmodel.kv_cache import KVCache

LEAST_CAPACITY = 128


def use_engine(model: Any, is_on: bool = True) -> None:
    """Let `model.generate()` decode through the engine, or not.

    Raises:
        ConfigError: The model has no engine; the message says why.
    """
    if not is_on:
        model.__dict__.pop("generate", None)
        return
    refused = why_not(model)
    if refused:
        raise ConfigError(f"generate: {refused} has no engine; leave use_engine out, or wrap another model")
    decoder = EngineDecoder(model)
    object.__setattr__(model, "generate", decoder.generate)


class EngineCache(Cache):
    """What `generate()` hands from step to step: the engine's own cache, which grows as the answer does."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(layers=[])
        self.engine = engine
        self.held: KVCache | None = None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the positions held."""
        return 0 if self.held is None else self.held.length

    def make_room(self, n_batch: int, n_tokens: int) -> KVCache:
        """Return the cache, with room for so many more tokens of every sequence."""
        length = self.get_seq_length()
        if self.held is None or length + n_tokens > self.held.capacity:
            grown = self.engine.new_cache(n_batch, max(LEAST_CAPACITY, 2 * (length + n_tokens)))
            if self.held is not None:
                for new, old in zip(grown.layers, self.held.layers, strict=True):
                    new[:, :, :length] = old[:, :, :length]
            grown.length, self.held = length, grown
        return self.held


class EngineDecoder:
    """Stands in for a model's `generate` and, while it runs, for its forward pass.

    The engine holds its own copy of the weights, made here; call `use_engine` again after training.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.engine = model, Engine(model)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Take and return what `GenerationMixin.generate` does."""
        model, original = self.model, type(self.model).generate
        if not self._serves(kwargs):
            return original(model, *args, **kwargs)
        object.__setattr__(model, "forward", self._forward)
        try:
            return original(model, *args, **kwargs | {"past_key_values": EngineCache(self.engine)})
        finally:
            model.__dict__.pop("forward", None)

    def _serves(self, kwargs: dict[str, Any]) -> bool:
        """Tell whether a call is one that the engine decodes: prompts as ids, one plain answer each."""
        setting = kwargs.get("generation_config") or self.model.generation_config

        def value(name: str, default: Any) -> Any:
            found = kwargs.get(name, getattr(setting, name, None))
            return default if found is None else found

        others = ("past_key_values", "inputs_embeds", "force_execute", "execute_margin", "assistant_model",
                  "custom_generate", "prompt_lookup_num_tokens", "output_hidden_states", "output_attentions",
                  "cache_implementation")  # fmt: skip
        return (
            value("num_beams", 1) == 1 and value("num_return_sequences", 1) == 1 and value("use_cache", True)
            and value("penalty_alpha", 0) == 0 and not any(value(name, None) for name in others)
        )  # fmt: skip

    def _routing(self) -> Routing:
        """Return the routing that the model's own threshold or level says."""
        first = self.model.state.threshold_logits[0] - self.engine.threshold_offsets[0]
        return self.engine.routing(float(first))

    @torch.inference_mode()
    def _forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, past_key_values: Any = None, **kwargs: Any
    ) -> CausalLMOutputWithPast:
        """Stand in for the model's forward pass: feed new tokens, return the logits of the last ones."""
        engine, (n_batch, n_tokens) = self.engine, input_ids.shape
        cache = past_key_values.make_room(n_batch, n_tokens)
        is_padded = attention_mask is not None and not bool(attention_mask.all())
        if n_batch == 1 and n_tokens == 1 and not is_padded:
            logits, _ = engine.step(input_ids, cache, self._routing())
            return CausalLMOutputWithPast(logits=logits[:, None], past_key_values=past_key_values)
        position_BT, allowed_BTS = None, None
        if is_padded and attention_mask is not None:
            real_BS = attention_mask[:, : cache.length + n_tokens].bool()
            position_BT = (real_BS.long().cumsum(-1) - 1).clamp_min(0)[:, -n_tokens:]
            at_S = torch.arange(real_BS.shape[1], device=input_ids.device)
            at_T1 = at_S[-n_tokens:, None]
            allowed_BTS = (real_BS[:, None, :] | (at_S == at_T1)) & (at_S <= at_T1)
        out = engine.hidden(input_ids, self._routing(), cache=cache, position_BT=position_BT, allowed_BTS=allowed_BTS)
        return CausalLMOutputWithPast(logits=engine.logits(out.hidden_BTD[:, -1:]), past_key_values=past_key_values)
