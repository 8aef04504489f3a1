"""Paired timing: the same engine, weights, cache and tokens, densely and with skipping, in turn.

What is counted (executed layers), what could be gained at best (estimated ceiling) and what the clock says are
three numbers; none is derived from another.

Legend: B sequences, T tokens, L decoder layers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from skipmodel.engine.executor import Routing
from skipmodel.engine.masked import AnyEngine, MaskedEngine
from skipmodel.errors import MeasurementError

Phase = Literal["decode", "prefill"]


@dataclass(frozen=True)
class TimingRow:
    """One cell of the benchmark: raw samples of both arms, pair by pair.

    Attributes:
        dense_s, skip_s: Seconds per decoded token, or per prefill call.
        skip_rate: Counted share of all layer executions skipped in the timed runs.
        estimated_ceiling: What the counted work would gain if only weights cost time.
    """

    phase: Phase
    routing: Literal["trained", "random"]
    backend: str
    batch: int
    prompt_tokens: int
    output_tokens: int | None
    dtype: str
    skip_rate: float
    estimated_ceiling: float
    dense_s: tuple[float, ...]
    skip_s: tuple[float, ...]


def _interleave(
    run: Callable[[int, bool], float], n_texts: int, n_pairs: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Warm both arms up, then time them in pairs, one text per pair, the order of the arms alternating.

    Args:
        run: Times text `i`, densely (False) or with skipping (True). [s]
        n_texts: Texts are taken in turn.
        n_pairs: Timed pairs.
    """
    run(0, False), run(0, True)
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(n_pairs):
        for skips in (False, True) if pair % 2 == 0 else (True, False):
            times[skips].append(run(pair % n_texts, skips))
    return tuple(times[0]), tuple(times[1])


def _synchronise(engine: AnyEngine) -> None:
    """Wait for the device, so that the clock sees the work and not its launch."""
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)


def _random_rate(engine: AnyEngine, skip_rate: float) -> float:
    """Skip probability within the routed units that gives this rate over all layers."""
    routed = sum(engine.work.unit_share[index] for index in engine.routed_units)
    share = skip_rate * engine.n_layers / routed if routed > 0 else math.inf
    if share > 1.0:
        raise MeasurementError(
            f"model.measure.random_skip_rates: {skip_rate:.0%} of all layers is out of reach, only "
            f"{routed:.3g} of {engine.n_layers} layers are routed; lower it"
        )
    return share


def time_decode(
    engine: AnyEngine,
    texts: Sequence[Tensor],
    prompt_tokens: int,
    n_pairs: int,
    *,
    routing: Routing | None = None,
    forced: Sequence[Tensor] | None = None,
    random_skip_rate: float | None = None,
    seed: int = 0,
) -> TimingRow:
    """Time batch-1 decoding of fixed continuations after prompts that both arms have read densely.

    Args:
        engine: Executes the model.
        texts: Token ids, (1, T) each, all of one length; pair `i` takes text `i`, so that the spread over texts
            is in the interval. Tokens behind the prompt are fed one by one, whatever the model would choose.
        prompt_tokens: So many tokens are read before the clock starts; the rest is timed.
        n_pairs: Timed pairs.
        routing: Learned routing; or
        forced: Per text, (1, T), True at tokens that a guard makes execute every layer.
        random_skip_rate: share of all layers skipped at random, drawn before the clock starts.
        seed: Seed of that draw.
    """
    n_steps = texts[0].shape[1] - prompt_tokens
    tables: list[list[bool] | None] = [None] * n_steps
    if random_skip_rate is not None:
        routing = Routing(force_first_positions=0)
        tables = list(_random_tables(engine, random_skip_rate, n_steps, seed))
    texts = [text.to(engine.device) for text in texts]
    caches = [engine.new_cache(1, text.shape[1]) for text in texts]
    for text, cache in zip(texts, caches, strict=True):
        engine.hidden(text[:, :prompt_tokens], cache=cache)
    free = [False] * n_steps
    guards = [free] * len(texts) if forced is None else [row[0, prompt_tokens:].tolist() for row in forced]
    n_skipped: dict[int, int] = {}

    def run(index: int, skips: bool) -> float:
        cache = caches[index]
        cache.rewind(prompt_tokens)
        tokens = texts[index][:, prompt_tokens:].split(1, dim=1)
        guarded = guards[index]
        counted = 0
        start = time.perf_counter()
        for token, table, guard in zip(tokens, tables, guarded, strict=True):
            logits, n = engine.step(token, cache, routing if skips else None, table, forced=guard)
            logits.argmax(-1)
            counted += n
        _synchronise(engine)
        seconds = time.perf_counter() - start
        if skips:
            n_skipped[index] = counted
        return seconds / n_steps

    dense_s, skip_s = _interleave(run, len(texts), n_pairs)
    share = sum(n_skipped.values()) / (len(n_skipped) * n_steps * max(1, len(engine.routed_units)))
    rates = [share if index in engine.routed_units else 0.0 for index in range(engine.n_units)]
    return _row(engine, "decode", random_skip_rate, prompt_tokens, n_steps, rates, dense_s, skip_s)


