"""Cluster bootstrap: whole documents are drawn, because tokens of one document are not independent.

Every statistic here is a function of column sums (tokens, nats, flips), so a cluster is one row of sums. This
makes the jackknife of the BCa interval linear in the number of clusters; `scipy.stats.bootstrap` needs
quadratic work for it and is used in the tests as the reference. Counts repeat: of many thousand clusters only a
few dozen differ, and drawing how often each kind comes up is the same experiment at a hundredth of the work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from kpis.errors import StatisticsError

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
Statistic = Callable[[Floats], Floats]
"""Maps column sums of shape (..., m) to values of shape (...)."""

_CELLS_PER_CHUNK = 2_000_000
_MIN_CLUSTERS_BY_KIND = 200
"""Below this, drawing cluster by cluster is cheap, and figures published earlier keep their draws."""


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
    number = {name: index for index, name in enumerate(sorted(set(clusters)))}
    return sums_by_number(np.array([number[name] for name in clusters], dtype=np.intp), columns, len(number))


def sums_by_number(numbers: Integers, columns: Floats, n_clusters: int) -> Floats:
    """Like `cluster_sums`, for clusters that are already numbered from 0."""
    return np.stack([np.bincount(numbers, column, n_clusters) for column in columns.T], axis=-1)


def cluster_bootstrap_bca(
    sums: Floats,
    statistic: Statistic,
    confidence: float = 0.95,
    n_draws: int = 2000,
    seed: int = 0,
    expanded: bool = True,
) -> Interval:
    """Bias-corrected and accelerated bootstrap interval over clusters, two-sided.

    **Formula**: percentiles of the resampled statistic at `Phi(z0 + (z0 + z)/(1 - a (z0 + z)))`; z0 from the share
    of draws below the observed value (ties count half), a from the jackknife over clusters. With few clusters
    resamples spread too little; z is therefore `sqrt(K / (K - 1)) t_{K-1}` instead of the normal quantile.
    **Source**: Efron 1987; expanded levels as in Hesterberg 2015; resampling documents as in arXiv 2411.00640.
    **Undefined when**: fewer than two clusters (bounds None). Falls back to plain percentiles when z0 or a
    cannot be computed.

    Args:
        sums: one row per cluster, shape (K, m).
        statistic: function of column sums, vectorised over leading axes.
        confidence: two-sided level.
        n_draws: resamples.
        seed: of the generator; same seed, same interval.
        expanded: False gives the plain BCa interval, which with 30 clusters covers 92 instead of 95 %.

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
    reach = _reach(confidence, len(sums)) if expanded else float(ndtri(0.5 + confidence / 2.0))
    levels = _bca_levels(draws, value, jackknife, reach)
    method = "percentile" if levels is None else "bca"
    low, high = np.quantile(draws, (float(ndtr(-reach)), float(ndtr(reach))) if levels is None else levels)
    return Interval(value, float(min(low, value)), float(max(high, value)), method)


def _resample(sums: Floats, statistic: Statistic, n_draws: int, seed: int) -> Floats:
    """Statistic of `n_draws` resamples, in chunks so that memory stays small."""
    generator = np.random.default_rng(seed)
    n_clusters = len(sums)
    if n_clusters >= _MIN_CLUSTERS_BY_KIND:
        kinds, counts = np.unique(sums, axis=0, return_counts=True)
        if len(kinds) * 4 <= n_clusters:
            return _resample_kinds(kinds, counts, statistic, n_draws, generator)
    chunk = max(1, _CELLS_PER_CHUNK // n_clusters)
    parts = []
    for start in range(0, n_draws, chunk):
        picks = generator.integers(0, n_clusters, size=(min(chunk, n_draws - start), n_clusters))
        totals = np.stack([column[picks].sum(axis=1) for column in sums.T], axis=-1)
        parts.append(statistic(totals))
    return np.concatenate(parts)


def _resample_kinds(
    kinds: Floats, counts: Integers, statistic: Statistic, n_draws: int, generator: np.random.Generator
) -> Floats:
    """Statistic of resamples that are drawn as "how many clusters of each kind": the same distribution."""
    n_clusters = int(counts.sum())
    chunk = max(1, _CELLS_PER_CHUNK // len(kinds))
    parts = []
    for start in range(0, n_draws, chunk):
        drawn = generator.multinomial(n_clusters, counts / n_clusters, size=min(chunk, n_draws - start))
        parts.append(statistic(drawn @ kinds))
    return np.concatenate(parts)


def _reach(confidence: float, n_clusters: int) -> float:
    """Normal quantile whose percentiles, of resamples of few clusters, reach as far as the t-interval of a mean."""
    return math.sqrt(n_clusters / (n_clusters - 1)) * float(stdtrit(n_clusters - 1, 0.5 + confidence / 2.0))


def _bca_levels(draws: Floats, value: float, jackknife: Floats, reach: float) -> tuple[float, float] | None:
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
    for z in (-reach, reach):
        divisor = 1.0 - acceleration * (bias + z)
        if divisor <= 0.0:
            return None
        levels.append(float(ndtr(bias + (bias + z) / divisor)))
    return levels[0], levels[1]
