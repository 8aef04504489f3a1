"""Statistics of paired right/wrong answers: same items, two models.

Letters as in the 2x2 table: b = harmful flips (dense right, skip wrong), c = helpful flips (dense wrong,
skip right), n = all items including those on which both agree. The difference is (c - b)/n, skip minus dense.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import ndtri
from scipy.stats import binomtest, norm

from kpis.errors import StatisticsError


def mcnemar_exact_one_sided(n_harmful: int, n_helpful: int) -> float:
    """Exact McNemar p-value for "the skip model is worse".

    **Formula**: P(X >= b) with X ~ Binomial(b + c, 1/2); 1 when nothing flipped.
    **Source**: McNemar 1947, exact form; one-sided as in arXiv 2602.10144. A large p-value is no proof of
    equality: use `tango_interval` against a margin for that.

    Example:
        >>> mcnemar_exact_one_sided(5, 0)
        0.03125
    """
    if n_harmful < 0 or n_helpful < 0:
        raise StatisticsError(f"expected counts of 0 or more, got {n_harmful} and {n_helpful}")
    n_flips = n_harmful + n_helpful
    if n_flips == 0:
        return 1.0
    return float(binomtest(n_harmful, n_flips, 0.5, alternative="greater").pvalue)


def tango_statistic(n_harmful: ArrayLike, n_helpful: ArrayLike, n: int, difference: float) -> NDArray[np.float64]:
    """Tango's score statistic T of a true difference, for one table or arrays of tables with the same n.

    **Formula**: as in `tango_interval`. At difference 0 it is McNemar's `(c - b) / sqrt(b + c)`; a skip model is
    non-inferior with margin m at level alpha when `T(-m) > z_{1 - alpha}`.
    **Source**: Tango 1998, Statistics in Medicine 17:891.
    **Undefined when**: never; where the restricted variance vanishes T is infinite, or 0 if nothing differs.

    Raises:
        StatisticsError: when the difference is not within (-1, 1).

    Example:
        >>> round(float(tango_statistic(1, 0, 44, -0.1)), 3)
        1.709
    """
    if not -1.0 < difference < 1.0:
        raise StatisticsError(f"expected a difference within (-1, 1), got {difference}")
    b, c = np.asarray(n_harmful, dtype=float), np.asarray(n_helpful, dtype=float)
    numerator = c - b - n * difference
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = numerator / np.sqrt(restricted_variance(b, c, n, difference))
    return np.asarray(np.where(numerator == 0.0, 0.0, statistic), dtype=float)


def restricted_variance(n_harmful: ArrayLike, n_helpful: ArrayLike, n: float, difference: float) -> NDArray[np.float64]:
    """Variance of `c - b` under a true difference: the square of the divisor of Tango's T.

    **Formula**: `n (2 q + D (1 - D))`, q as in `tango_interval`.

    Example:
        >>> float(restricted_variance(5, 3, 100, 0.0))
        8.0
    """
    b, c = np.asarray(n_harmful, dtype=float), np.asarray(n_helpful, dtype=float)
    linear = (2 * n - c + b) * difference - b - c
    root = np.sqrt(np.maximum(linear * linear + 8.0 * n * b * difference * (1.0 - difference), 0.0))
    variance = n * ((root - linear) / (2.0 * n) + difference * (1.0 - difference))
    return np.asarray(np.maximum(variance, 0.0), dtype=float)


def tango_interval(n_harmful: float, n_helpful: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of the paired difference of two shares, skip minus dense.

    **Formula**: all D with |T(D)| <= z, `T(D) = (c - b - n D) / sqrt(n (2 q + D (1 - D)))`, where q is the
    maximum-likelihood share of harmful flips under difference D:
    `q = (sqrt(B^2 - 4 A C) - B) / 2A`, `A = 2n`, `B = (2n - c + b) D - b - c`, `C = -b D (1 - D)`.
    **Source**: Tango 1998, Statistics in Medicine 17:891; neither scipy nor scikit-learn has it. Without any
    flip the ends are `-+ z^2 / (n + z^2)`: no flip seen is not proof that none can occur.

    Args:
        n_harmful: b, dense right and skip wrong; a fraction when counted as effective items.
        n_helpful: c, dense wrong and skip right.
        n: all items, above 0.
        confidence: two-sided level.

    Returns:
        (low, high), fractions within [-1, 1].

    Raises:
        StatisticsError: unless b, c >= 0, b + c <= n and n > 0.

    Example:
        >>> [round(x, 3) for x in tango_interval(7, 1, 21)]
        [-0.517, -0.026]
    """
    if n <= 0 or min(n_harmful, n_helpful) < 0 or n_harmful + n_helpful > n:
        raise StatisticsError(f"expected b, c >= 0 and b + c <= n, n > 0; got b={n_harmful}, c={n_helpful}, n={n}")
    if not 0.0 < confidence < 1.0:
        raise StatisticsError(f"expected confidence within (0, 1), got {confidence}")
    z = float(ndtri(0.5 + confidence / 2.0))
    return _lower(n_harmful, n_helpful, n, z), -_lower(n_helpful, n_harmful, n, z)