def _random_tables(engine: AnyEngine, skip_rate: float, n_steps: int, seed: int) -> Any:
    """Yield per step which layers run; every step skips the nearest whole number of routed layers."""
    generator = torch.Generator().manual_seed(seed)
    routed = torch.tensor(engine.routed_units)
    want, carried = _random_rate(engine, skip_rate) * len(routed), 0.0
    for _ in range(n_steps):
        carried += want
        n_skip, carried = int(carried), carried - int(carried)
        table = [True] * engine.n_units
        for index in routed[torch.randperm(len(routed), generator=generator)[:n_skip]].tolist():
            table[index] = False
        yield table


def time_prefill(
    engine: AnyEngine,
    texts: Sequence[Tensor],
    n_pairs: int,
    *,
    routing: Routing | None = None,
    forced: Sequence[Tensor] | None = None,
    random_skip_rate: float | None = None,
    seed: int = 0,
) -> TimingRow:
    """Time reading prompts up to the logits of their last token, gathered against dense.

    Args as `time_decode`.
    """
    n_tokens = texts[0].shape[1]
    if random_skip_rate is not None:
        share = _random_rate(engine, random_skip_rate)
        rates = [share if index in engine.routed_units else 0.0 for index in range(engine.n_units)]
        generator = torch.Generator().manual_seed(seed)
        mask = torch.rand(engine.n_units, 1, n_tokens, generator=generator)
        routing = Routing(override_mask_LBT=(mask >= torch.tensor(rates)[:, None, None]).to(engine.device))
    texts = [text.to(engine.device) for text in texts]
    guards = [None] * len(texts) if forced is None else [guard.to(engine.device) for guard in forced]
    skipped: dict[int, Tensor] = {}

    def run(index: int, skips: bool) -> float:
        cache = engine.new_cache(1, n_tokens)
        arm, guard = (routing, guards[index]) if skips else (None, None)
        start = time.perf_counter()
        out = engine.hidden(texts[index], arm, cache=cache, forced_BT=guard)
        engine.logits(out.hidden_BTD[:, -1]).argmax(-1)
        _synchronise(engine)
        seconds = time.perf_counter() - start
        if out.execute_mask_LBT is not None:
            skipped[index] = (~out.execute_mask_LBT).float().mean((1, 2))
        return seconds

    dense_s, skip_s = _interleave(run, len(texts), n_pairs)
    skipped_L = torch.stack(list(skipped.values())).mean(0).tolist()
    return _row(engine, "prefill", random_skip_rate, n_tokens, None, skipped_L, dense_s, skip_s)


def _row(
    engine: AnyEngine, phase: Phase, random_skip_rate: float | None, prompt_tokens: int, output_tokens: int | None,
    rates: Sequence[float], dense_s: tuple[float, ...], skip_s: tuple[float, ...],
) -> TimingRow:  # fmt: skip
    backend = "masked"
    if not isinstance(engine, MaskedEngine):
        backend = "branch" if phase == "decode" else "gathered"
    return TimingRow(
        phase=phase, routing="trained" if random_skip_rate is None else "random", backend=backend, batch=1,
        prompt_tokens=prompt_tokens, output_tokens=output_tokens, dtype=str(engine.dtype).removeprefix("torch."),
        skip_rate=engine.work.skip_rate(rates), estimated_ceiling=engine.work.estimated_ceiling(rates),
        dense_s=dense_s, skip_s=skip_s,
    )  # fmt: skip
