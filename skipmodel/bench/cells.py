"""One cell of the benchmark: dense against skip, and what the engagement rule makes of it, as one row.

What is counted (skip rate), what that could gain at best (ceiling) and what the clock says (speed-up) are three
columns; none is derived from another.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from skipmodel.bench.devices import peak_memory, reset_peak
from skipmodel.bench.loads import Load
from skipmodel.bench.pairs import Run, interleave
from skipmodel.bench.statistics import conversion, log_ratio_interval, percentiles
from skipmodel.engine.engagement import Engagement, Phase
from skipmodel.engine.executor import Engine, Routing
from skipmodel.engine.masked import AnyEngine

Kind = Literal["trained", "random"]


@dataclass(frozen=True)
class Row:
    """One row of the document. None where it was not measured; `reason` tells why a cell has no timing at all.

    Attributes:
        routing: trained (the routers decide) or random (drawn at the requested rate).
        requested_batch, batch: Differ where memory ran out and the batch was halved.
        prompt: Tokens read before decoding, or by the prefill.
        output_tokens: Decoded tokens; None for prefill.
        weights: float or int8.
        group_rows: Rows computed at once in gathered prefill; 0 is all.
        requested_skip_rate: Of random routing.
        skip_rate: Counted share of all layer executions that the routing skipped.
        ceiling: Estimated speed-up if only the counted work cost time.
        speedup, low, high: Measured, from the log ratios of pairs, with a 95 % interval; without the rule.
        conversion: (speedup - 1) / (ceiling - 1).
        engaged: Whether the rule skips here; None where there was no rule.
        speedup_with_rule, low_with_rule, high_with_rule: What a user of the rule measures; where it says dense that
            is a timing of dense against dense.
        dense_s, skip_s, rule_s: Raw samples: seconds per decode step or per prefill call. `rule_s` is None where the
            rule skips, since the arm is `skip_s` then. [s]
        ttft, tpot, itl: Percentiles of both arms. [s]
        tokens_per_s: Of both arms, at this batch, from medians.
        joules_per_token: Of both arms.
    """

    phase: Phase
    routing: Kind
    backend: str
    requested_batch: int
    batch: int
    prompt: int
    output_tokens: int | None
    dtype: str
    weights: str = "float"
    group_rows: int = 0
    requested_skip_rate: float | None = None
    skip_rate: float | None = None
    ceiling: float | None = None
    speedup: float | None = None
    low: float | None = None
    high: float | None = None
    conversion: float | None = None
    engaged: bool | None = None
    speedup_with_rule: float | None = None
    low_with_rule: float | None = None
    high_with_rule: float | None = None
    n_pairs: int = 0
    dense_s: tuple[float, ...] = ()
    skip_s: tuple[float, ...] = ()
    rule_s: tuple[float, ...] | None = None
    ttft: dict[str, Any] | None = None
    tpot: dict[str, Any] | None = None
    itl: dict[str, Any] | None = None
    tokens_per_s: dict[str, float] | None = None
    joules_per_token: dict[str, float] | None = None
    peak_memory: dict[str, Any] | None = None
    note: str | None = None
    reason: str | None = None
    reason_params: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return dataclasses.asdict(self)


def backend_of(engine: AnyEngine, phase: Phase, batch: int) -> str:
    """Return the name of the path that such a call takes."""
    if not isinstance(engine, Engine):
        return "masked"
    return "branch" if phase == "decode" and batch == 1 else "gathered"


def ceiling_of(engine: AnyEngine, phase: Phase, prompt: int, rates: Sequence[float]) -> float:
    """Return the estimated ceiling of a phase at these skip rates per unit."""
    work = engine.work
    return work.estimated_ceiling(rates) if phase == "decode" else work.prefill_ceiling(rates, prompt)


def time_cell(
    engine: AnyEngine,
    load: Load,
    *,
    n_pairs: int,
    kind: Kind,
    budget_s: float = float("inf"),
    engagement: Engagement | None = None,
    requested_skip_rate: float | None = None,
    requested_batch: int | None = None,
    weights: str = "float",
) -> Row:
    """Warm both arms up, time them in turn, and return the row.

    Args:
        engine: The engine that the load was made for; both arms run on it.
        load: What is run.
        n_pairs: Pairs, fewer where the budget ends.
        kind: Who decides what skips.
        budget_s: Seconds for the timed runs. [s]
        engagement: The rule; None leaves it out. Where it says dense, a third arm is timed densely in the same turn.
        requested_skip_rate: Told in the row.
        requested_batch: Told in the row.
        weights: Told in the row.
    """
    reset_peak(engine.device)
    skipping = load.routing
    load.run(0, None), load.run(0, skipping)
    phase, batch, prompt = load.phase, load.batch, load.prompt_tokens
    chosen: Routing | None = skipping
    if engagement is not None:
        chosen = engagement.choose(skipping, phase, batch, prompt, engine.work.skip_rate(load.rates_per_unit()))
    arms: list[Routing | None] = [None, skipping] if chosen is skipping else [None, skipping, chosen]
    timed = interleave(
        [lambda index, arm=arm: load.run(index, arm) for arm in arms],  # type: ignore[misc]
        load.n_texts, n_pairs, budget_s,
    )  # fmt: skip
    seconds = [tuple(run.seconds for run in runs) for runs in timed]
    rates = load.rates_per_unit()
    ceiling = ceiling_of(engine, phase, prompt, rates)
    speedup, low, high = log_ratio_interval(seconds[0], seconds[1])
    ruled = None if engagement is None else log_ratio_interval(seconds[0], seconds[-1])
    tokens = batch * (prompt if phase == "prefill" else 1)
    pair = {"dense": timed[0], "skip": timed[1]}
    return Row(
        phase=phase, routing=kind, backend=backend_of(engine, phase, batch),
        requested_batch=batch if requested_batch is None else requested_batch, batch=batch, prompt=prompt,
        output_tokens=load.n_steps if phase == "decode" else None, dtype=str(engine.dtype).removeprefix("torch."),
        weights=weights, group_rows=engine.group_rows if isinstance(engine, Engine) else 0,
        requested_skip_rate=requested_skip_rate, skip_rate=engine.work.skip_rate(rates), ceiling=ceiling,
        speedup=speedup, low=low, high=high, conversion=conversion(speedup, ceiling),
        engaged=None if engagement is None else chosen is not None,
        speedup_with_rule=None if ruled is None else ruled[0], low_with_rule=None if ruled is None else ruled[1],
        high_with_rule=None if ruled is None else ruled[2], n_pairs=len(seconds[0]), dense_s=seconds[0],
        skip_s=seconds[1], rule_s=seconds[2] if len(seconds) > 2 else None,
        ttft=_waits(pair, batch) if phase == "prefill" else None,
        tpot=_waits(pair, batch) if phase == "decode" else None,
        itl=_waits(pair, batch, steps=True) if phase == "decode" else None,
        tokens_per_s={name: tokens / statistics.median(run.seconds for run in runs) for name, runs in pair.items()},
        joules_per_token=_energy(pair, tokens * load.n_steps), peak_memory=peak_memory(engine.device),
    )  # fmt: skip


def _waits(pair: dict[str, list[Run]], batch: int, *, steps: bool = False) -> dict[str, Any]:
    """Percentiles per arm. Every request of a batch waits the same time; n counts requests."""
    samples = {
        name: [step for run in runs for step in run.steps_s] if steps else [run.seconds for run in runs]
        for name, runs in pair.items()
    }
    return {name: percentiles(values, len(pair[name]) * batch) for name, values in samples.items()}


def _energy(pair: dict[str, list[Run]], tokens: int) -> dict[str, float] | None:
    used = {name: [run.joules for run in runs if run.joules is not None] for name, runs in pair.items()}
    if not all(used.values()):
        return None
    return {name: sum(values) / len(values) / tokens for name, values in used.items()}
