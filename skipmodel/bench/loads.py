"""What is timed: decoding of fixed continuations and reading of prompts, for any batch.

Legend: B sequences, T tokens, L units.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skipmodel.bench.devices import EnergyMeter
from skipmodel.bench.pairs import Run
from skipmodel.engine.calibration import synchronise
from skipmodel.engine.engagement import Phase
from skipmodel.engine.executor import Engine, Routing
from skipmodel.engine.masked import AnyEngine
from skipmodel.engine.random_routing import random_prompt_mask, random_step_masks, random_tables


@dataclass(frozen=True)
class Batch:
    """Texts of one length that are run together, and where guards make them execute every layer."""

    ids_BT: Tensor
    forced_BT: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return a copy on a device."""
        return Batch(self.ids_BT.to(device), None if self.forced_BT is None else self.forced_BT.to(device))


class DecodeLoad:
    """Decoding of fixed continuations after prompts that were read densely: whatever the model would choose is fed.

    One sequence goes through the branch backend, several through the gathered one. Every step waits for the device,
    as a server does that must know the token before it can send it.

    Args:
        engine: Executes the model.
        batches: Texts, prompt and continuation together.
        prompt_tokens: So many tokens are read before the clock starts; the rest is timed.
        routing: Learned routing, or the routing that `random_skip_rate` is laid over.
        random_skip_rate: Share of all layers skipped at random, drawn before the clock starts; 0 leaves the routers
            in charge of a threshold that skips nothing, so that their own cost is measured.
        seed: Seed of that draw.
        energy: Reads the energy counter around a run.
    """

    phase: Phase = "decode"

    def __init__(
        self, engine: AnyEngine, batches: Sequence[Batch], prompt_tokens: int, routing: Routing | None = None, *,
        random_skip_rate: float | None = None, seed: int = 0, energy: EnergyMeter | None = None,
    ) -> None:  # fmt: skip
        self.engine, self.energy, self.prompt_tokens = engine, energy or EnergyMeter.none(), prompt_tokens
        self.n_texts, (self.batch, n_tokens) = len(batches), batches[0].ids_BT.shape
        self.n_steps = n_tokens - prompt_tokens
        self.routing = Routing() if routing is None else routing
        self.tables: list[list[bool] | None] = [None] * self.n_steps
        self.masks: list[Tensor] | None = None
        if random_skip_rate:
            if self.batch == 1:
                self.tables = list(random_tables(engine, random_skip_rate, self.n_steps, seed))
            else:
                self.masks = random_step_masks(engine, random_skip_rate, self.n_steps, self.batch, seed)
        self.tokens = [batch.ids_BT[:, prompt_tokens:].to(engine.device).split(1, dim=1) for batch in batches]
        self.guards = [self._guards(batch) for batch in batches]
        self.caches = [engine.new_cache(self.batch, n_tokens) for _ in batches]
        for batch, cache in zip(batches, self.caches, strict=True):
            engine.hidden(batch.ids_BT[:, :prompt_tokens].to(engine.device), cache=cache)
        self._skipped: dict[int, Tensor] = {}

    def _guards(self, batch: Batch) -> list[Any]:
        if batch.forced_BT is None:
            return [False if self.batch == 1 else None] * self.n_steps
        if self.batch == 1:
            marks: list[Any] = batch.forced_BT[0, self.prompt_tokens :].tolist()
            return marks
        return list(batch.forced_BT[:, self.prompt_tokens :].to(self.engine.device).split(1, dim=1))

    def run(self, index: int, routing: Routing | None) -> Run:
        """Time all steps after prompt `index`, densely without a routing."""
        cache = self.caches[index]
        cache.rewind(self.prompt_tokens)
        return self._one(index, cache, routing) if self.batch == 1 else self._many(index, cache, routing)

    def _one(self, index: int, cache: Any, routing: Routing | None) -> Run:
        engine, counted, marks = self.engine, 0, []
        joules = self.energy.read()
        start = time.perf_counter()
        for token, table, guard in zip(self.tokens[index], self.tables, self.guards[index], strict=True):
            logits, n = engine.step(token, cache, routing, table, forced=guard)
            logits.argmax(-1)
            synchronise(engine)
            marks.append(time.perf_counter())
            counted += n
        if routing is not None:
            share = counted / self.n_steps / max(1, len(engine.routed_units))
            rates_L = torch.zeros(engine.n_units)
            rates_L[engine.routed_units] = share
            self._skipped[index] = rates_L
        return _run(start, marks, self.energy.since(joules))

    def _many(self, index: int, cache: Any, routing: Routing | None) -> Run:
        engine, marks, executed = self.engine, [], []
        per_step: list[Routing | None] = [routing] * self.n_steps
        if routing is not None and self.masks is not None:
            per_step = [dataclasses.replace(routing, override_mask_LBT=mask) for mask in self.masks]
        joules = self.energy.read()
        start = time.perf_counter()
        for token, step_routing, guard in zip(self.tokens[index], per_step, self.guards[index], strict=True):
            out = engine.hidden(token, step_routing, cache=cache, forced_BT=None if step_routing is None else guard)
            engine.logits(out.hidden_BTD[:, -1]).argmax(-1)
            synchronise(engine)
            marks.append(time.perf_counter())
            if out.execute_mask_LBT is not None:
                executed.append(out.execute_mask_LBT)
        if executed:
            self._skipped[index] = _skipped(torch.cat(executed, -1))
        return _run(start, marks, self.energy.since(joules))

    def rates_per_unit(self) -> list[float]:
        """Return the counted skip rate of every unit, mean over the texts that ran."""
        return _mean(self._skipped, self.engine.n_units)


