"""What a list of timings says: the speed-up of pairs with its interval, and percentiles with their n."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from skipmodel.errors import MeasurementError

MIN_P99_REQUESTS = 1000
"""A 99th percentile of fewer requests is one of its largest values, whichever came."""
MIN_CEILING_FOR_CONVERSION = 1.02


def t_quantile(share: float, degrees: int) -> float:
    """Return t with P(|T| <= t) = share, for Student's t with a whole number of degrees of freedom.

    **Formula**: with theta = atan(t / sqrt(v)), the finite sums of Abramowitz and Stegun 26.7.3 and 26.7.4, solved
    for theta by bisection.

    Example:
        >>> round(t_quantile(0.95, 5), 3)
        2.571
    """
    low, high = 0.0, math.pi / 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < share else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _within(theta: float, degrees: int) -> float:
    cosine = math.cos(theta)
    odd = degrees % 2
    term, total = (cosine if odd else 1.0), 0.0
    for k in range(degrees // 2):
        total += term
        # next factor: 2/3, 4/5, ... for odd degrees, 1/2, 3/4, ... for even ones
        step = 2 * k + 2 + odd
        term *= cosine**2 * (step - 1) / step
    return 2 / math.pi * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total


def log_ratio_interval(
    dense_s: Sequence[float], skip_s: Sequence[float], confidence: float = 0.95
) -> tuple[float, float | None, float | None]:
    """Return the speed-up of interleaved pairs and its interval; a single pair has none.

    **Formula**: exp(m), exp(m -+ t s / sqrt(n)), m and s mean and standard deviation of log(dense_s[i] / skip_s[i]),
    t of n - 1 degrees of freedom.

    Raises:
        MeasurementError: The lists differ in length, are empty, or hold a time of 0 or below.
    """
    if len(dense_s) != len(skip_s) or not dense_s or min(*dense_s, *skip_s) <= 0:
        raise MeasurementError(
            f"expected pairs of times above 0 s, got {len(dense_s)} dense and {len(skip_s)} skip times; measure again"
        )
    logs = np.log(np.asarray(dense_s, dtype=float) / np.asarray(skip_s, dtype=float))
    mean = float(logs.mean())
    if len(logs) < 2:
        return math.exp(mean), None, None
    reach = t_quantile(confidence, len(logs) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def conversion(speedup: float, ceiling: float) -> float | None:
    """Share of the estimated gain that the clock shows; None below a ceiling of 1.02, where it is noise over nothing.

    **Formula**: (speedup - 1) / (ceiling - 1).
    """
    return None if ceiling < MIN_CEILING_FOR_CONVERSION else (speedup - 1.0) / (ceiling - 1.0)


def percentiles(samples_s: Sequence[float], n_requests: int) -> dict[str, Any]:
    """Return p50, p90 and p99 of samples with the number of requests they come from.

    p99 is None below 1,000 requests; without samples all are None.
    """
    values = np.asarray(samples_s, dtype=float)

    def at(share: float) -> float | None:
        return float(np.quantile(values, share)) if len(values) else None

    p99 = at(0.99) if n_requests >= MIN_P99_REQUESTS else None
    return {"p50": at(0.5), "p90": at(0.9), "p99": p99, "n": n_requests, "n_samples": len(values)}
