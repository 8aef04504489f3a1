"""Is something simpler the better choice? The dense model, dropped layers, or int8 weights beside the skip model.

Rivals are scored on the same test documents as the skip model, so the comparison is paired by document. They
decide no gate: a rival that is shown to be no worse and at least as cheap makes a Go conditional and is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kpis.bootstrap import Floats, Interval, cluster_bootstrap_bca
from kpis.errors import RecordError
from kpis.records import DocumentPair

RATE_TOLERANCE = 0.02
"""Whole layers cannot be dropped to any rate; so much less skipped work still counts as the same."""


@dataclass(frozen=True)
class Arm:
    """One model on the test documents, each paired with the dense model."""

    documents: Sequence[DocumentPair]
    skip_rate: float
    """Share of all layer executions left out; 0 for a rival that saves by other means."""
    speedup_low: float | None = None
    """Lower 95 % bound of its measured speed-up over dense; None when it was not timed."""


def rise_over(own: Sequence[DocumentPair], other: Sequence[DocumentPair], alpha: float = 0.05, seed: int = 0,
              n_draws: int = 2000) -> Interval:  # fmt: skip
    """Perplexity of another model relative to one's own, on the same documents.

    **Formula**: `exp((nats_other - nats_own) / tokens) - 1`; document bootstrap, each bound at one-sided `alpha`.
    **Direction**: below 0 the other model predicts the text better.

    Raises:
        RecordError: when the documents differ, so that nothing is paired.
    """
    own_by_id, other_by_id = ({doc.document_id: doc for doc in docs} for docs in (own, other))
    sizes = ({name: doc.n_tokens for name, doc in docs.items()} for docs in (own_by_id, other_by_id))
    first, second = sizes
    if not first or first != second:
        raise RecordError(
            f"rise_over: expected the same documents and tokens on both sides, got {len(first)} and {len(second)} "
            "documents that do not match; score both models on one split"
        )
    sums = np.array([[other_by_id[n].nll_skip - own_by_id[n].nll_skip, own_by_id[n].n_tokens] for n in sorted(first)])
    return cluster_bootstrap_bca(sums, _rise, 1.0 - 2.0 * alpha, n_draws, seed)


def rivals(
    own: Arm | None, others: Mapping[str, Arm | None], own_speedup: float | None = None, alpha: float = 0.05,
    seed: int = 0,
) -> list[dict[str, Any]]:  # fmt: skip
    """One row per rival: better, not_better, or not_measured with the reason.

    A rival is better when its perplexity is shown to be no higher (upper bound at most 0) and it saves at least as
    much: it leaves out as much work without a router, or its own measured speed-up is at least the skip model's.

    Args:
        own: the skip model at the chosen threshold; None when none was chosen.
        others: `static_drop` and `int8`; None where no record exists.
        own_speedup: measured speed-up of the skip model.
        alpha: one-sided error.
        seed: of the bootstrap.
    """
    rows = []
    for name, other in others.items():
        row: dict[str, Any] = {"name": name, "state": "not_measured", "ppl_rise": None, "low": None, "high": None,
                               "n": 0, "skip_rate": None}  # fmt: skip
        if own is None:
            row["reason"] = "no_threshold_chosen"
        elif other is None:
            row["reason"] = f"{name}_not_measured"
        else:
            rise = rise_over(own.documents, other.documents, alpha, seed)
            reason = _reason(own, other, rise, own_speedup)
            state = "better" if reason == "no_worse_and_simpler" else "not_better"
            row |= {"state": state, "reason": reason, "ppl_rise": rise.value, "low": rise.low, "high": rise.high,
                    "n": len(other.documents), "skip_rate": other.skip_rate}  # fmt: skip
        rows.append(row)
    return rows


def _reason(own: Arm, other: Arm, rise: Interval, own_speedup: float | None) -> str:
    if rise.high is None or rise.high > 0:
        worse = rise.low is not None and rise.low > 0
        return "rival_predicts_worse" if worse else "rival_not_shown_equal"
    if other.skip_rate > 0:
        enough = other.skip_rate >= own.skip_rate - RATE_TOLERANCE
        return "no_worse_and_simpler" if enough else "rival_saves_less"
    if other.speedup_low is None or own_speedup is None:
        return "rival_not_timed"
    return "no_worse_and_simpler" if other.speedup_low >= own_speedup else "rival_saves_less"


def better_choice(verdict_code: str, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """What to run: `dense` after a No-Go, a rival shown to be better, else `skip`; None while evidence is missing.

    Example:
        >>> better_choice("no_go", [])
        'dense'
    """
    if verdict_code == "no_go":
        return "dense"
    if verdict_code == "no_go_insufficient_evidence":
        return None
    return next((str(row["name"]) for row in rows if row["state"] == "better"), "skip")


def _rise(sums: Floats) -> Floats:
    return np.asarray(np.expm1(sums[..., 0] / sums[..., 1]))
