"""Graded answers (exact match, character F1, reading comprehension): the same question as Q1, on scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from kpis.bootstrap import Floats, cluster_bootstrap_bca, cluster_sums
from kpis.errors import RecordError
from kpis.gate import judge_lower
from kpis.limits import GateLimits
from kpis.permutation import paired_permutation
from kpis.records import ScorePair


def graded(pairs: Sequence[ScorePair], limits: GateLimits, seed: int = 0, n_draws: int = 2000) -> dict[str, Any]:
    """Mean paired difference of graded answers, with its one-sided bounds and its permutation p-value.

    **Formula**: `mean(skip - dense)`; bounds at level 1 - alpha by BCa bootstrap over sources, never closer to the
    mean than `z^2 / (K + z^2)`, the width that K sources without any difference leave (Tango); p-value of "the
    skip model is worse" by turning the signs of whole sources.
    **Source**: Efron 1987; Tango 1998; arXiv 2602.10144.
    **Direction**: higher is better; `state` holds the lower bound against the margin of Q1.
    **Undefined when**: fewer than two sources have no bounds (None, state `not_measured`).

    Args:
        pairs: graded by one metric, at least one.
        limits: error level and margin.
        seed: of bootstrap and permutation.
        n_draws: bootstrap resamples.

    Raises:
        RecordError: without pairs, or when the metrics differ.
    """
    metrics = {pair.metric for pair in pairs}
    if len(metrics) != 1:
        raise RecordError(f"graded: expected pairs of one metric, got {sorted(metrics)}; compare each by itself")
    dense = np.array([pair.dense_score for pair in pairs])
    skip = np.array([pair.skip_score for pair in pairs])
    difference = skip - dense
    sums = cluster_sums([pair.cluster for pair in pairs], np.column_stack([difference, np.ones(len(pairs))]))
    low, high = _bounds(sums, limits.alpha, seed, n_draws)
    state = "not_measured" if low is None else judge_lower(low, high, -limits.quality_margin, strict=True)
    return {
        "metric": metrics.pop(),
        "n": len(pairs),
        "n_clusters": len(sums),
        "mean_dense": float(dense.mean()),
        "mean_skip": float(skip.mean()),
        "delta": float(difference.mean()),
        "delta_low": low,
        "delta_high": high,
        "p_worse": paired_permutation(sums[:, 0], "less", seed=seed),
        "n_worse": int((difference < 0).sum()),
        "n_better": int((difference > 0).sum()),
        "n_same_answer": sum(pair.same_answer for pair in pairs),
        "state": state,
    }


def _bounds(sums: Floats, alpha: float, seed: int, n_draws: int) -> tuple[float | None, float | None]:
    interval = cluster_bootstrap_bca(sums, _mean, 1.0 - 2.0 * alpha, n_draws, seed)
    if interval.low is None or interval.high is None:
        return None, None
    z = float(norm.ppf(1.0 - alpha))
    reach = z * z / (len(sums) + z * z)
    return min(interval.low, interval.value - reach), max(interval.high, interval.value + reach)


def _mean(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / sums[..., 1])
