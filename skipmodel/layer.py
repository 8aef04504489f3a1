"""The formula file: what one routed decoder layer computes.

    x      = normalise(h)
    gate   = [router(x) >= threshold]            (training: straight-through Gumbel-Softmax)
    h_next = layer(h)            where gate = 1
             h + skip_path(x)    where gate = 0

Keys and values of every token are computed either way, so a skipped token stays visible to later ones.
This is the reference: it computes both branches for every token and saves no time; `skipmodel.engine` does
the same with the work left out.

Legend: B sequences, T tokens in this call, D hidden width, L decoder layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skipmodel.gate import execute_mask, straight_through_gumbel
from skipmodel.router import TokenRouter, normalise

Mode = Literal["dense", "hard", "train", "replay"]


@dataclass
class RoutingState:
    """What all layers of one model share during a forward pass. Owned and reset by the model."""

    mode: Mode = "dense"
    threshold_logits: list[float] = field(default_factory=list)
    """One per decoder layer; read for routed layers only."""
    force_execute_BT: Tensor | None = None
    """True where a guard forces execution, whatever the router says."""
    override_mask_LBT: Tensor | None = None
    """Decisions given from outside instead of the routers' (controls and tests)."""
    gumbel_scale: float = 0.0
    temperature: float = 1.0
    generator: torch.Generator | None = None
    replay_layer: int = -1
    replay_hidden_BTD: Tensor | None = None
    """Mode replay: start at this layer from this hidden state, skip that layer, run the rest densely."""
    gates_BT: dict[int, Tensor] = field(default_factory=dict)
    """Filled by the pass: gate per routed layer (float with gradient in training, bool otherwise)."""
    logits_BT: dict[int, Tensor] = field(default_factory=dict)
    """Filled by the pass: router logit per routed layer."""


class SkipLayerMixin:
    """Added to a decoder layer's class; see `make_routed`."""

    skip_index: int
    skip_state: RoutingState

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, or route it, as the shared state says; takes and returns what the base layer does."""
        state = self.skip_state
        router = self._modules.get("router")  # type: ignore[attr-defined]
        if state.mode == "replay" and self.skip_index <= state.replay_layer:
            return self._replay(hidden_states)
        output = super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]
        if state.mode in ("dense", "replay") or router is None:
            return output
        executed_BTD = output if isinstance(output, Tensor) else output[0]
        mixed_BTD = self._route(hidden_states, executed_BTD, router)
        return mixed_BTD if isinstance(output, Tensor) else (mixed_BTD, *output[1:])

    def _route(self, hidden_BTD: Tensor, executed_BTD: Tensor, router: TokenRouter) -> Tensor:
        state = self.skip_state
        normalised_BTD = normalise(hidden_BTD)
        logit_BT = router(normalised_BTD)
        state.logits_BT[self.skip_index] = logit_BT
        skipped_BTD = hidden_BTD + self.skip_path(normalised_BTD)  # type: ignore[attr-defined]
        if state.mode == "hard":
            if state.override_mask_LBT is None:
                mask_BT = execute_mask(logit_BT, state.threshold_logits[self.skip_index])
            else:
                mask_BT = state.override_mask_LBT[self.skip_index]
            if state.force_execute_BT is not None:
                mask_BT = mask_BT | state.force_execute_BT
            state.gates_BT[self.skip_index] = mask_BT
            return torch.where(mask_BT[..., None], executed_BTD, skipped_BTD)
        gate_BT = straight_through_gumbel(
            logit_BT, scale=state.gumbel_scale, temperature=state.temperature, generator=state.generator
        )
        if state.force_execute_BT is not None:
            gate_BT = torch.where(state.force_execute_BT, torch.ones_like(gate_BT), gate_BT)
        state.gates_BT[self.skip_index] = gate_BT
        chosen_BTD = torch.where(gate_BT[..., None] > 0.5, executed_BTD, skipped_BTD)
        # Adds nothing to the value; carries d(output)/d(gate) = executed - skipped to the router.
        slope_BT = (gate_BT - gate_BT.detach()).to(chosen_BTD.dtype)
        return chosen_BTD + slope_BT[..., None] * (executed_BTD - skipped_BTD).detach()

    def _replay(self, hidden_BTD: Tensor) -> Tensor:
        state = self.skip_state
        if self.skip_index < state.replay_layer or state.replay_hidden_BTD is None:
            return hidden_BTD
        start_BTD = state.replay_hidden_BTD
        return start_BTD + self.skip_path(normalise(start_BTD))  # type: ignore[attr-defined]


def make_routed(layer: nn.Module, index: int, state: RoutingState) -> None:
    """Turn a decoder layer into a routed one, in place.

    The class is replaced by a subclass with `SkipLayerMixin` in front, not wrapped in a module: state-dict keys
    stay those of the base model, and hooks, recorded hidden states and gradient checkpointing go on working.
    Router and skip path are attached by the caller as `layer.router` and `layer.skip_path`.
    """
    base_class = type(layer)
    layer.__class__ = type("Routed" + base_class.__name__, (SkipLayerMixin, base_class), {})
    object.__setattr__(layer, "skip_index", index)
    object.__setattr__(layer, "skip_state", state)
