"""Cluster bootstrap: whole documents are drawn, because tokens of one document are not independent.

Every statistic here is a function of column sums (tokens, nats, flips), so a cluster is one row of sums. This
makes the jackknife of the BCa interval linear in the number of clusters; `scipy.stats.bootstrap` needs
quadratic work for it and is used in the tests as the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from kpis.errors import StatisticsError

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
"""Maps column sums of shape (..., m) to values of shape (...)."""

_CELLS_PER_CHUNK = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A value with its bounds; bounds are None with fewer than two clusters."""

    value: float
    low: float | None
    high: float | None
    method: str
    """`bca`, `percentile` (BCa undefined), `degenerate` (no cluster changes the value) or `undefined`."""


def cluster_sums(clusters: Sequence[str], columns: Floats) -> Floats:
    """Add the rows that belong to one cluster.

    Args:
        clusters: cluster name of each row.
        columns: values, shape (rows, m).

    Returns:
        Sums, shape (clusters, m), clusters in sorted order.
    """
    names, inverse = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sums = np.zeros((len(names), columns.shape[1]))
    np.add.at(sums, inverse, columns)
    return sums


def cluster_bootstrap_bca(
    sums: Floats, statistic: Statistic, confidence: float = 0.95, n_draws: int = 2000, seed: int = 0
) -> Interval:
    """Bias-corrected and accelerated bootstrap interval over clusters, two-sided.

    **Formula**: percentiles of the resampled statistic at `Phi(z0 + (z0 + z)/(1 - a (z0 + z)))`; z0 from the share
    of draws below the observed value (ties count half), a from the jackknife over clusters.
    **Source**: Efron 1987; resampling documents as in arXiv 2411.00640.
    **Undefined when**: fewer than two clusters (bounds None). Falls back to plain percentiles when z0 or a
    cannot be computed.

    Args:
        sums: one row per cluster, shape (K, m).
        statistic: function of column sums, vectorised over leading axes.
        confidence: two-sided level.
        n_draws: resamples.
        seed: of the generator; same seed, same interval.

    Example:
        >>> cluster_bootstrap_bca(np.array([[1.0, 2.0], [2.0, 4.0]]), lambda s: s[..., 0] / s[..., 1]).low
        0.5
    """
    if sums.ndim != 2 or len(sums) == 0:
        raise StatisticsError(f"expected at least one cluster with columns, got an array of shape {sums.shape}")
    if n_draws < 100 or not 0.0 < confidence < 1.0:
        raise StatisticsError(f"expected n_draws >= 100 and confidence within (0, 1), got {n_draws}, {confidence}")
    total = sums.sum(axis=0)
    value = float(statistic(total))
    if len(sums) < 2:
        return Interval(value, None, None, "undefined")
    jackknife = statistic(total - sums)
    if np.ptp(jackknife) <= 1e-15 * max(1.0, abs(value)):
        return Interval(value, value, value, "degenerate")
    draws = np.sort(_resample(sums, statistic, n_draws, seed))
    tail = (1.0 - confidence) / 2.0
    levels = _bca_levels(draws, value, jackknife, tail)
    method = "percentile" if levels is None else "bca"
    low, high = np.quantile(draws, (tail, 1.0 - tail) if levels is None else levels)
    return Interval(value, float(min(low, value)), float(max(high, value)), method)


def _resample(sums: Floats, statistic: Statistic, n_draws: int, seed: int) -> Floats:
    """Statistic of `n_draws` resamples, in chunks so that memory stays small."""
    generator = np.random.default_rng(seed)
    n_clusters = len(sums)
    chunk = max(1, _CELLS_PER_CHUNK // n_clusters)
    parts = []
    for start in range(0, n_draws, chunk):
        picks = generator.integers(0, n_clusters, size=(min(chunk, n_draws - start), n_clusters))
        totals = np.stack([column[picks].sum(axis=1) for column in sums.T], axis=-1)
        parts.append(statistic(totals))
    return np.concatenate(parts)


def _bca_levels(draws: Floats, value: float, jackknife: Floats, tail: float) -> tuple[float, float] | None:
    """Percentile levels corrected for bias and skewness, or None where the correction is undefined."""
    below = (np.count_nonzero(draws < value) + 0.5 * np.count_nonzero(draws == value)) / len(draws)
    if not 0.0 < below < 1.0:
        return None
    centred = jackknife.mean() - jackknife
    spread = float((centred**2).sum()) ** 1.5
    if spread == 0.0:
        return None
    acceleration = float((centred**3).sum()) / (6.0 * spread)
    bias = float(ndtri(below))
    levels = []
    for z in (float(ndtri(tail)), float(ndtri(1.0 - tail))):
        divisor = 1.0 - acceleration * (bias + z)
        if divisor <= 0.0:
            return None
        levels.append(float(ndtr(bias + (bias + z) / divisor)))
    return levels[0], levels[1]
