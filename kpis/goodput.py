"""Service level: how many requests keep the promised times, and how many per second one machine can keep.

A request counts only if it keeps both promises, first token and further tokens. Failed requests count as missed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kpis.errors import RecordError
from kpis.proportions import clopper_pearson
from kpis.records import Record


@dataclass(frozen=True)
class LoadRun(Record):
    """Requests of one model under one steady load on one machine."""

    offered_per_s: float
    """Requests sent per second."""
    duration_s: float
    """Measured window, warm-up and cool-down left out."""
    ttft_s: tuple[float, ...]
    """Seconds to the first token, one per completed request."""
    tpot_s: tuple[float, ...]
    """Seconds per further token, in the same order; 0 for an answer of one token."""
    n_failed: int = 0

    def __post_init__(self) -> None:
        """Refuse a run without requests or with unequal lists."""
        if len(self.ttft_s) != len(self.tpot_s) or len(self.ttft_s) + self.n_failed < 1 or self.n_failed < 0:
            raise RecordError(
                f"LoadRun: expected one tpot per ttft and at least one request, got {len(self.tpot_s)}, "
                f"{len(self.ttft_s)} and {self.n_failed} failed"
            )
        if not (self.offered_per_s > 0 and self.duration_s > 0):
            raise RecordError(
                f"LoadRun: expected rate and duration above 0, got {self.offered_per_s} and {self.duration_s}"
            )
        if min((*self.ttft_s, *self.tpot_s), default=0.0) < 0:
            raise RecordError("LoadRun: times must be 0 s or more")


def n_within_slo(run: LoadRun, slo_ttft_s: float, slo_tpot_s: float) -> int:
    """Completed requests that kept both promised times.

    Example:
        >>> n_within_slo(LoadRun(2.0, 1.0, (0.5, 3.0), (0.05, 0.05)), 2.0, 0.1)
        1
    """
    return sum(
        first <= slo_ttft_s and further <= slo_tpot_s for first, further in zip(run.ttft_s, run.tpot_s, strict=True)
    )


def slo_share(run: LoadRun, slo_ttft_s: float, slo_tpot_s: float, confidence: float = 0.95) -> dict[str, Any]:
    """Share of all requests within the promised times, with exact bounds.

    **Formula**: `requests within both times / (completed + failed)`; Clopper-Pearson.
    **Direction**: higher is better.

    Example:
        >>> slo_share(LoadRun(2.0, 1.0, (0.5, 3.0), (0.05, 0.05)), 2.0, 0.1)["value"]
        0.5
    """
    n, kept = len(run.ttft_s) + run.n_failed, n_within_slo(run, slo_ttft_s, slo_tpot_s)
    low, high = clopper_pearson(kept, n, confidence)
    return {"value": kept / n, "low": low, "high": high, "n": n}


def goodput_per_s(run: LoadRun, slo_ttft_s: float, slo_tpot_s: float) -> float:
    """Requests per second that keep the promised times.

    **Formula**: `requests within both times / measured seconds`.
    **Source**: as in vLLM's and AIPerf's benchmarks.
    **Direction**: higher is better.

    Example:
        >>> goodput_per_s(LoadRun(2.0, 4.0, (0.5, 3.0), (0.05, 0.05)), 2.0, 0.1)
        0.25
    """
    return n_within_slo(run, slo_ttft_s, slo_tpot_s) / run.duration_s


def capacity(
    runs: Sequence[LoadRun], slo_ttft_s: float, slo_tpot_s: float, share: float = 0.99, confidence: float = 0.95
) -> Mapping[str, Any] | None:
    """The fastest measured load at which the promises hold, before the first load at which they do not.

    **Formula**: loads from slow to fast; the lower bound of `slo_share` must reach `share`; stop at the first load
    that misses it, since a later success would be luck.
    **Undefined when**: even the slowest load misses the promises (None).

    Returns:
        `{"offered_per_s", "goodput_per_s", "share"}` of that load.
    """
    best: dict[str, Any] | None = None
    for run in sorted(runs, key=lambda run: run.offered_per_s):
        kept = slo_share(run, slo_ttft_s, slo_tpot_s, confidence)
        if kept["low"] < share:
            break
        best = {
            "offered_per_s": run.offered_per_s,
            "goodput_per_s": goodput_per_s(run, slo_ttft_s, slo_tpot_s),
            "share": kept,
        }
    return best
