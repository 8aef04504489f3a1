"""Intervals of the quality KPIs: the worse of the exact bound and the cluster-bootstrap bound.

Tokens of one document, and items made from one source, depend on each other; an interval that ignores this is
too short. An interval that only resamples is too short for rare failures. So both are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kpis.bootstrap import Floats, Statistic, cluster_bootstrap_bca, cluster_sums
from kpis.errors import RecordError
from kpis.limits import GateLimits
from kpis.paired import tango_interval
from kpis.proportions import clopper_pearson, wilson
from kpis.records import DocumentPair, ItemPair, QualityBounds


def slices(items: Sequence[ItemPair], limits: GateLimits, seed: int = 0, n_draws: int = 2000) -> list[dict[str, Any]]:
    """Accuracy per slice; slices with at least `min_slice_n` items also get bounds of the difference.

    The error is divided by the number of judged slices (the first step of Holm's procedure), so neither "all
    slices are fine" nor "one slice is worse" is a product of looking often.
    """
    names = sorted({item.slice for item in items})
    groups = {name: [item for item in items if item.slice == name] for name in names}
    judged = [name for name in names if len(groups[name]) >= limits.min_slice_n]
    rows = []
    for name in names:
        group, low, high = groups[name], None, None
        if name in judged:
            low, high = delta_bounds(group, limits.alpha / len(judged), seed, n_draws)
        rows.append(
            {
                "name": name,
                "n": len(group),
                "accuracy_dense": sum(item.dense_correct for item in group) / len(group),
                "accuracy_skip": sum(item.skip_correct for item in group) / len(group),
                "delta_low": low,
                "delta_high": high,
            }
        )
    return rows


def bounds(
    documents: Sequence[DocumentPair],
    items: Sequence[ItemPair],
    limits: GateLimits,
    seed: int = 0,
    n_draws: int = 2000,
) -> QualityBounds:
    """One-sided bounds at level 1 - alpha for the quality gates, on the records of the confirmation.

    Difference of accuracy: Tango. Flips and over-skip: Clopper-Pearson. Agreement: Wilson, two-sided. Each is
    widened to the cluster bootstrap where that is worse. None where there is nothing to bound.
    """
    level = 1.0 - 2.0 * limits.alpha
    none: tuple[float | None, float | None] = (None, None)
    delta = flip = harmful = agreement = none
    if items:
        delta = delta_bounds(items, limits.alpha, seed, n_draws)
        flips = [item.dense_correct != item.skip_correct for item in items]
        flip = item_share(items, flips, level, seed, n_draws)
        harms = [item.dense_correct and not item.skip_correct for item in items]
        harmful = item_share(items, harms, level, seed, n_draws)
        agreement = wilson(sum(item.same_answer for item in items), len(items))
    over = none
    if any(document.n_critical for document in documents):
        over = share_interval(documents, "n_over_skipped", "n_critical", level, seed, n_draws, exact=True)
    judged = [row for row in slices(items, limits, seed, n_draws) if row["delta_low"] is not None]
    # A slice that is refuted outranks one that is merely small and therefore wide.
    worst = min(judged, key=lambda row: (row["delta_high"] >= -limits.slice_margin, row["delta_low"]), default=None)
    return QualityBounds(
        delta_low=delta[0],
        delta_high=delta[1],
        flip_low=flip[0],
        flip_high=flip[1],
        harmful_low=harmful[0],
        harmful_high=harmful[1],
        agreement_low=agreement[0],
        agreement_high=agreement[1],
        over_skip_low=over[0],
        over_skip_high=over[1],
        worst_slice_delta=worst["accuracy_skip"] - worst["accuracy_dense"] if worst else None,
        worst_slice_low=worst["delta_low"] if worst else None,
        worst_slice_high=worst["delta_high"] if worst else None,
        worst_slice_n=worst["n"] if worst else None,
    )


def totals_of(documents: Sequence[DocumentPair]) -> dict[str, Any]:
    """Column sums over all documents."""
    if not documents:
        raise RecordError("expected at least one scored document, got none; check the split and the scoring stage")
    names = [name for name in DocumentPair.__dataclass_fields__ if name != "document_id"]
    return {name: sum(getattr(document, name) for document in documents) for name in names}


def document_columns(documents: Sequence[DocumentPair], *names: str) -> Floats:
    """The named counts as an array, one row per document."""
    totals_of(documents)
    return np.array([[getattr(document, name) for name in names] for document in documents], dtype=float)


def _ratio(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / sums[..., 1])


def share_interval(
    documents: Sequence[DocumentPair],
    part: str,
    whole: str,
    confidence: float,
    seed: int,
    n_draws: int,
    exact: bool = False,
) -> tuple[float, float]:
    """Worse of the binomial interval on tokens and the bootstrap interval over documents."""
    sums = document_columns([d for d in documents if getattr(d, whole)], part, whole)
    k, n = (int(total) for total in sums.sum(axis=0))
    binomial = (clopper_pearson if exact else wilson)(k, n, confidence)
    return _worse(binomial, sums, _ratio, confidence, seed, n_draws)


def item_share(
    items: Sequence[ItemPair], hits: Sequence[bool], confidence: float, seed: int, n_draws: int
) -> tuple[float, float]:
    """Worse of Clopper-Pearson on items and the bootstrap over clusters of items."""
    exact = clopper_pearson(sum(hits), len(items), confidence)
    sums = cluster_sums([i.cluster for i in items], np.array([[float(hit), 1.0] for hit in hits]))
    return exact if len(sums) == len(items) else _worse(exact, sums, _ratio, confidence, seed, n_draws)


def delta_bounds(items: Sequence[ItemPair], alpha: float, seed: int, n_draws: int) -> tuple[float, float]:
    """One-sided bounds of the accuracy difference: Tango, widened to the cluster bootstrap where worse."""
    table = pair_table(items)
    confidence = 1.0 - 2.0 * alpha
    score = tango_interval(table["n_harmful"], table["n_helpful"], len(items), confidence)
    columns = np.array([[float(item.skip_correct) - float(item.dense_correct), 1.0] for item in items])
    sums = cluster_sums([item.cluster for item in items], columns)
    return score if len(sums) == len(items) else _worse(score, sums, _ratio, confidence, seed, n_draws)


def _worse(
    interval: tuple[float, float],
    sums: Floats,
    statistic: Statistic,
    confidence: float,
    seed: int,
    n_draws: int,
) -> tuple[float, float]:
    """Widen an interval to the cluster bootstrap where the bootstrap reaches further."""
    resampled = cluster_bootstrap_bca(sums, statistic, confidence, n_draws, seed)
    low = interval[0] if resampled.low is None else min(interval[0], resampled.low)
    high = interval[1] if resampled.high is None else max(interval[1], resampled.high)
    return low, high


def pair_table(items: Sequence[ItemPair]) -> dict[str, int]:
    """The 2x2 table of right and wrong answers."""
    return {
        "n_both_right": sum(item.dense_correct and item.skip_correct for item in items),
        "n_harmful": sum(item.dense_correct and not item.skip_correct for item in items),
        "n_helpful": sum(item.skip_correct and not item.dense_correct for item in items),
        "n_both_wrong": sum(not item.dense_correct and not item.skip_correct for item in items),
    }
