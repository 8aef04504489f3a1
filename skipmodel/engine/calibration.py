"""Measuring what the engagement rule reads: a few seconds of dense and routed passes on the machine at hand.

Legend: B sequences, T tokens.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skipmodel.engine.engagement import MIN_GAIN, Engagement, Phase, PhaseCost
from skipmodel.engine.executor import Engine, Routing
from skipmodel.engine.masked import AnyEngine
from skipmodel.errors import MeasurementError

FEW_RATE, SOME_RATE = 0.1, 0.35
"""Shares of the routed decisions that the second and the third timing skip."""
LEAST_RATE = 0.02
"""Timings whose skip rates differ by less than this say nothing of the slope."""
DECODE_STEPS = 4
ROUNDS = 16
"""Many short rounds tell more than few long ones: a shared machine changes its speed from second to second."""


def synchronise(engine: AnyEngine) -> None:
    """Wait for the device, so that the clock sees the work and not its launch."""
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)


def cpu_name() -> str:
    """Return the processor's model name."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def hardware(device: torch.device) -> dict[str, Any]:
    """Return the fingerprint of a machine: the facts on which a timing depends."""
    is_cuda = device.type == "cuda"
    return {
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if is_cuda else cpu_name(),
        "n_cores": os.cpu_count() or 1,
        "n_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
    }


def model_key(engine: AnyEngine, weights: str = "float") -> str:
    """Return what identifies a model for its timings: its work and routed units, engine, weights, rows at once.

    Two checkpoints of one shape share it, whatever they learned: time does not depend on the values.
    """
    rows = engine.group_rows if isinstance(engine, Engine) else 0
    facts = (type(engine).__name__, engine.work, engine.routed_units, weights, rows)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


@dataclass
class _Point:
    """One cell of the calibration, ready to run."""

    engine: AnyEngine
    phase: Phase
    batch: int
    tokens: int
    ids_BT: Tensor
    cache: Any = None
    n_skipped: list[float] = field(default_factory=list)

    def prepare(self) -> None:
        """Fill the cache of a decode cell."""
        self.cache = self.engine.new_cache(self.batch, self.tokens + DECODE_STEPS)
        if self.phase == "decode":
            self.engine.hidden(self.ids_BT[:, : self.tokens], cache=self.cache)

    def run(self, routing: Routing | None) -> float:
        """Run one call, or some steps, and return the seconds of one; the skip rate is kept aside."""
        engine, cache = self.engine, self.cache
        if self.phase == "prefill":
            # the executor's cache is preallocated: new memory would be touched inside the clock
            cache = cache if isinstance(engine, Engine) else engine.new_cache(self.batch, self.tokens)
            cache.rewind(0)
            start = time.perf_counter()
            out = engine.hidden(self.ids_BT[:, : self.tokens], routing, cache=cache)
            engine.logits(out.hidden_BTD[:, -1]).argmax(-1)
            synchronise(engine)
            seconds = time.perf_counter() - start
            self._count([] if out.execute_mask_LBT is None else [out.execute_mask_LBT])
            return seconds
        cache.rewind(self.tokens)
        counted, masks = 0, []
        start = time.perf_counter()
        for token in self.ids_BT[:, self.tokens :].split(1, dim=1):
            if self.batch == 1:
                logits, n = engine.step(token, cache, routing)
                counted += n
            else:
                out = engine.hidden(token, routing, cache=cache)
                logits = engine.logits(out.hidden_BTD[:, -1])
                masks += [] if out.execute_mask_LBT is None else [out.execute_mask_LBT]
            logits.argmax(-1)
            synchronise(engine)
        seconds = (time.perf_counter() - start) / DECODE_STEPS
        if self.batch == 1:
            share = counted / DECODE_STEPS / max(1, len(engine.routed_units))
            rates = [share if index in engine.routed_units else 0.0 for index in range(engine.n_units)]
            self.n_skipped.append(engine.work.skip_rate(rates))
        else:
            self._count(masks)
        return seconds

    def _count(self, masks: Sequence[Tensor]) -> None:
        if masks:
            rates = (~torch.cat(list(masks), -1)).float().mean((1, 2)).tolist()
            self.n_skipped.append(self.engine.work.skip_rate(rates))