def tango_lower_bound(n_harmful: int, n_helpful: int, n: int, alpha: float = 0.05) -> float:
    """One-sided lower bound (level 1 - alpha) of the paired difference; see `tango_interval`.

    Non-inferior with margin m when the bound is above -m.

    Example:
        >>> round(tango_lower_bound(0, 0, 133), 4)
        -0.0199
    """
    return tango_interval(n_harmful, n_helpful, n, 1.0 - 2.0 * alpha)[0]


def tango_upper_bound(n_harmful: int, n_helpful: int, n: int, alpha: float = 0.05) -> float:
    """One-sided upper bound (level 1 - alpha) of the paired difference; see `tango_interval`.

    Example:
        >>> tango_upper_bound(3, 5, 90) == -tango_lower_bound(5, 3, 90)
        True
    """
    return tango_interval(n_harmful, n_helpful, n, 1.0 - 2.0 * alpha)[1]


def required_n(
    flip_rate: float, margin: float, alpha: float = 0.05, power: float = 0.80, true_difference: float = 0.0
) -> int:
    """Items needed to show non-inferiority with a margin.

    **Formula**: `n = (z_a + z_b)^2 (F - d^2) / (m + d)^2`, F flip rate, m margin, d true difference (0 as a rule);
    never below `z_a^2 (1 - m) / m`, the n at which the score bound clears the margin without any flip.
    **Source**: normal approximation of the paired difference; the floor is ours, from Tango's score.

    Args:
        flip_rate: share of items that flip, [0, 1].
        margin: accepted loss, above 0.
        alpha: one-sided error.
        power: chance of success if the true difference is `true_difference`.
        true_difference: skip minus dense, must be above -margin.

    Raises:
        StatisticsError: when a value is out of range or the true difference is at or below -margin.

    Example:
        >>> required_n(0.05, 0.02)
        773
    """
    if not (0.0 <= flip_rate <= 1.0 and 0.0 < margin < 1.0 and 0.0 < alpha < 0.5 and 0.0 < power < 1.0):
        raise StatisticsError(
            f"expected flip_rate within [0, 1] and margin, alpha, power within (0, 1); "
            f"got {flip_rate}, {margin}, {alpha}, {power}"
        )
    if true_difference <= -margin:
        raise StatisticsError(
            f"a true difference of {true_difference} is not within the margin {margin}: no n can show it"
        )
    z_alpha, z_beta = float(norm.ppf(1.0 - alpha)), float(norm.ppf(power))
    variance = max(flip_rate - true_difference**2, 0.0)
    planned = (z_alpha + z_beta) ** 2 * variance / (margin + true_difference) ** 2
    floor = z_alpha**2 * (1.0 - margin) / margin
    return max(math.ceil(planned - 1e-9), math.floor(floor) + 1)


def mde(n: int, flip_rate: float, alpha: float = 0.05, power: float = 0.80) -> float:
    """Smallest difference that n items can detect, two-sided.

    **Formula**: `(z_{1-a/2} + z_power) sqrt(F / n)`.
    **Source**: arXiv 2605.28873.

    Returns:
        A fraction (0.05 = five points).

    Example:
        >>> round(mde(100, 0.10), 3)
        0.089
    """
    if n <= 0 or not 0.0 <= flip_rate <= 1.0:
        raise StatisticsError(f"expected n > 0 and flip_rate within [0, 1], got {n} and {flip_rate}")
    return float((norm.ppf(1.0 - alpha / 2.0) + norm.ppf(power)) * math.sqrt(flip_rate / n))


def _score(difference: float, b: float, c: float, n: float) -> float:
    """Tango's T at one difference; infinite where the restricted variance vanishes."""
    numerator = c - b - n * difference
    if numerator == 0.0:
        return 0.0
    linear = (2 * n - c + b) * difference - b - c
    constant = -b * difference * (1.0 - difference)
    q = (math.sqrt(max(linear * linear - 8.0 * n * constant, 0.0)) - linear) / (4.0 * n)
    variance = n * (2.0 * q + difference * (1.0 - difference))
    return math.copysign(math.inf, numerator) if variance <= 0.0 else numerator / math.sqrt(variance)


def _lower(b: float, c: float, n: float, z: float) -> float:
    """Difference below the observed one at which T reaches z."""
    observed = (c - b) / n
    if b == n:
        return -1.0

    def excess(difference: float) -> float:
        return min(_score(difference, b, c, n), 1e6) - z

    return float(brentq(excess, -1.0 + 1e-12, observed, xtol=1e-12))
