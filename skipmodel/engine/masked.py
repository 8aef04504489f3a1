"""The masked backend: every routed model through its own forward pass, computing both branches of every unit.

It saves nothing and is here for what the executor cannot run: families without an engine, sub-layer units, other
K/V policies, and controls such as early exit. The interface is that of `skipmodel.engine.executor.Engine`.

Legend: B sequences, T tokens in this call, S key positions, L routed units, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from skipmodel.engine.executor import Engine, EngineOutput, Routing
from skipmodel.engine.layouts import why_not
from skipmodel.work import Work


class GrowingCache:
    """Keys and values of all layers in a cache of transformers, with the interface of `skipmodel.kv_cache`."""

    def __init__(self) -> None:
        self.inner = DynamicCache()

    @property
    def length(self) -> int:
        """Positions held."""
        return int(self.inner.get_seq_length())

    def rewind(self, length: int) -> None:
        """Forget all positions from `length` on, for repeated timings on one prompt."""
        self.inner.crop(length - self.length)  # takes the number of positions to forget, as a negative one


class MaskedEngine:
    """Executes a `SkipLayerForCausalLM` by its own forward pass; with routing None it is the dense model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.work: Work = model.work
        self.force_first_positions: int = model.config.force_first_positions

    @property
    def device(self) -> torch.device:
        """Where the weights are; token ids go there."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @property
    def n_layers(self) -> int:
        """Number of decoder layers."""
        return self.work.n_layers

    @property
    def n_units(self) -> int:
        """Number of units, routed or not."""
        return len(self.work.unit_share)

    @property
    def routed_units(self) -> list[int]:
        """Numbers of the units that tokens may skip."""
        return list(self.model.config.routed_units)

    @property
    def threshold_offsets(self) -> list[float]:
        """Per unit, added to the threshold's logit."""
        return self.model.config.threshold_offsets or [0.0] * self.n_units

    def new_cache(self, batch: int, capacity: int) -> Any:
        """Return an empty `GrowingCache`."""
        return GrowingCache()

    def routing(self, threshold_logit: float) -> Routing:
        """Return learned routing at this threshold, with the model's own guards."""
        return Routing(threshold_logit, self.force_first_positions)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return vocabulary logits (..., V) of final hidden states (..., D)."""
        logits: Tensor = self.model.vocabulary_logits(hidden)
        return logits

    @torch.inference_mode()
    def hidden(
        self,
        ids_BT: Tensor,
        routing: Routing | None = None,
        *,
        cache: Any = None,
        position_BT: Tensor | None = None,
        allowed_BTS: Tensor | None = None,
        forced_BT: Tensor | None = None,
        margin_BT: Tensor | None = None,
    ) -> EngineOutput:
        """Run all layers over new tokens; arguments and result as `Engine.hidden`."""
        model, state = self.model, self.model.state
        past = None if cache is None else cache.inner
        fields: dict[str, Any] = {}
        if routing is not None:
            cuts = [routing.threshold_logit + offset for offset in self.threshold_offsets]
            fields = {"threshold_logits": cuts, "override_mask_LBT": routing.override_mask_LBT}
        first, model.config.force_first_positions = (
            model.config.force_first_positions,
            (0 if routing is None else routing.force_first_positions),
        )
        try:
            with model.routing("dense" if routing is None else "hard", **fields):
                positions = model.begin_pass(
                    ids_BT, None, position_BT, past, force_execute=forced_BT, execute_margin=margin_BT
                )
                out = model.lm.base_model(
                    input_ids=ids_BT, attention_mask=self._mask(allowed_BTS), position_ids=positions,
                    past_key_values=past, use_cache=past is not None,
                )  # fmt: skip
        finally:
            model.config.force_first_positions = first
        if routing is None:
            return EngineOutput(out.last_hidden_state, None, out.last_hidden_state.new_empty(0, *ids_BT.shape))
        ran_BT = torch.ones_like(ids_BT, dtype=torch.bool)
        mask_LBT = torch.stack([state.gates_BT.get(index, ran_BT) for index in range(self.n_units)])
        logits = [state.logits_BT[index] for index in self.routed_units]
        logit_LBT = torch.stack(logits) if logits else out.last_hidden_state.new_empty(0, *ids_BT.shape)
        return EngineOutput(out.last_hidden_state, mask_LBT, logit_LBT)

    def _mask(self, allowed_BTS: Tensor | None) -> Tensor | None:
        """Return a mask (B, 1, T, S) in the form that the model's attention takes."""
        if allowed_BTS is None:
            return None
        if self.model.lm.config._attn_implementation == "sdpa":
            return allowed_BTS[:, None]
        least = torch.finfo(self.dtype).min
        return torch.zeros_like(allowed_BTS, dtype=self.dtype).masked_fill(~allowed_BTS, least)[:, None]

    @torch.inference_mode()
    def step(
        self,
        token: Tensor,
        cache: Any,
        routing: Routing | None = None,
        execute_L: list[bool] | None = None,
        *,
        forced: bool = False,
        margin: float = 0.0,
    ) -> tuple[Tensor, int]:
        """Feed one token after the cache; arguments and result as `Engine.step`."""
        if routing is not None and execute_L is not None:
            mask = torch.tensor(execute_L, device=token.device).view(-1, 1, 1)
            routing = Routing(routing.threshold_logit, routing.force_first_positions, mask)
        forced_BT = torch.full_like(token, forced, dtype=torch.bool)
        margin_BT = torch.full(token.shape, margin, device=token.device)
        out = self.hidden(token, routing, cache=cache, forced_BT=forced_BT, margin_BT=margin_BT)
        n_skipped = 0 if out.execute_mask_LBT is None else int((~out.execute_mask_LBT).sum())
        return self.logits(out.hidden_BTD[:, -1]), n_skipped


AnyEngine = Engine | MaskedEngine


def open_engine(model: Any, weights: Literal["float", "int8"] = "float") -> AnyEngine:
    """Return the fastest engine that can run this model: gathered and branching, or else masked.

    Args:
        model: A `SkipLayerForCausalLM`.
        weights: `int8` keeps the layers' matrices as int8 codes; an engine of its own is needed for that.

    Raises:
        ConfigError: int8 is asked for and the model runs masked only.
    """
    if weights == "int8" or why_not(model) is None:
        return Engine(model, is_int8=weights == "int8")
    return MaskedEngine(model)
