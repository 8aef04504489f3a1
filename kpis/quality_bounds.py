"""Intervals of the quality KPIs: the worst of the exact bound, the same at the effective n, and the cluster bootstrap.

Tokens of one document, and items made from one source, depend on each other; an interval that ignores this is
too short. An interval that only resamples is too short for rare failures. So all are computed; `simulate` in
kpis/simulation.py shows what each truth at its limit makes of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
from scipy.special import stdtrit

from kpis.bootstrap import Floats, cluster_bootstrap_bca
from kpis.errors import RecordError
from kpis.item_table import Bools, ItemTable
from kpis.limits import GateLimits
from kpis.paired import tango_interval
from kpis.planning import design_effect
from kpis.proportions import clopper_pearson, wilson
from kpis.records import DocumentPair, ItemPair, QualityBounds


def slices(items: Sequence[ItemPair], limits: GateLimits, seed: int = 0, n_draws: int = 2000) -> list[dict[str, Any]]:
    """Accuracy per slice; slices with at least `min_slice_n` items also get bounds of the difference.

    The error is divided by the number of judged slices (the first step of Holm's procedure), so neither "all
    slices are fine" nor "one slice is worse" is a product of looking often.
    """
    table = ItemTable.of(items)
    parts = [table.part(table.slice == number) for number in range(len(table.slice_names))]
    n_judged = sum(len(part) >= limits.min_slice_n for part in parts)
    rows = []
    for name, part in zip(table.slice_names, parts, strict=True):
        low, high = None, None
        if len(part) >= limits.min_slice_n:
            low, high = delta_bounds(part, limits.alpha / n_judged, seed, n_draws)
        rows.append(
            {
                "name": name,
                "n": len(part),
                "accuracy_dense": int(part.dense.sum()) / len(part),
                "accuracy_skip": int(part.skip.sum()) / len(part),
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
    widened to its effective n and to the cluster bootstrap where those are worse. None where there is nothing to bound.
    """
    level = 1.0 - 2.0 * limits.alpha
    none: tuple[float | None, float | None] = (None, None)
    delta = flip = harmful = agreement = none
    if items:
        table = ItemTable.of(items)
        delta = delta_bounds(table, limits.alpha, seed, n_draws)
        flip = item_share(table, table.harmful | table.helpful, level, seed, n_draws)
        harmful = item_share(table, table.harmful, level, seed, n_draws)
        agreement = item_share(table, table.same, 0.95, seed, n_draws, exact=False)
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
    _some(documents)
    names = [name for name in DocumentPair.__dataclass_fields__ if name != "document_id"]
    return {name: sum(map(attrgetter(name), documents)) for name in names}


def document_columns(documents: Sequence[DocumentPair], *names: str) -> Floats:
    """The named counts as an array, one row per document."""
    _some(documents)
    return np.array(list(map(attrgetter(*names), documents)), dtype=float).reshape(len(documents), len(names))


def _some(documents: Sequence[DocumentPair]) -> None:
    if not documents:
        raise RecordError("expected at least one scored document, got none; check the split and the scoring stage")


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
    """Worse of the binomial interval on tokens and the bootstrap interval over documents.

    With `exact` (rare failures) the binomial interval is Clopper-Pearson, also at the effective number of tokens.
    """
    sums = document_columns([d for d in documents if getattr(d, whole)], part, whole)
    k, n = (int(total) for total in sums.sum(axis=0))
    if not exact:
        return _worst([wilson(k, n, confidence), _resampled(sums, confidence, seed, n_draws)])
    effect = effect_of(sums, sums[:, 0], confidence)
    intervals = [clopper_pearson(k / d, n / d, confidence) for d in dict.fromkeys((1.0, effect))]
    return _worst([*intervals, _resampled(sums, confidence, seed, n_draws)])


def item_share(
    table: ItemTable, hits: Bools, confidence: float, seed: int, n_draws: int, exact: bool = True
) -> tuple[float, float]:
    """Clopper-Pearson (or Wilson) on items; where items share a source, the worst of three.

    These are the same, the same at the effective number of items (Korn and Graubard 1998), and the bootstrap over
    sources.
    """
    binomial = clopper_pearson if exact else wilson
    plain = binomial(int(hits.sum()), len(table), confidence)
    if not table.has_repeats:
        return plain
    sums = table.sums(hits.astype(float))
    effect = effect_of(sums, sums[:, 0], confidence)
    effective = binomial(int(hits.sum()) / effect, len(table) / effect, confidence)
    return _worst([plain, effective, _resampled(sums, confidence, seed, n_draws)])


def delta_bounds(table: ItemTable, alpha: float, seed: int, n_draws: int) -> tuple[float, float]:
    """One-sided bounds of the accuracy difference: Tango; where items share a source, the worst of three.

    These are Tango, Tango at the effective number of items (as Rao and Scott 1992), and the bootstrap over sources.
    The bootstrap alone is too short while flips are few: a dozen flips are a dozen numbers to resample.
    """
    confidence = 1.0 - 2.0 * alpha
    b, c, n = int(table.harmful.sum()), int(table.helpful.sum()), len(table)
    plain = tango_interval(b, c, n, confidence)
    if not table.has_repeats:
        return plain
    difference = table.helpful.astype(float) - table.harmful.astype(float)
    sums = table.sums(difference)
    effect = effect_of(sums, table.sums(np.abs(difference))[:, 0], confidence)
    effective = tango_interval(b / effect, c / effect, n / effect, confidence)
    return _worst([plain, effective, _resampled(sums, confidence, seed, n_draws)])


def effect_of(sums: Floats, squares: Floats, confidence: float) -> float:
    """Design effect of a share of clusters, at least 1: repeats are never counted as extra evidence.

    Where it is above 1 it is estimated from K clusters, and grows by `(t_{K-1} / t_{N-1})^2` for that.

    Args:
        sums: per cluster the sum of the values and the number of units.
        squares: per cluster the sum of the squared values.
        confidence: two-sided level of the interval it is for.
    """
    effect = design_effect(np.column_stack([sums, squares]))
    if effect is None or effect <= 1.0:
        return 1.0
    tail, n_units = 0.5 + confidence / 2.0, float(sums[:, 1].sum())
    few = float(stdtrit(len(sums) - 1, tail) / stdtrit(n_units - 1, tail))
    return effect * few * few


def _resampled(sums: Floats, confidence: float, seed: int, n_draws: int) -> tuple[float | None, float | None]:
    interval = cluster_bootstrap_bca(sums, _ratio, confidence, n_draws, seed)
    return interval.low, interval.high


def _worst(intervals: Sequence[tuple[float | None, float | None]]) -> tuple[float, float]:
    """The lowest low and the highest high; an end that does not exist does not count."""
    lows = [low for low, _ in intervals if low is not None]
    highs = [high for _, high in intervals if high is not None]
    return min(lows), max(highs)


def pair_table(items: Sequence[ItemPair]) -> dict[str, int]:
    """The 2x2 table of right and wrong answers."""
    cells = Counter(map(attrgetter("dense_correct", "skip_correct"), items))
    return {
        "n_both_right": cells[True, True],
        "n_harmful": cells[True, False],
        "n_helpful": cells[False, True],
        "n_both_wrong": cells[False, False],
    }
