"""The formula file: what one routed unit computes.

A unit is what a token may skip: a decoder layer, or its attention or feed-forward part.

    x      = normalise(input)
    gate   = [router(x) >= threshold]            (training: straight-through Gumbel-Softmax)
    layer:     h_next = layer(h)      where gate = 1,    h + skip_path(x)   where gate = 0
    sub-layer: update = sub(input)    where gate = 1,        skip_path(x)   where gate = 0

Keys and values of every token are computed either way, so a skipped token stays visible to later ones (unless
the policy of `skipmodel.kv_cache` says otherwise). This is the reference: it computes both branches for every
token and saves no time; `skipmodel.engine` does the same with the work left out.

Legend: B sequences, T tokens in this call, D hidden width, L routed units (decoder layers by default).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from skipmodel.gate import execute_mask, straight_through_gumbel, top_k_gate
from skipmodel.router import normalise

Mode = Literal["dense", "hard", "train", "replay"]


@dataclass
class RoutingState:
    """What all units of one model share during a forward pass. Owned and reset by the model."""

    mode: Mode = "dense"
    threshold_logits: list[float] = field(default_factory=list)
    """One per unit; read for routed units only."""
    force_execute_BT: Tensor | None = None
    """True where a guard forces execution, whatever the router says."""
    margin_BT: Tensor | None = None
    """Added to the router logits by a guard: above 0 a token executes more, below 0 less."""
    override_mask_LBT: Tensor | None = None
    """Decisions given from outside instead of the routers' (controls and tests); in training too."""
    capacity: float | None = None
    """Top-k routing instead of thresholds: the share of each sequence that executes."""
    is_cumulative: bool = False
    """Early exit: a token that skipped one unit skips all later ones."""
    detach_router: bool = True
    """Routing gradients stop at the router; off, they flow on into the residual stream."""
    gumbel_scale: float = 0.0
    temperature: float = 1.0
    generator: torch.Generator | None = None
    given_noise_LBT: Tensor | None = None
    """Logistic noise from outside, for a training that cuts its batch; each pass draws its own when absent."""
    noise_LBT: Tensor | None = None
    """Logistic noise of one training pass, drawn before it, so that recomputation sees the same."""
    replay_layer: int = -1
    replay_hidden_BTD: Tensor | None = None
    """Mode replay: start at this layer from this hidden state, skip that layer, run the rest densely."""
    gates_BT: dict[int, Tensor] = field(default_factory=dict)
    """Filled by the pass: gate per routed unit (float with gradient in training, bool otherwise)."""
    logits_BT: dict[int, Tensor] = field(default_factory=dict)
    """Filled by the pass: router logit per routed unit."""
    alive_BT: Tensor | None = None
    """Filled by the pass when cumulative: who has not left yet."""


class SkipLayerMixin:
    """Added to the class of a decoder layer or sub-layer; see `make_routed`."""

    skip_index: int
    skip_state: RoutingState
    skip_adds_residual: bool
    """Whether the unit's own output contains its input, as a decoder layer's does."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the unit, or route it, as the shared state says; takes and returns what the base module does."""
        state = self.skip_state
        input_BTD: Tensor = args[0] if args else kwargs["hidden_states"]
        if state.mode == "replay" and self.skip_index <= state.replay_layer:
            return self._replay(input_BTD)
        router = self._modules.get("router")  # type: ignore[attr-defined]
        if router is None or state.mode in ("dense", "replay"):
            return super().forward(*args, **kwargs)  # type: ignore[misc]
        normalised_BTD = normalise(input_BTD)
        gate_BT = self._decide(router(normalised_BTD.detach() if state.detach_router else normalised_BTD))
        state.gates_BT[self.skip_index] = gate_BT
        output = super().forward(*args, **kwargs)  # type: ignore[misc]
        executed_BTD = output if isinstance(output, Tensor) else output[0]
        skipped_BTD = self.skip_path(normalised_BTD)  # type: ignore[attr-defined]
        if self.skip_adds_residual:
            skipped_BTD = input_BTD + skipped_BTD
        mixed_BTD = _mix(gate_BT, executed_BTD, skipped_BTD)
        return mixed_BTD if isinstance(output, Tensor) else (mixed_BTD, *output[1:])

    def _decide(self, logit_BT: Tensor) -> Tensor:
        """Return the gate: boolean in mode hard, {0, 1} with the router's gradient in mode train."""
        state, index = self.skip_state, self.skip_index
        state.logits_BT[index] = logit_BT
        if state.override_mask_LBT is not None:
            gate_BT = state.override_mask_LBT[index]
        elif state.capacity is not None:
            gate_BT = top_k_gate(logit_BT, state.capacity)
        elif state.mode == "hard":
            margin_BT = 0.0 if state.margin_BT is None else state.margin_BT
            gate_BT = execute_mask(logit_BT + margin_BT, state.threshold_logits[index])
        else:
            noise_BT = None if state.noise_LBT is None else state.noise_LBT[index].to(logit_BT.device)
            gate_BT = straight_through_gumbel(
                logit_BT, scale=state.gumbel_scale, temperature=state.temperature, noise_BT=noise_BT
            )
        gate_BT = gate_BT > 0.5 if state.mode == "hard" else gate_BT.float()
        if state.force_execute_BT is not None:
            gate_BT = torch.where(state.force_execute_BT, torch.ones_like(gate_BT), gate_BT)
        if state.is_cumulative:
            if state.alive_BT is not None:
                gate_BT = gate_BT * state.alive_BT
            state.alive_BT = gate_BT
        return gate_BT

    def _replay(self, hidden_BTD: Tensor) -> Tensor:
        state = self.skip_state
        if self.skip_index < state.replay_layer or state.replay_hidden_BTD is None:
            return hidden_BTD
        start_BTD = state.replay_hidden_BTD
        return start_BTD + self.skip_path(normalise(start_BTD))  # type: ignore[attr-defined]


def _mix(gate_BT: Tensor, executed_BTD: Tensor, skipped_BTD: Tensor) -> Tensor:
    """Take one branch per token; in training also carry d(output)/d(gate) = executed - skipped to the router."""
    mixed_BTD = torch.where(gate_BT[..., None] > 0.5, executed_BTD, skipped_BTD)
    if not gate_BT.requires_grad:
        return mixed_BTD
    slope_BT = (gate_BT - gate_BT.detach()).to(mixed_BTD.dtype)  # its value is 0
    return mixed_BTD + slope_BT[..., None] * (executed_BTD - skipped_BTD).detach()


def make_routed(module: nn.Module, index: int, state: RoutingState, *, adds_residual: bool) -> None:
    """Turn a decoder layer or one of its parts into a routed unit, in place.

    The class is replaced by a subclass with `SkipLayerMixin` in front, not wrapped in a module: state-dict keys
    stay those of the base model, and hooks, recorded hidden states and gradient checkpointing go on working.
    Router and skip path are attached by the caller as `module.router` and `module.skip_path`.
    """
    base_class = type(module)
    module.__class__ = type("Routed" + base_class.__name__, (SkipLayerMixin, base_class), {})
    object.__setattr__(module, "skip_index", index)
    object.__setattr__(module, "skip_state", state)
    object.__setattr__(module, "skip_adds_residual", adds_residual)