def calibrate(
    engine: AnyEngine,
    *,
    phases: Sequence[Phase] = ("decode", "prefill"),
    batches: Sequence[int] = (1, 4, 16),
    tokens: Sequence[int] = (64, 256),
    weights: str = "float",
    vocabulary: int = 1000,
    budget_s: float = 10.0,
    min_gain: float = MIN_GAIN,
    seed: int = 0,
) -> Engagement:
    """Time dense, routed and skipping passes in turn, and return the costs of this machine.

    **Formula**: dense is the median of its times; the other two are that times a careful ratio to dense: the median
    of the ratios within a round, in which cancels what slows a whole round down, plus its standard error,
    1.25 sd / sqrt(n). Where timings are too noisy to tell, the rule then says dense.

    The routers decide by themselves, at thresholds under which about a tenth and a third of what they see skips, so
    that their cost, that of gathering and, on a GPU, the wait for their decision are in the times; what a pass would
    take that skips next to nothing is read off the line through both. Cells run from the smallest up; those that the
    rest of the budget would not cover are left out, the first of each phase never.

    Args:
        engine: What is to be judged, in its dtype, with its rows at once.
        phases: Phases to calibrate.
        batches: Batch sizes.
        tokens: Lengths.
        weights: float or int8, as the engine was opened.
        vocabulary: Token ids are drawn below this.
        budget_s: About so many seconds are spent. [s]
        min_gain: Kept in the result.
        seed: Seed of the token ids.

    Raises:
        MeasurementError: No unit of the model may be skipped.
    """
    if not engine.routed_units:
        raise MeasurementError("engagement: expected a model with routed units, it has none; it always runs densely")
    ids_BT = torch.randint(0, vocabulary, (max(batches), max(tokens) + DECODE_STEPS),
                           generator=torch.Generator().manual_seed(seed)).to(engine.device)  # fmt: skip
    few, some = (_threshold(engine, ids_BT[:1, : min(tokens)], rate) for rate in (FEW_RATE, SOME_RATE))
    costs: list[PhaseCost] = []
    started = time.perf_counter()
    for number, phase in enumerate(phases):
        share_s = budget_s * (number + 1) / len(phases)
        per_token_s = 0.0
        for batch, length in sorted({(b, t) for b in batches for t in tokens}, key=lambda p: (p[0] * p[1], p[0])):
            # what filling the cache, one warm-up and two rounds of three arms will take at least
            predicted_s = per_token_s * batch * length * (1 if phase == "decode" else 9)
            left_s = share_s - (time.perf_counter() - started)
            if predicted_s > left_s and per_token_s > 0:
                continue
            point = _Point(engine, phase, batch, length, ids_BT[:batch, : length + DECODE_STEPS])
            began = time.perf_counter()
            point.prepare()
            prepared_s = time.perf_counter() - began
            cost = _cost(point, few, some, max(left_s / 3, 0.0))
            per_token_s = prepared_s / batch / length if phase == "decode" else cost.dense_s / batch / length
            costs.append(cost)
    dtype = str(engine.dtype).removeprefix("torch.")
    return Engagement(hardware(engine.device), dtype, model_key(engine, weights), tuple(costs), min_gain)


def _cost(point: _Point, few: Routing, some: Routing, budget_s: float) -> PhaseCost:
    """Time the three arms in turn: a warm-up, then up to `ROUNDS` rounds while the budget lasts, two at least."""

    def rate(arm: Routing) -> float:
        point.run(arm)
        return point.n_skipped[-1]

    point.run(None)
    # Decoding may see other decisions than the text that the thresholds were read off.
    some_rate = rate(some)
    if some_rate < LEAST_RATE:
        some = Routing(math.inf)
        some_rate = rate(some)
    if some_rate - rate(few) < LEAST_RATE:
        few = Routing()
        rate(few)
    arms = (None, few, some)
    times: list[list[float]] = [[], [], []]
    rates: list[list[float]] = [[], [], []]
    started = time.perf_counter()
    for done in range(ROUNDS):
        if done >= 2 and time.perf_counter() - started > budget_s * done / (done + 1):
            break
        for turn in range(len(arms)):
            which = (done + turn) % len(arms)
            times[which].append(point.run(arms[which]))
            if which > 0:
                rates[which].append(point.n_skipped[-1])
    dense_s = statistics.median(times[0])
    few_s, some_s = (
        dense_s * _careful([arm_s / base_s for arm_s, base_s in zip(arm, times[0], strict=True)]) for arm in times[1:]
    )
    few_rate, some_rate = (statistics.fmean(values) for values in rates[1:])
    none_s = few_s + max(0.0, few_s - some_s) * few_rate / (some_rate - few_rate)
    return PhaseCost(point.phase, point.batch, point.tokens, dense_s, none_s, some_s, some_rate)


def _careful(ratios: Sequence[float]) -> float:
    """Return the median plus its standard error, that of a normal sample."""
    return statistics.median(ratios) + 1.25 * statistics.stdev(ratios) / math.sqrt(len(ratios))


def _threshold(engine: AnyEngine, ids_BT: Tensor, rate: float) -> Routing:
    """Return routing that skips about that share of the routed decisions, or all where routers do not differ."""
    out = engine.hidden(ids_BT, Routing())
    offsets = torch.tensor([engine.threshold_offsets[index] for index in engine.routed_units], device=engine.device)
    distance = (out.router_logit_LBT.float() - offsets[:, None, None]).flatten()
    cut = float(distance.sort().values[min(int(rate * len(distance)), len(distance) - 1)])
    return Routing(cut if bool((distance < cut).any()) else math.inf)
