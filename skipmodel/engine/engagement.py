"""The engagement rule: skip where this machine gains by it, run densely where it does not.

A calibration of a few seconds times three things per phase, batch size and length: dense, routing on with about a
tenth skipped, and with about a third skipped. Time falls with the skip rate along the line through the last two,
which starts above dense by what routers and gathering cost; where it lies below dense by a margin, skipping engages.
Whoever runs the engine asks `Engagement.choose`; the engine itself keeps no such state.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from skipmodel.engine.executor import Routing
from skipmodel.errors import MeasurementError

Phase = Literal["decode", "prefill"]
SCHEMA_VERSION = 1
MIN_GAIN = 0.02
"""Least predicted gain: timings of a few seconds are no better than this."""


@dataclass(frozen=True)
class PhaseCost:
    """Measured seconds of one phase at one batch size and length.

    Attributes:
        batch: Sequences.
        tokens: Length of the prompt that is read, or of the context behind a decoded token.
        dense_s: Dense. Decode: seconds per step; prefill: seconds per call. [s]
        none_s: Routing on, next to nothing skipped: the start of the line. [s]
        some_s: Routing on, `some_rate` skipped. [s]
        some_rate: Share of all layer executions skipped there.
    """

    phase: Phase
    batch: int
    tokens: int
    dense_s: float
    none_s: float
    some_s: float
    some_rate: float

    def __post_init__(self) -> None:
        """Refuse what no clock gives."""
        times = (self.dense_s, self.none_s, self.some_s)
        if self.phase not in ("decode", "prefill") or self.batch < 1 or self.tokens < 1 or not self.some_rate > 0:
            raise MeasurementError(
                "engagement: expected phase decode or prefill, batch and tokens of 1 or more and a rate above 0, got "
                f"{self.phase!r}, {self.batch}, {self.tokens} and {self.some_rate}; calibrate again"
            )
        if not all(math.isfinite(value) and value > 0 for value in times):
            raise MeasurementError(f"engagement: expected three times above 0 s, got {times}; calibrate again")

    def routed_s(self, skip_rate: float) -> float:
        """Return the seconds at a skip rate by the line through both routed timings, never below 0.

        **Formula**: n - (n - some) * skip_rate / some_rate with n = max(none, dense): routers add work, so that a
        routed pass that skips nothing and is faster than dense is noise.
        """
        none_s = max(self.none_s, self.dense_s)
        return max(0.0, none_s - (none_s - self.some_s) * skip_rate / self.some_rate)

    @property
    def break_even(self) -> float | None:
        """Least skip rate from which skipping is no slower than dense; None if it never is.

        **Formula**: some_rate * (none - dense) / (none - some), 0 where the routers cost nothing.
        """
        if self.none_s <= self.dense_s:
            return 0.0
        if self.some_s >= self.none_s:
            return None
        rate = self.some_rate * (self.none_s - self.dense_s) / (self.none_s - self.some_s)
        return rate if rate <= 1.0 else None


@dataclass(frozen=True)
class Engagement:
    """The costs of one model on one machine, and the rule that reads them.

    Attributes:
        hardware: Fingerprint of the machine: what a timing depends on.
        dtype: Number format of the weights.
        model_key: Identifies shape and routed units of the model, engine, form of the weights and rows at once.
        costs: Measured cells.
        min_gain: Predicted gain from which skipping engages.
    """

    hardware: dict[str, Any]
    dtype: str
    model_key: str
    costs: tuple[PhaseCost, ...]
    min_gain: float = MIN_GAIN

    def predicted_s(self, phase: Phase, batch: int, tokens: int, skip_rate: float) -> tuple[float, float] | None:
        """Return predicted seconds, dense and routed; None without a measured cell of the phase.

        Between measured cells the logarithm of a time is linear in log(tokens), then in log(batch); beyond the ends
        the nearest cell counts.
        """
        by_batch: dict[int, list[tuple[float, float, float]]] = {}
        for cost in self.costs:
            if cost.phase == phase:
                point = (math.log(cost.tokens), cost.dense_s, cost.routed_s(skip_rate))
                by_batch.setdefault(cost.batch, []).append(point)
        if not by_batch:
            return None
        dense, routed = [], []
        for size, points in sorted(by_batch.items()):
            at = math.log(tokens)
            dense.append((math.log(size), _between([(x, y) for x, y, _ in points], at)))
            routed.append((math.log(size), _between([(x, y) for x, _, y in points], at)))
        return _between(dense, math.log(batch)), _between(routed, math.log(batch))

    def engages(self, phase: Phase, batch: int, tokens: int, skip_rate: float) -> bool:
        """Tell whether skipping is predicted to gain at least `min_gain`; not where nothing was measured.

        **Formula**: dense / routed - 1 >= min_gain.
        """
        predicted = self.predicted_s(phase, batch, tokens, skip_rate)
        if predicted is None:
            return False
        dense_s, routed_s = predicted
        return dense_s >= (1.0 + self.min_gain) * routed_s

    def choose(
        self, routing: Routing | None, phase: Phase, batch: int, tokens: int, skip_rate: float
    ) -> Routing | None:
        """Return the routing where it pays, None (dense) where it does not.

        Args:
            routing: What would be used without the rule; None stays None.
            phase: decode or prefill.
            batch: Sequences of the call.
            tokens: Length of the prompt, or of the context.
            skip_rate: Share of all layer executions that this routing is known to skip.
        """
        return routing if routing is not None and self.engages(phase, batch, tokens, skip_rate) else None

    def why_not(self, hardware: dict[str, Any], dtype: str, key: str) -> str | None:
        """Return why these costs say nothing about another machine, dtype or model; None if they hold."""
        changed = [name for name in sorted({*hardware, *self.hardware})
                   if hardware.get(name) != self.hardware.get(name)]  # fmt: skip
        if changed:
            told = ", ".join(f"{name} {self.hardware.get(name)!r} then, {hardware.get(name)!r} now" for name in changed)
            return f"it was measured on another machine ({told})"
        if dtype != self.dtype:
            return f"it was measured in {self.dtype}, the model runs in {dtype}"
        if key != self.model_key:
            return "it was measured with another model, or with other weights or rows at once"
        return None

    def to_json(self) -> dict[str, Any]:
        """The document that `save` writes, with the break-even rate of each cell for the reader."""
        costs = [dataclasses.asdict(cost) | {"break_even": cost.break_even} for cost in self.costs]
        return {"schema_version": SCHEMA_VERSION, "hardware": self.hardware, "dtype": self.dtype,
                "model_key": self.model_key, "min_gain": self.min_gain, "costs": costs}  # fmt: skip

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False) + "\n", "utf-8")


def load(path: Path) -> Engagement:
    """Read what `save` wrote; ask `why_not` before using it.

    Raises:
        MeasurementError: The file is damaged or of another version.
    """
    names = [field.name for field in dataclasses.fields(PhaseCost)]
    try:
        values = json.loads(path.read_text("utf-8"))
        if values["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {values['schema_version']}, this version reads {SCHEMA_VERSION}")
        costs = tuple(PhaseCost(**{name: row[name] for name in names}) for row in values["costs"])
        return Engagement(values["hardware"], values["dtype"], values["model_key"], costs, values["min_gain"])
    except (OSError, ValueError, KeyError, TypeError, MeasurementError) as error:
        raise MeasurementError(
            f"calibration {path.name}: expected the file that a calibration writes, it cannot be used ({error}); "
            "remove it, and it is measured anew"
        ) from error


def load_for(path: Path, hardware: dict[str, Any], dtype: str, key: str) -> tuple[Engagement | None, str | None]:
    """Return the stored costs if they hold for this machine, dtype and model, or else None and the reason."""
    if not path.exists():
        return None, "it is not there yet"
    found = load(path)
    reason = found.why_not(hardware, dtype, key)
    return (found, None) if reason is None else (None, reason)


def _between(points: Sequence[tuple[float, float]], at: float) -> float:
    """Interpolate the logarithm of y linearly in x; nearest beyond the ends. A time of 0 stays 0 at its point."""
    points = sorted(points)
    if at <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if at <= x1:
            share = (at - x0) / (x1 - x0)
            return math.exp((1 - share) * math.log(max(y0, 1e-12)) + share * math.log(max(y1, 1e-12)))
    return points[-1][1]