class PrefillLoad:
    """Reading prompts up to the logits of their last token; arguments as `DecodeLoad`, all tokens are prompt."""

    phase: Phase = "prefill"
    n_steps = 1

    def __init__(
        self, engine: AnyEngine, batches: Sequence[Batch], routing: Routing | None = None, *,
        random_skip_rate: float | None = None, seed: int = 0, energy: EnergyMeter | None = None,
    ) -> None:  # fmt: skip
        self.engine, self.energy = engine, energy or EnergyMeter.none()
        self.batches = [batch.to(engine.device) for batch in batches]
        self.n_texts, (self.batch, self.prompt_tokens) = len(batches), batches[0].ids_BT.shape
        self.routing = Routing() if routing is None else routing
        if random_skip_rate:
            mask_LBT = random_prompt_mask(engine, random_skip_rate, (self.batch, self.prompt_tokens), seed)
            self.routing = dataclasses.replace(self.routing, override_mask_LBT=mask_LBT)
        self.cache = engine.new_cache(self.batch, self.prompt_tokens)
        self._skipped: dict[int, Tensor] = {}

    def run(self, index: int, routing: Routing | None) -> Run:
        """Time one call on prompts `index`, densely without a routing."""
        engine, texts = self.engine, self.batches[index]
        if not isinstance(engine, Engine):
            self.cache = engine.new_cache(self.batch, self.prompt_tokens)
        self.cache.rewind(0)  # one preallocated cache: new memory would be touched for the first time inside the clock
        joules = self.energy.read()
        start = time.perf_counter()
        out = engine.hidden(texts.ids_BT, routing, cache=self.cache,
                            forced_BT=None if routing is None else texts.forced_BT)  # fmt: skip
        engine.logits(out.hidden_BTD[:, -1]).argmax(-1)
        synchronise(engine)
        seconds = time.perf_counter() - start
        if out.execute_mask_LBT is not None:
            self._skipped[index] = _skipped(out.execute_mask_LBT)
        return Run(seconds, joules=self.energy.since(joules))

    def rates_per_unit(self) -> list[float]:
        """Return the counted skip rate of every unit, mean over the texts that ran."""
        return _mean(self._skipped, self.engine.n_units)


Load = DecodeLoad | PrefillLoad


def _run(start: float, marks: Sequence[float], joules: float | None) -> Run:
    steps = tuple(after - before for before, after in zip([start, *marks], marks, strict=False))
    return Run((marks[-1] - start) / len(marks), steps, joules)


def _skipped(execute_mask_LBT: Tensor) -> Tensor:
    return (~execute_mask_LBT).float().mean((1, 2)).cpu()


def _mean(skipped: dict[int, Tensor], n_units: int) -> list[float]:
    rates: list[float] = torch.stack(list(skipped.values())).mean(0).tolist() if skipped else [0.0] * n_units
    return rates
