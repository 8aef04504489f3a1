"""Responses under load: the records of a load test of the served model, and what they say about the promised times.

A load test is made with whatever sends requests at a steady rate; it is handed over as one JSON object:

    {"schema_version": 1, "device_name": "NVIDIA L40S", "n_replicas": 1,
     "requests": [{"arm": "skip", "arrival_s": 0.0, "ttft_s": 0.41, "tpot_s": 0.021, "ok": true},
                  {"arm": "skip", "arrival_s": 0.2, "ttft_s": null, "tpot_s": null, "ok": false}]}

`device_name` is the device that served, named as in `environment.device_name` of the run's result.json: a test of
another device says nothing about this one and never counts as shown. One row per request sent, warm-up left out.
`arrival_s` is when it was sent, from any zero; requests must be sent on time, not after the one before has been
answered. `arm` is skip or dense. A failed request has no times and counts as missed. `n_replicas` is how many replicas
shared the load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kpis.errors import RecordError
from kpis.goodput import LoadRun, goodput_per_s, slo_share
from kpis.limits import GateLimits
from kpis.records import Record
from kpis.speed import percentiles


@dataclass(frozen=True)
class LoadRequest(Record):
    """One request that was sent."""

    arm: Literal["dense", "skip"]
    arrival_s: float
    ttft_s: float | None
    """Seconds to the first token; None for a failed request."""
    tpot_s: float | None
    """Seconds per further token, 0 for an answer of one token; None for a failed request."""
    ok: bool

    def __post_init__(self) -> None:
        """Refuse a request that was answered without times, or failed with them."""
        times = (self.ttft_s, self.tpot_s)
        if self.ok and any(time is None or time < 0 for time in times):
            raise RecordError(f"LoadRequest: expected ttft_s and tpot_s of 0 s or more for an answer, got {times}")
        if not self.ok and times != (None, None):
            raise RecordError(f"LoadRequest: expected null times for a failed request (ok: false), got {times}")


@dataclass(frozen=True)
class LoadTest(Record):
    """A load test as handed over."""

    schema_version: Literal[1]
    device_name: str
    n_replicas: int
    requests: tuple[LoadRequest, ...]

    def __post_init__(self) -> None:
        """Refuse a test without replicas, or whose skip model was not sent at least two requests apart in time."""
        if self.n_replicas < 1:
            raise RecordError(f"LoadTest.n_replicas must be 1 or more, got {self.n_replicas}")
        offered_per_s(self.of("skip"))

    def of(self, arm: str) -> list[LoadRequest]:
        """Requests to one model, in the order of their arrival."""
        return sorted((row for row in self.requests if row.arm == arm), key=lambda row: row.arrival_s)


def offered_per_s(requests: Sequence[LoadRequest]) -> float:
    """Requests per second that were really sent.

    **Formula**: `(n - 1) / (last arrival - first arrival)`.

    Raises:
        RecordError: with fewer than two requests, or all at one time: that is no rate.

    Example:
        >>> offered_per_s([LoadRequest("skip", t, 0.1, 0.01, True) for t in (0.0, 0.5, 1.0)])
        2.0
    """
    arrivals = [row.arrival_s for row in requests]
    if len(arrivals) < 2 or max(arrivals) == min(arrivals):
        raise RecordError(
            f"load test: expected at least two requests to the skip model at different times, got {len(arrivals)}; "
            "give every request its arrival_s and its arm"
        )
    return (len(arrivals) - 1) / (max(arrivals) - min(arrivals))


def asked_per_s(peak_per_s: float, n_planned: int, n_tested: int) -> float:
    """Rate at which the tested replicas must keep the promises: their share of the peak that the plan registers.

    **Formula**: `peak x min(1, tested replicas / planned replicas)`.

    Example:
        >>> asked_per_s(5.0, 10, 2)
        1.0
    """
    return peak_per_s * min(1.0, n_tested / n_planned)


_VENDORS = frozenset({"nvidia", "amd", "intel", "r", "tm", "corporation"})
_WORD = re.compile(r"[^\W_]+")


def same_device(one: str, other: str) -> bool:
    """Whether two names mean the same device: the same words, in any order and case, makers and marks left out.

    Strict on purpose: `A100` may be either of two devices, so it is neither.

    Example:
        >>> same_device("L40S", "NVIDIA L40S"), same_device("A100", "NVIDIA A100-SXM4-80GB")
        (True, False)
    """
    words = [frozenset(_WORD.findall(name.casefold())) - _VENDORS for name in (one, other)]
    return bool(words[0]) and words[0] == words[1]


def load_responses(test: LoadTest, limits: GateLimits, asked: float, run_device: str) -> dict[str, Any]:
    """The `responses` object of result.json from a load test; `load_test` in it says under which load, and on what.

    Percentiles count a failed request as slower than any answer.

    Args:
        test: records of the load test.
        limits: for the promised times and the number of requests a 99th percentile takes.
        asked: requests per second that the plan asks for, see `asked_per_s`.
        run_device: name of the device on which the run itself was measured.
    """
    arms = {arm: test.of(arm) for arm in ("dense", "skip")}
    skip = _load_run(arms["skip"])
    offered = offered_per_s(arms["skip"])
    return {
        **{
            name: {arm: _percentiles(rows, name, limits) for arm, rows in arms.items()} for name in ("ttft_s", "tpot_s")
        },
        "slo": {"ttft_s": limits.slo_ttft_s, "tpot_s": limits.slo_tpot_s},
        "load": f"{offered:.2f}/s, {test.n_replicas} × {test.device_name}",
        "basis": "load_test",
        "load_test": {
            "device_name": test.device_name,
            "run_device_name": run_device,
            "is_same_device": same_device(test.device_name, run_device),
            "n_replicas": test.n_replicas,
            "offered_per_s": offered,
            "asked_per_s": asked,
            "is_at_target": offered >= asked,
            "n_failed": skip.n_failed,
            "goodput_per_s": goodput_per_s(skip, limits.slo_ttft_s, limits.slo_tpot_s),
            "within_slo": slo_share(skip, limits.slo_ttft_s, limits.slo_tpot_s),
        },
    }


def is_at_target(responses: Mapping[str, Any] | None) -> bool:
    """Whether responses were measured under at least the load that the plan asks for, on the device of the run."""
    test = (responses or {}).get("load_test")
    return bool(test and test["is_at_target"] and test["is_same_device"])


def is_elsewhere(responses: Mapping[str, Any] | None) -> bool:
    """Whether responses come from a load test of another device than the run's."""
    test = (responses or {}).get("load_test")
    return bool(test and not test["is_same_device"])


def _load_run(requests: Sequence[LoadRequest]) -> LoadRun:
    offered, answered = offered_per_s(requests), [row for row in requests if row.ok]
    first, further = ([getattr(row, name) or 0.0 for row in answered] for name in ("ttft_s", "tpot_s"))
    n = len(requests)
    return LoadRun(offered, n / offered, tuple(first), tuple(further), n - len(answered))


def _percentiles(requests: Sequence[LoadRequest], name: str, limits: GateLimits) -> dict[str, Any]:
    times = [getattr(row, name) for row in requests if row.ok]
    return percentiles(times, limits.min_p99_samples, len(requests) - len(times))
