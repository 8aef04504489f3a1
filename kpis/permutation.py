"""Permutation test of paired scores: if both models were alike, every difference could have had the other sign.

scipy enumerates all sign patterns of few sources. For many, what is drawn is how many of the differences of one
size turn positive: the same distribution as turning each of them, at a fraction of the work.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import permutation_test as scipy_permutation_test

from kpis.bootstrap import Floats
from kpis.errors import StatisticsError

Alternative = Literal["less", "greater", "two-sided"]
MAX_EXACT = 12
"""Sources up to which all 2^K sign patterns are enumerated."""


def paired_permutation(
    differences: ArrayLike, alternative: Alternative = "less", n_draws: int = 9999, seed: int = 0
) -> float:
    """P-value of paired differences (skip minus dense) by turning signs; `less` asks "is the skip model worse?".

    **Formula**: share of sign patterns whose sum is at most the observed one; above 12 differences that are not 0,
    `(1 + hits) / (1 + draws)` over seeded draws.
    **Source**: Fisher 1935; small cases by `scipy.stats.permutation_test`, Monte Carlo as Phipson and Smyth 2010.
    On differences of -1, 0 and 1 it is the exact McNemar test. Differences of one source are added first: pass
    the sums of the clusters.
    **Undefined when**: never; without any difference the p-value is 1.

    Args:
        differences: one per independent source.
        alternative: `less`, `greater` or `two-sided`.
        n_draws: sign patterns to draw where there are too many to count.
        seed: of the generator.

    Raises:
        StatisticsError: when a difference is not finite.

    Example:
        >>> paired_permutation([-0.5, -0.25, -0.75, 0.0])
        0.125
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise StatisticsError("paired_permutation: expected a list of finite differences; drop items without a score")
    values = values[values != 0.0]
    if len(values) == 0:
        return 1.0
    if len(values) <= MAX_EXACT:
        if len(values) == 1:  # scipy wants at least two; one difference has two sign patterns
            value = float(values[0])
            return 1.0 if alternative == "two-sided" or (value > 0) == (alternative == "less") else 0.5
        result = scipy_permutation_test(
            (values,), _sum, permutation_type="samples", vectorized=True, n_resamples=np.inf, alternative=alternative
        )
        return float(result.pvalue)
    return _drawn(values, alternative, n_draws, seed)


def _sum(values: Floats, axis: int = -1) -> Floats:
    return np.asarray(values.sum(axis=axis))


def _drawn(values: Floats, alternative: Alternative, n_draws: int, seed: int) -> float:
    sizes, counts = np.unique(np.abs(values), return_counts=True)
    generator = np.random.default_rng(seed)
    positive = generator.binomial(counts, 0.5, size=(n_draws, len(sizes)))
    sums = (2 * positive - counts) @ sizes
    observed = float(values.sum())
    # sums of fractions differ in the last digits; a tie has to stay a tie
    slack = 1e-12 * float(np.abs(values).sum())
    below = (1 + np.count_nonzero(sums <= observed + slack)) / (1 + n_draws)
    above = (1 + np.count_nonzero(sums >= observed - slack)) / (1 + n_draws)
    if alternative == "less":
        return float(below)
    return float(above) if alternative == "greater" else float(min(1.0, 2.0 * min(below, above)))
