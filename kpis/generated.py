"""Answers that both models wrote to the same prompts: one record per question, and what they say together.

The records hold grades, lengths and hashes, never a text. They decide no gate: they show whether a user who reads
whole answers would meet what the gates found on multiple choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kpis.bootstrap import Floats, cluster_bootstrap_bca, cluster_sums
from kpis.errors import RecordError
from kpis.graded import graded
from kpis.limits import GateLimits
from kpis.proportions import wilson
from kpis.records import Record, ScorePair


@dataclass(frozen=True)
class AnswerPair(Record):
    """One question that both models answered in their own words, greedily and k times by drawing."""

    item_id: str
    document_id: str
    cluster: str
    slice: str
    language: str
    must_pass: bool
    f1_metric: Literal["char_f1", "token_f1"]
    dense_exact: float
    skip_exact: float
    dense_f1: float
    skip_f1: float
    same_answer: bool
    first_difference: int | None
    """Number of tokens that are the same before the first other one; None when all are the same."""
    dense_tokens: int
    skip_tokens: int
    dense_ended: bool
    """Whether the model ended its answer; False where the limit of tokens did."""
    skip_ended: bool
    dense_sha256: str
    skip_sha256: str
    dense_consistency: float | None
    """Share of pairs among the drawn answers that agree; None without at least two."""
    skip_consistency: float | None

    def __post_init__(self) -> None:
        """Refuse grades outside the scale, and a difference in answers that are the same token for token."""
        for name in ("dense_exact", "skip_exact", "dense_f1", "skip_f1", "dense_consistency", "skip_consistency"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                raise RecordError(f"AnswerPair {self.item_id}: expected {name} within [0, 1], got {value}")
        if self.first_difference is None and not self.same_answer:
            raise RecordError(
                f"AnswerPair {self.item_id}: expected the position of the first other token where the answers differ, "
                "got none; the two texts were not taken from these tokens"
            )

    @property
    def scores(self) -> tuple[ScorePair, ScorePair]:
        """The grades as `kpis.graded.graded` takes them: exact match, then F1."""
        return tuple(  # type: ignore[return-value]
            ScorePair(self.item_id, self.cluster, self.slice, metric, dense, skip, self.same_answer)
            for metric, dense, skip in (
                ("exact_match", self.dense_exact, self.skip_exact),
                (self.f1_metric, self.dense_f1, self.skip_f1),
            )
        )


def graded_rows(pairs: Sequence[AnswerPair], limits: GateLimits, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of `kpis.graded.graded`, one per metric: exact match of all, F1 by characters and by words of its language.

    **Direction**: higher is better.
    **Undefined when**: a metric that graded no answer has no row.
    """
    by_metric: dict[str, list[ScorePair]] = {}
    for score in (score for pair in pairs for score in pair.scores):
        by_metric.setdefault(score.metric, []).append(score)
    return [graded(by_metric[metric], limits, seed) for metric in sorted(by_metric)]


def written(pairs: Sequence[AnswerPair], seed: int = 0) -> dict[str, Any]:
    """What the written answers show beside their grades: agreement, where they part, must-pass cases, steadiness.

    Raises:
        RecordError: without answers.
    """
    if not pairs:
        raise RecordError("written: expected at least one answered question, got none; set answers.items above 0")
    n, n_same = len(pairs), sum(pair.same_answer for pair in pairs)
    must_pass = [pair for pair in pairs if pair.must_pass]
    return {
        "n": n,
        "n_clusters": len({pair.cluster for pair in pairs}),
        "agreement": dict(zip(("value", "low", "high"), (n_same / n, *wilson(n_same, n)), strict=True)),
        "first_difference": first_difference(pairs),
        "must_pass": {
            "n": len(must_pass),
            "n_worse": sum(pair.skip_exact < pair.dense_exact for pair in must_pass),
        },
        "unfinished": {
            "dense": sum(not pair.dense_ended for pair in pairs),
            "skip": sum(not pair.skip_ended for pair in pairs),
        },
        "mean_tokens": {
            "dense": float(np.mean([pair.dense_tokens for pair in pairs])),
            "skip": float(np.mean([pair.skip_tokens for pair in pairs])),
        },
        "self_consistency": self_consistency_row(pairs, seed),
        "slices": slice_rows(pairs),
    }


def first_difference(pairs: Sequence[AnswerPair]) -> dict[str, Any]:
    """How many answers part, and after how many tokens in the middle of them.

    **Formula**: median of the number of equal tokens before the first other one, over answers that part.
    **Direction**: later is better.
    **Undefined when**: no answer parts (`median_tokens` None).

    Example:
        >>> first_difference([])
        {'n': 0, 'median_tokens': None}
    """
    at = [pair.first_difference for pair in pairs if pair.first_difference is not None]
    return {"n": len(at), "median_tokens": float(np.median(at)) if at else None}


def self_consistency_row(
    pairs: Sequence[AnswerPair], seed: int = 0, n_draws: int = 2000
) -> dict[str, Any] | None:  # fmt: skip
    """Mean agreement of k drawn answers, dense and skip, and their paired difference with a 95 % interval.

    **Formula**: mean over questions of `kpis.answers.self_consistency`; BCa bootstrap over sources of the difference.
    **Source**: mean pairwise agreement, ours; Efron 1987.
    **Direction**: higher is steadier; compare skip with dense, not with 1: a model can be steadily wrong.
    **Undefined when**: no question has two drawn answers of both models (None); fewer than two sources have no
    interval (`low`, `high` None).
    """
    rows = [
        (pair.cluster, pair.dense_consistency, pair.skip_consistency)
        for pair in pairs
        if pair.dense_consistency is not None and pair.skip_consistency is not None
    ]
    if not rows:
        return None
    dense, skip = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
    sums = cluster_sums([row[0] for row in rows], np.column_stack([skip - dense, np.ones(len(rows))]))
    interval = cluster_bootstrap_bca(sums, _mean, 0.95, n_draws, seed)
    return {
        "n": len(rows), "dense": float(dense.mean()), "skip": float(skip.mean()), "delta": float((skip - dense).mean()),
        "low": interval.low, "high": interval.high,
    }  # fmt: skip


def slice_rows(pairs: Sequence[AnswerPair]) -> list[dict[str, Any]]:
    """Mean grades and agreement per group of questions (reading is one of them), by name; counts are small.

    **Direction**: higher is better.
    """
    rows = []
    for name in sorted({pair.slice for pair in pairs}):
        here = [pair for pair in pairs if pair.slice == name]
        columns = ("dense_exact", "skip_exact", "dense_f1", "skip_f1", "same_answer")
        means = {column: float(np.mean([getattr(pair, column) for pair in here])) for column in columns}
        rows.append({"name": name, "n": len(here), **means})
    return rows


def _mean(sums: Floats) -> Floats:
    return np.asarray(sums[..., 0] / sums[..., 1])
