"""Quality in detail: per document, per slice, flips by direction, and what two dense runs differ by.

None of these is a gate. They say where a loss sits, how sure the count is, and what the test could not have seen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kpis.answers import self_consistency
from kpis.errors import RecordError
from kpis.item_table import ItemTable
from kpis.limits import GateLimits
from kpis.multiple import holm
from kpis.paired import mcnemar_exact_one_sided, mde
from kpis.planning import design_effect, detectable_margin
from kpis.proportions import wilson
from kpis.quality import bits_per_byte, perplexity
from kpis.quality_bounds import item_share, slices
from kpis.records import DocumentPair, ItemPair


def document_rows(documents: Sequence[DocumentPair]) -> list[dict[str, Any]]:
    """Perplexity and bits per byte of every document, the one that lost most first.

    **Formula**: per document `exp(nats / tokens)` and `nats / (ln 2 bytes)`; `bits_per_byte_rise` is skip minus dense.
    **Source**: `kpis.quality.perplexity`, `kpis.quality.bits_per_byte`.
    **Direction**: lower is better.
    **Undefined when**: `over_skip` is None in a document without critical tokens.
    """
    rows = []
    for document in documents:
        dense = bits_per_byte(document.nll_dense, document.n_bytes)
        skip = bits_per_byte(document.nll_skip, document.n_bytes)
        rows.append(
            {
                "document_id": document.document_id,
                "n_tokens": document.n_tokens,
                "ppl_dense": perplexity(document.nll_dense, document.n_tokens),
                "ppl_skip": perplexity(document.nll_skip, document.n_tokens),
                "bits_per_byte_dense": dense,
                "bits_per_byte_skip": skip,
                "bits_per_byte_rise": skip - dense,
                "agreement": document.n_same_top1 / document.n_tokens,
                "over_skip": document.n_over_skipped / document.n_critical if document.n_critical else None,
            }
        )
    return sorted(rows, key=lambda row: (-float(row["bits_per_byte_rise"]), str(row["document_id"])))


def flips(items: Sequence[ItemPair], limits: GateLimits, seed: int = 0, n_draws: int = 2000) -> dict[str, Any]:
    """Flips split into harmful and helpful, with intervals, McNemar's test and what the test could not have seen.

    **Formula**: `b / n`, `c / n`, `(b + c) / n`; two-sided 95 % intervals (Clopper-Pearson, cluster bootstrap where
    worse); `recovery` is skip accuracy / dense accuracy; `effective_n` is `n / design effect`.
    **Source**: arXiv 2407.09141; kpis.paired, kpis.planning.
    **Direction**: fewer is better; a helpful flip is a changed answer too.
    **Undefined when**: `recovery` without any right dense answer, `detectable_*` without a flip (both None).

    Raises:
        RecordError: without items.
    """
    if not items:
        raise RecordError("flips: expected at least one item, got none; add question items to the plan")
    table = ItemTable.of(items)
    n, b, c = len(table), int(table.harmful.sum()), int(table.helpful.sum())
    difference = table.helpful.astype(float) - table.harmful.astype(float)
    effect = design_effect(np.column_stack([table.sums(difference), table.sums(difference**2)[:, 0]]))
    rate = (b + c) / n
    right = int(table.dense.sum())
    effective = n if effect is None else min(float(n), n / effect)
    row: dict[str, Any] = {"n": n, "n_clusters": table.n_clusters}
    for name, hits in (("harmful", table.harmful), ("helpful", table.helpful), ("all", table.harmful | table.helpful)):
        low, high = item_share(table, hits, 0.95, seed, n_draws)
        row[name] = {"n": int(hits.sum()), "share": int(hits.sum()) / n, "low": low, "high": high}
    return {
        **row,
        "recovery": int(table.skip.sum()) / right if right else None,
        "p_worse": mcnemar_exact_one_sided(b, c),
        "design_effect": effect,
        "effective_n": effective,
        "detectable_margin": detectable_margin(int(effective), rate, limits.alpha, limits.power) if rate else None,
        "detectable_difference": mde(int(effective), rate, limits.alpha, limits.power) if rate else None,
    }


def slice_rows(
    items: Sequence[ItemPair], limits: GateLimits, seed: int = 0, n_draws: int = 2000
) -> list[dict[str, Any]]:
    """Slices with bounds, and Holm-adjusted p-values of "the skip model is worse here", the worst first.

    **Formula**: bounds as in `kpis.quality_bounds.slices`; exact one-sided McNemar per judged slice, adjusted by Holm.
    **Source**: McNemar 1947; Holm 1979.
    **Undefined when**: a slice below `min_slice_n` has neither bounds nor a p-value (None), and stands last.
    """
    table = ItemTable.of(items)
    rows = slices(items, limits, seed, n_draws)
    judged = [row for row in rows if row["delta_low"] is not None]
    number = {name: index for index, name in enumerate(table.slice_names)}
    p_values = []
    for row in judged:
        here = table.slice == number[row["name"]]
        p_values.append(mcnemar_exact_one_sided(int((table.harmful & here).sum()), int((table.helpful & here).sum())))
    adjusted = dict(zip((row["name"] for row in judged), holm(p_values), strict=True))
    rows = [{**row, "p_worse_holm": adjusted.get(row["name"])} for row in rows]
    return sorted(rows, key=lambda row: (row["delta_low"] is None, row["delta_low"] or 0.0, row["name"]))


def noise_floor(reruns: Sequence[ItemPair]) -> dict[str, Any]:
    """How much two runs of the dense model differ: flips and changed answers that skipping did not cause.

    **Formula**: `(b + c) / n` and the share of changed answers, Wilson 95 %.
    **Source**: arXiv 2602.10144: even lossless changes flip answers.
    **Direction**: lower is better; a skip model cannot be asked for less.

    Args:
        reruns: the dense model paired with itself; `skip_correct` is its second run.

    Raises:
        RecordError: without items.
    """
    if not reruns:
        raise RecordError("noise_floor: expected at least one item answered twice, got none; run dense once more")
    table = ItemTable.of(reruns)
    n_flips, n_changed, n = int((table.dense ^ table.skip).sum()), int((~table.same).sum()), len(table)
    return {
        "n": n,
        "flips": dict(zip(("share", "low", "high"), (n_flips / n, *wilson(n_flips, n)), strict=True)),
        "changed": dict(zip(("share", "low", "high"), (n_changed / n, *wilson(n_changed, n)), strict=True)),
    }


def mean_self_consistency(samples: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Mean of `kpis.answers.self_consistency` over items, and how many items had at least two samples.

    **Direction**: higher is steadier; compare skip with dense, not with 1.
    **Undefined when**: no item has two samples (`mean` None).

    Args:
        samples: sampled answers by item id.
    """
    values = [value for group in samples.values() if (value := self_consistency(group)) is not None]
    return {"n": len(values), "mean": float(np.mean(values)) if values else None}
