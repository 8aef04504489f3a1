"""Intervals and sample sizes for one proportion. scipy computes; this file fixes conventions and refusals."""

from __future__ import annotations

import math

from scipy.special import betaincinv, ndtri
from scipy.stats import binomtest

from kpis.errors import StatisticsError


def wilson(k: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share, two-sided.

    **Formula**: `(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)`, `p = k/n`.
    **Source**: Wilson 1927; computed by `scipy.stats.binomtest`.

    Args:
        k: successes; like n a fraction when counted as effective trials.
        n: trials, above 0.
        confidence: two-sided level within (0, 1).

    Returns:
        (low, high), fractions.

    Raises:
        StatisticsError: unless 0 <= k <= n and n > 0.

    Example:
        >>> [round(x, 3) for x in wilson(92, 100)]
        [0.85, 0.959]
    """
    _check(k, n, confidence)
    if k != int(k) or n != int(n):  # effective counts are fractions; scipy takes whole trials only
        return _wilson(k / n, n, confidence)
    interval = binomtest(int(k), int(n)).proportion_ci(confidence, method="wilson")
    # Rounding can leave the end of the interval a hair on the wrong side of the share itself.
    return max(0.0, min(float(interval.low), k / n)), min(1.0, max(float(interval.high), k / n))


def clopper_pearson(k: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Exact (Clopper-Pearson) interval of a share, two-sided; never too short.

    **Formula**: beta quantiles `B(a/2; k, n-k+1)` and `B(1-a/2; k+1, n-k)`, `a = 1 - confidence`. A one-sided
    95 % bound is the end of the two-sided 90 % interval.
    **Source**: Clopper and Pearson 1934; quantiles from `scipy.special.betaincinv`. With effective counts, which are
    fractions, it is the interval of Korn and Graubard 1998.

    Raises:
        StatisticsError: unless 0 <= k <= n and n > 0.

    Example:
        >>> round(clopper_pearson(0, 59, confidence=0.90)[1], 4)
        0.0495
    """
    _check(k, n, confidence)
    tail = (1.0 - confidence) / 2.0
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1.0 - tail))
    return low, high


def required_n_rate(rate: float, limit: float, alpha: float = 0.05) -> int | None:
    """Cases needed to show that a share is at most `limit` when it really is `rate`.

    **Formula**: smallest n whose one-sided exact upper bound at `ceil(rate n)` failures is at most `limit`;
    with rate 0 this is `log(alpha) / log(1 - limit)`.
    **Source**: ours, from `clopper_pearson`.

    Returns:
        The count, or None when `rate >= limit`: no number of cases shows it.

    Example:
        >>> required_n_rate(0.0, 0.01)
        299
    """
    if not (0.0 <= rate <= 1.0 and 0.0 < limit < 1.0):
        raise StatisticsError(f"expected rate within [0, 1] and limit within (0, 1), got {rate} and {limit}")
    if rate >= limit:
        return None

    def shown(n: int) -> bool:
        return clopper_pearson(min(n, math.ceil(rate * n)), n, 1.0 - 2.0 * alpha)[1] <= limit

    high = 1
    while not shown(high):
        high *= 2
        if high > 10**9:  # the rate is so close to the limit that nobody could collect this many
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shown(middle) else (middle, high)
    return high


def _wilson(share: float, n: float, confidence: float) -> tuple[float, float]:
    z2 = float(ndtri(0.5 + confidence / 2.0)) ** 2
    centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n)
    reach = math.sqrt(z2 * share * (1.0 - share) / n + z2 * z2 / (4.0 * n * n)) / (1.0 + z2 / n)
    return max(0.0, min(centre - reach, share)), min(1.0, max(centre + reach, share))


def _check(k: float, n: float, confidence: float) -> None:
    if not (n > 0 and 0 <= k <= n):
        raise StatisticsError(f"expected 0 <= k <= n and n > 0, got k={k}, n={n}; a share of nothing is undefined")
    if not 0.0 < confidence < 1.0:
        raise StatisticsError(f"expected confidence within (0, 1), got {confidence}")
