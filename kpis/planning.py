"""Planning: what a number of items can show. Exact, by adding up every possible table of flips.

`required_n` in paired.py is the textbook formula; with few flips the score test is a little weaker than it says.
The functions here count what the test of gate Q1 really does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.stats import binom, norm

from kpis.bootstrap import Floats
from kpis.errors import StatisticsError
from kpis.paired import restricted_variance, tango_statistic

_IGNORED = 1e-12
"""Tables rarer than this are left out of the sum."""
MAX_ITEMS = 10_000_000
_MAX_ENUMERATED = 20_000
_MAX_FLIPS = 1_000
"""Above these the tables are too many to add up and so many that the normal approximation is off by less than 0.001."""

_NEVER = 1e-100


def non_inferiority_power(
    n: int,
    flip_rate: float,
    margin: float,
    alpha: float = 0.05,
    true_difference: float = 0.0,
    design_effect: float = 1.0,
) -> float:
    """Chance that n items show non-inferiority with a margin; with the difference at -margin, the false-pass rate.

    **Formula**: sum of the trinomial probabilities of all (b, c) whose score statistic `T(-m)` exceeds
    `z_{1-alpha}`; for each b these are all c from some smallest one on, as T rises with every helpful flip. Items
    that repeat each other count as `n / design_effect` independent ones.
    Above 20,000 items or 1,000 expected flips the normal approximation of the same test.
    **Source**: enumeration of Tango's test, ours; `design_effect` as in Kish 1965.
    **Direction**: higher is better, except at the margin.

    Args:
        n: items.
        flip_rate: share of items that really flip, at least the size of the true difference.
        margin: accepted loss, within (0, 1).
        alpha: one-sided error.
        true_difference: skip minus dense.
        design_effect: variance with clusters divided by variance without, above 0; see `design_effect`.

    Example:
        >>> round(non_inferiority_power(773, 0.05, 0.02), 3)
        0.777
    """
    size = math.floor(n / design_effect) if design_effect > 0 else 0
    if size < 1 or not (0.0 < margin < 1.0 and 0.0 < alpha < 0.5):
        raise StatisticsError(
            f"expected n / design_effect >= 1, margin within (0, 1) and alpha within (0, 0.5); got {n}, "
            f"{design_effect}, {margin} and {alpha}"
        )
    if not abs(true_difference) <= flip_rate <= 1.0:
        raise StatisticsError(
            f"expected |true_difference| <= flip_rate <= 1, got {true_difference} and {flip_rate}: every point of "
            "difference is a flip"
        )
    harmful, helpful = (flip_rate - true_difference) / 2.0, (flip_rate + true_difference) / 2.0
    # scipy overflows below the smallest normal numbers; so rare a flip never happens
    harmful, helpful = (0.0 if rate < _NEVER else rate for rate in (harmful, helpful))
    if size > _MAX_ENUMERATED or size * flip_rate > _MAX_FLIPS:
        return _large_sample_power(size, harmful, helpful, margin, alpha)
    b = _likely(size, harmful)
    # given b harmful flips, the helpful ones are binomial among the rest
    rest = min(1.0, helpful / (1.0 - harmful)) if harmful < 1.0 else 0.0
    least_c = _least_helpful(b, size, margin, alpha)
    return float(min(1.0, (binom.pmf(b, size, harmful) * binom.sf(least_c - 1.0, size - b, rest)).sum()))


def _least_helpful(b: Floats, n: int, margin: float, alpha: float) -> Floats:
    """Smallest number of helpful flips with which n items and b harmful flips show non-inferiority.

    Bisection for all b at once; one more than the items left where none is enough.
    """
    z = float(norm.ppf(1.0 - alpha))
    low, high = np.full(len(b), -1.0), n - b + 1.0
    while (high - low > 1.0).any():
        middle = np.floor((low + high) / 2.0)
        inside = np.clip(middle, 0.0, n - b)
        shown = tango_statistic(b, inside, n, -margin) > z
        is_open = high - low > 1.0
        high = np.where(is_open & shown, middle, high)
        low = np.where(is_open & ~shown, middle, low)
    return high


def _large_sample_power(n: int, harmful: float, helpful: float, margin: float, alpha: float) -> float:
    """The numerator of T is normal with its true spread; the test divides by the restricted one."""
    difference = helpful - harmful
    restricted = math.sqrt(float(restricted_variance(harmful * n, helpful * n, n, -margin)))
    spread = math.sqrt((harmful + helpful - difference**2) * n)
    room = n * (difference + margin) - float(norm.ppf(1.0 - alpha)) * restricted
    return float(norm.cdf(room / spread)) if spread > 0.0 else float(room > 0.0)


def _likely(n: int, share: float) -> Floats:
    """Counts that are not practically impossible, with room for what the other flips take away."""
    low, high = binom.ppf([_IGNORED, 1.0 - _IGNORED], n, share)
    spread = high - low + 1
    return np.arange(max(0.0, low - spread), min(float(n), high + spread) + 1.0)


@lru_cache(maxsize=1024)
def items_for_power(
    flip_rate: float,
    margin: float,
    alpha: float = 0.05,
    power: float = 0.80,
    true_difference: float = 0.0,
    design_effect: float = 1.0,
) -> int | None:
    """Items with which the score test really has the wanted power.

    **Formula**: smallest n with `non_inferiority_power(n) >= power`, found by bisection (the power saws by a few
    tenths of a point, since counts are whole).
    **Source**: ours.
    **Undefined when**: the true difference is at or below -margin, or ten million items would not do (None).

    Example:
        >>> items_for_power(0.05, 0.02)
        819
    """
    if true_difference <= -margin:
        return None

    def enough(n: int) -> bool:
        return non_inferiority_power(n, flip_rate, margin, alpha, true_difference, design_effect) >= power

    return _smallest(enough, math.ceil(design_effect))


def _smallest(enough: Callable[[int], bool], first: int) -> int | None:
    high = first
    while not enough(high):
        high *= 2
        if high > MAX_ITEMS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if middle >= first and enough(middle) else (middle, high)
    return high


def detectable_margin(
    n: int, flip_rate: float, alpha: float = 0.05, power: float = 0.80, design_effect: float = 1.0
) -> float:
    """Smallest margin that n items can show when both models are equally good: what this test could not have seen.

    **Formula**: smallest m with `non_inferiority_power(n, flip_rate, m) >= power`, to 1e-6.
    **Source**: ours; the non-inferiority counterpart of `mde`.
    **Direction**: lower is better. A fraction (0.02 = two points).

    Example:
        >>> round(detectable_margin(300, 0.05), 3)
        0.035
    """
    low, high = 0.0, 1.0 - 1e-9
    while high - low > 1e-6:
        middle = (low + high) / 2.0
        reached = non_inferiority_power(n, flip_rate, middle, alpha, 0.0, design_effect) >= power
        low, high = (low, middle) if reached else (middle, high)
    return high


def design_effect(sums: Floats) -> float | None:
    """How many times more variance a share has because items of one source repeat each other.

    **Formula**: variance of the ratio over clusters, `sum (y_k - r n_k)^2 K / (K - 1) / N^2`, divided by that of N
    independent items with the same values, `(sum of squares / N - r^2) / (N - 1)`.
    **Source**: Kish 1965, linearised ratio; as the cluster standard error of arXiv 2411.00640.
    **Direction**: lower is better; 1 means that clusters do not matter, `n / design effect` is the effective n.
    **Undefined when**: fewer than two clusters, or no item differs from another (None).

    Args:
        sums: per cluster the sum of the values, the number of items and the sum of the squared values.

    Example:
        >>> round(design_effect(np.array([[2.0, 2.0, 2.0], [0.0, 2.0, 0.0]] * 50)), 2)
        2.01
    """
    n_clusters = len(sums)
    total, n_items, squares = (float(value) for value in sums.sum(axis=0))
    ratio = total / n_items if n_items else 0.0
    plain = (squares / n_items - ratio**2) / (n_items - 1.0) if n_items > 1 else 0.0
    if n_clusters < 2 or plain <= 0.0:
        return None
    residual = sums[:, 0] - ratio * sums[:, 1]
    clustered = float((residual**2).sum()) * n_clusters / (n_clusters - 1) / n_items**2
    return clustered / plain
