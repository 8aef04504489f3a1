"""Quality: what skipping layers does to the text predictions and to the answers.

Counts and shares go into result.json (`sweep_row`, `confirmation`); the one-sided bounds that the gates are
held against come from `bounds`. Where units of one document or one source depend on each other, the worse of
the exact bound and the cluster-bootstrap bound is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kpis.bootstrap import Floats, Interval, cluster_bootstrap_bca
from kpis.item_table import ItemTable
from kpis.limits import GateLimits
from kpis.quality_bounds import (
    bounds,
    delta_bounds,
    document_columns,
    pair_table,
    share_interval,
    slices,
    totals_of,
)
from kpis.records import DocumentPair, ItemPair

__all__ = [
    "bits_per_byte",
    "bounds",
    "confirmation",
    "perplexity",
    "ppl_rise",
    "slices",
    "sweep_passes",
    "sweep_row",
]

LOG_2 = math.log(2.0)


def perplexity(nll_nats: float, n_tokens: int) -> float:
    """Perplexity per token: `exp(sum of nats / tokens)`. Lower is better; only comparable with one tokenizer.

    Example:
        >>> round(perplexity(0.0, 10), 1)
        1.0
    """
    return math.exp(nll_nats / n_tokens)


def bits_per_byte(nll_nats: float, n_bytes: int) -> float:
    """Bits per UTF-8 byte: `nats / (ln 2 bytes)`. Lower is better; comparable across tokenizers.

    Example:
        >>> bits_per_byte(math.log(2.0) * 8, 8)
        1.0
    """
    return nll_nats / (LOG_2 * n_bytes)


def ppl_rise(documents: Sequence[DocumentPair], seed: int = 0, n_draws: int = 2000) -> Interval:
    """Relative rise of perplexity with a 95 % document-bootstrap interval.

    **Formula**: `ppl_skip / ppl_dense - 1 = exp((nats_skip - nats_dense) / tokens) - 1`.
    **Direction**: lower is better; 0 with a zero-width interval when both models give the same nats.

    Raises:
        RecordError: without any document.
    """
    sums = document_columns(documents, "nll_skip", "nll_dense", "n_tokens")
    return cluster_bootstrap_bca(sums, _rise, 0.95, n_draws, seed)


def sweep_row(
    documents: Sequence[DocumentPair], items: Sequence[ItemPair], seed: int = 0, n_draws: int = 2000
) -> dict[str, Any]:
    """The quality fields of one `sweep` row of result.json.

    Perplexity and agreement carry two-sided 95 % intervals, `over_skip_high` and `item_delta_low` are
    one-sided 95 % bounds. Without critical tokens or items the fields are None with a `_reason`.

    Args:
        documents: one record per validation document, at least one.
        items: question items of the validation split, may be empty.
        seed: of the bootstrap.
        n_draws: bootstrap resamples.

    Raises:
        RecordError: without any document.
    """
    totals = totals_of(documents)
    rise = ppl_rise(documents, seed, n_draws)
    same = share_interval(documents, "n_same_top1", "n_tokens", 0.95, seed, n_draws)
    row: dict[str, Any] = {
        "n_tokens": totals["n_tokens"],
        "ppl": perplexity(totals["nll_skip"], totals["n_tokens"]),
        "ppl_dense": perplexity(totals["nll_dense"], totals["n_tokens"]),
        "ppl_rise": rise.value,
        "ppl_rise_low": rise.low,
        "ppl_rise_high": rise.high,
        "bits_per_byte": bits_per_byte(totals["nll_skip"], totals["n_bytes"]),
        "bits_per_byte_dense": bits_per_byte(totals["nll_dense"], totals["n_bytes"]),
        "agreement": totals["n_same_top1"] / totals["n_tokens"],
        "agreement_low": same[0],
        "agreement_high": same[1],
        "n_critical": totals["n_critical"],
        **_critical_fields(documents, totals, seed, n_draws),
        "n_items": len(items),
        "item_accuracy": None,
        "item_accuracy_dense": None,
        "item_delta_low": None,
    }
    if items:
        row["item_accuracy"] = sum(item.skip_correct for item in items) / len(items)
        row["item_accuracy_dense"] = sum(item.dense_correct for item in items) / len(items)
        row["item_delta_low"] = delta_bounds(ItemTable.of(items), 0.05, seed, n_draws)[0]
    else:
        row["item_reason"] = "no_items"
    return row


def sweep_passes(row: Mapping[str, Any], limits: GateLimits) -> tuple[bool, list[str]]:
    """Whether a sweep row may be chosen, with every reason against it.

    Validation sets are small, so this asks less than the test gates: the upper 95 % bound of the perplexity
    rise and the share of over-skipped critical tokens are within their limits, agreement is high enough, and
    answer accuracy is not refuted. The upper bound of the accuracy difference is mirrored from the stored
    lower bound, which makes a refutation slightly rarer than Tango's own upper bound.

    Returns:
        (passes, codes of `codes.SWEEP_FAIL_REASONS`).
    """
    reasons = []
    high, low = row["ppl_rise_high"], row["ppl_rise_low"]
    if high is None or high > limits.max_ppl_rise:
        refuted = low is not None and low > limits.max_ppl_rise
        reasons.append("quality_refuted" if refuted else "quality_not_shown")
    if row["n_items"] and row["item_delta_low"] is not None:
        delta = row["item_accuracy"] - row["item_accuracy_dense"]
        if 2.0 * delta - row["item_delta_low"] < -limits.quality_margin:
            reasons.append("items_refuted")
    if row["over_skip"] is None:
        reasons.append("no_critical_tokens")
    elif row["over_skip"] > limits.max_over_skip_validation:
        reasons.append("critical_over_skip")
    if row["agreement"] < limits.min_agreement:
        reasons.append("agreement_low")
    return not reasons, reasons


def confirmation(
    documents: Sequence[DocumentPair],
    items: Sequence[ItemPair],
    *,
    skip_rate: float | None,
    skip_positions_by_class: Mapping[str, tuple[int, int]],
    noise_floor_flips: int | None,
    limits: GateLimits,
    seed: int = 0,
    n_draws: int = 2000,
) -> dict[str, Any]:
    """The `confirmation` object of result.json: counts of the one test on the untouched split.

    Args:
        documents: test documents, at least one.
        items: test items, may be empty.
        skip_rate: over all tokens and layers of the test split.
        skip_positions_by_class: token class -> (executed, all) counts of (token, routed layer) pairs.
        noise_floor_flips: items whose answer differs between two dense runs; None when not re-run.
        limits: for the slice size and the error level.
        seed: of the bootstrap.
        n_draws: bootstrap resamples.
    """
    totals = totals_of(documents)
    rise = ppl_rise(documents, seed, n_draws)
    critical = _critical_fields(documents, totals, seed, n_draws)
    table = pair_table(items)
    n = len(items)
    return {
        "split": "test",
        "n_items": n,
        **table,
        "accuracy_dense": (table["n_both_right"] + table["n_harmful"]) / n if n else None,
        "accuracy_skip": (table["n_both_right"] + table["n_helpful"]) / n if n else None,
        "n_same_answer": sum(item.same_answer for item in items),
        "n_critical": totals["n_critical"],
        "n_over_skipped": totals["n_over_skipped"],
        "critical_recall": critical["critical_recall"],
        "skip_share_critical": _skipped(totals["n_critical_executed"], totals["n_critical_positions"]),
        "skip_share_other": _skipped(totals["n_other_executed"], totals["n_other_positions"]),
        "noise_floor_flips": noise_floor_flips,
        # a case that the dense model fails too says nothing about skipping
        "n_must_pass": sum(item.must_pass and item.dense_correct for item in items),
        "n_must_pass_failed": sum(item.must_pass and item.dense_correct and not item.skip_correct for item in items),
        "skip_rate": skip_rate,
        "ppl_dense": perplexity(totals["nll_dense"], totals["n_tokens"]),
        "ppl_skip": perplexity(totals["nll_skip"], totals["n_tokens"]),
        "ppl_rise": rise.value,
        "ppl_rise_low": rise.low,
        "ppl_rise_high": rise.high,
        "n_tokens": totals["n_tokens"],
        "skip_rate_by_class": [
            {"class": name, "skip_rate": _skipped(executed, positions), "n": positions}
            for name, (executed, positions) in skip_positions_by_class.items()
        ],
        "slices": [
            {key: row[key] for key in ("name", "n", "accuracy_dense", "accuracy_skip", "delta_low")}
            for row in slices(items, limits, seed, n_draws)
        ],
    }


def _critical_fields(
    documents: Sequence[DocumentPair], totals: Mapping[str, Any], seed: int, n_draws: int
) -> dict[str, Any]:
    """Recall, over-skip with its upper bound, and selectivity; None with a reason where undefined."""
    on_critical = _skipped(totals["n_critical_executed"], totals["n_critical_positions"])
    on_other = _skipped(totals["n_other_executed"], totals["n_other_positions"])
    fields: dict[str, Any] = {
        "critical_recall": None if on_critical is None else 1.0 - on_critical,
        "over_skip": None,
        "over_skip_high": None,
        "selectivity": on_critical / on_other if on_critical is not None and on_other else None,
    }
    if totals["n_critical"]:
        fields["over_skip"] = totals["n_over_skipped"] / totals["n_critical"]
        fields["over_skip_high"] = share_interval(
            documents, "n_over_skipped", "n_critical", 0.90, seed, n_draws, exact=True
        )[1]
    return fields


def _skipped(n_executed: int, n_positions: int) -> float | None:
    return 1.0 - n_executed / n_positions if n_positions else None


def _rise(sums: Floats) -> Floats:
    return np.asarray(np.expm1((sums[..., 0] - sums[..., 1]) / sums[..., 2]))
