"""Speed from measured seconds only. A counted or estimated saving never enters here.

`SpeedEstimate` is the measured distribution of the speed-up (log scale) that the cost model draws from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpis.errors import RecordError, StatisticsError
from kpis.records import Record, TimingPairs
from kpis.routing import conversion, estimated_ceiling
from kpis.stats import log_ratio_interval, log_ratio_moments

MIN_P99_SAMPLES = 1000


@dataclass(frozen=True)
class SpeedEstimate(Record):
    """Mean and standard error of the log speed-up over `n_pairs` interleaved pairs.

    A single pair has no standard error; with fewer than two pairs the cost model refuses to draw.
    """

    log_mean: float
    log_se: float
    n_pairs: int

    def __post_init__(self) -> None:
        """Refuse an estimate without spread information."""
        if self.n_pairs < 2 or self.log_se < 0:
            raise RecordError(
                f"SpeedEstimate: expected at least 2 pairs and log_se >= 0, got {self.n_pairs} and {self.log_se}; "
                "measure more interleaved pairs"
            )

    @property
    def ratio(self) -> float:
        """Geometric mean speed-up."""
        return math.exp(self.log_mean)


def estimate(pairs: TimingPairs) -> SpeedEstimate:
    """Speed-up distribution of interleaved pairs.

    **Formula**: mean and standard error of `log(dense_s[i] / skip_s[i])`.

    Raises:
        RecordError: with fewer than two pairs.

    Example:
        >>> estimate(TimingPairs("decode", 1, (2.0, 2.0), (1.0, 1.0))).ratio
        2.0
    """
    mean, error = log_ratio_moments(pairs.dense_s, pairs.skip_s)
    return SpeedEstimate(mean, 0.0 if error is None else error, len(pairs.dense_s))


def speed_row(
    pairs: TimingPairs,
    *,
    prompt_tokens: int,
    output_tokens: int | None,
    dtype: str,
    backend: str,
    routing: str,
    skip_rate: float,
    skippable_time_share: float,
    is_headline: bool,
) -> dict[str, Any]:
    """One `speed` row of result.json: ceiling (estimated), speed-up (measured) and their relation.

    Args:
        pairs: decode (seconds per token) or prefill (seconds per call).
        prompt_tokens: length of the prompt.
        output_tokens: generated tokens, None for prefill.
        dtype: of the weights.
        backend: name of the execution path.
        routing: "trained" or "random".
        skip_rate: share of (token, layer) pairs skipped during the timed runs.
        skippable_time_share: share of the dense time spent in decoder layers, measured.
        is_headline: whether this row is the one the gates use.
    """
    ratio, low, high = log_ratio_interval(pairs.dense_s, pairs.skip_s)
    ceiling = estimated_ceiling(skip_rate, skippable_time_share)
    return {
        "phase": pairs.phase,
        "batch": pairs.batch,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "dtype": dtype,
        "backend": backend,
        "routing": routing,
        "skip_rate": skip_rate,
        "estimated_ceiling": ceiling,
        "measured_speedup": ratio,
        "low": low,
        "high": high,
        "n_pairs": len(pairs.dense_s),
        "conversion": conversion(ratio, ceiling),
        "dense_s": float(np.median(pairs.dense_s)),
        "skip_s": float(np.median(pairs.skip_s)),
        "is_headline": is_headline,
    }


def request_pairs(prefill: TimingPairs, decode: TimingPairs, output_tokens: int) -> TimingPairs:
    """Seconds of whole requests, put together from prefill and decode pairs in the order they were measured.

    **Formula**: `request = prefill + decode per token x (output_tokens - 1)`; the prefill yields the first token.
    The shorter list decides how many requests can be put together.

    Raises:
        RecordError: when the batch sizes differ or there is no output token.

    Example:
        >>> prefill, decode = TimingPairs("prefill", 1, (1.0,), (1.0,)), TimingPairs("decode", 1, (0.2,), (0.1,))
        >>> request_pairs(prefill, decode, output_tokens=11).skip_s
        (2.0,)
    """
    if prefill.batch != decode.batch or output_tokens < 1:
        raise RecordError(
            f"request_pairs: expected one batch size and output_tokens >= 1, got {prefill.batch}, {decode.batch} "
            f"and {output_tokens}"
        )
    steps = output_tokens - 1
    n = min(len(prefill.dense_s), len(decode.dense_s))
    return TimingPairs(
        "request",
        decode.batch,
        tuple(prefill.dense_s[i] + steps * decode.dense_s[i] for i in range(n)),
        tuple(prefill.skip_s[i] + steps * decode.skip_s[i] for i in range(n)),
    )


def tpot(end_to_end_s: float, ttft_s: float, output_tokens: int) -> float | None:
    """Time per further output token of one request.

    **Formula**: `(E2E - TTFT) / (output tokens - 1)` (as in vLLM's benchmark; other tools divide differently).
    **Direction**: lower is better.
    **Undefined when**: fewer than two output tokens (None).

    Example:
        >>> tpot(2.0, 1.0, 11)
        0.1
    """
    return None if output_tokens < 2 else (end_to_end_s - ttft_s) / (output_tokens - 1)


def percentiles(
    samples_s: Sequence[float], min_p99_samples: int = MIN_P99_SAMPLES, n_failed: int = 0
) -> dict[str, Any]:
    """Median and 90th percentile with n; a 99th only with enough samples to have one.

    **Formula**: linear interpolation between order statistics; with failed requests the next higher order
    statistic, a failed one being slower than any answer.
    **Undefined when**: without samples all are None, and where a percentile falls among the failed requests.
    `p99` is absent below `min_p99_samples`.

    Example:
        >>> percentiles([1.0, 2.0, 3.0])["p50"]
        2.0
    """
    n = len(samples_s) + n_failed
    if n == 0:
        return {"p50": None, "p90": None, "n": 0}
    values = np.sort(np.asarray(samples_s, dtype=float))
    if not np.isfinite(values).all() or (values < 0).any():
        raise StatisticsError("percentiles: expected finite times of 0 s or more; drop failed requests and count them")
    shares = {"p50": 0.5, "p90": 0.9} | ({"p99": 0.99} if n >= min_p99_samples else {})
    if not n_failed:
        return {**{name: float(np.quantile(values, share)) for name, share in shares.items()}, "n": n}
    ranks = {name: math.ceil(share * (n - 1) - 1e-9) for name, share in shares.items()}
    return {**{name: float(values[rank]) if rank < len(values) else None for name, rank in ranks.items()}, "n": n}


def responses(
    *,
    ttft_dense_s: Sequence[float],
    ttft_skip_s: Sequence[float],
    tpot_dense_s: Sequence[float],
    tpot_skip_s: Sequence[float],
    slo_ttft_s: float,
    slo_tpot_s: float,
    load: str,
    min_p99_samples: int = MIN_P99_SAMPLES,
) -> dict[str, Any]:
    """The `responses` object of result.json for requests that were measured one after the other.

    Responses under load come from `kpis.load_test.load_responses`.

    Args:
        ttft_dense_s: seconds to first token, dense model, one per request.
        ttft_skip_s: the same for the skip model.
        tpot_dense_s: seconds per further token, dense model, one per request.
        tpot_skip_s: the same for the skip model.
        slo_ttft_s: promise to users for the first.
        slo_tpot_s: promise to users for the second.
        load: under which load the requests ran, in words.
        min_p99_samples: requests needed for a 99th percentile.
    """
    n = min_p99_samples
    return {
        "ttft_s": {"dense": percentiles(ttft_dense_s, n), "skip": percentiles(ttft_skip_s, n)},
        "tpot_s": {"dense": percentiles(tpot_dense_s, n), "skip": percentiles(tpot_skip_s, n)},
        "slo": {"ttft_s": slo_ttft_s, "tpot_s": slo_tpot_s},
        "load": load,
        "basis": "sequential",
        "load_test": None,
    }
