"""How much more often a term stands in the company's text than in general text.

Counting is streamed: documents pass through scikit-learn's `CountVectorizer` in batches, and the table of candidates
is cut back to the frequent ones whenever it grows too large, so memory does not grow with the corpus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Counts", "log_odds_z", "residual_idf"]

Floats = npt.NDArray[np.float64]

BATCH = 64
"""Documents that are counted at a time."""
MAX_CANDIDATES = 1_000_000
"""Candidates kept in memory; above it those seen least are forgotten."""
PRIOR_SHARE = 0.25
"""Weight of the prior, as a share of both corpora; a light prior ranks terms that the background lacks too low."""


class Counts:
    """Occurrences of candidates, in all and by document, counted while documents stream past.

    After `flush`, `occurrences` and `documents` hold the candidates; `total` counts the forgotten ones too.
    """

    def __init__(self, max_candidates: int = MAX_CANDIDATES) -> None:
        self.occurrences: Counter[str] = Counter()
        self.documents: Counter[str] = Counter()
        self.total = 0
        self.n_documents = 0
        self._max_candidates = max_candidates
        self._batch: list[Sequence[str]] = []

    def add(self, candidates: Sequence[str]) -> None:
        """Count one document: its candidates, repeated as often as they occur."""
        self._batch.append(candidates)
        if len(self._batch) == BATCH:
            self.flush()

    def flush(self) -> None:
        """Count the documents that wait for their batch to fill."""
        from sklearn.feature_extraction.text import CountVectorizer

        batch, self._batch = self._batch, []
        self.n_documents += len(batch)
        if not any(batch):
            return
        vectorizer = CountVectorizer(analyzer=list)
        matrix = vectorizer.fit_transform(batch)
        names = vectorizer.get_feature_names_out()
        occurrences = np.asarray(matrix.sum(axis=0)).ravel()
        documents = np.asarray((matrix > 0).sum(axis=0)).ravel()
        self.occurrences.update(dict(zip(names, occurrences.tolist(), strict=True)))
        self.documents.update(dict(zip(names, documents.tolist(), strict=True)))
        self.total += int(occurrences.sum())
        self._forget_rare()

    def _forget_rare(self) -> None:
        floor = 1
        while len(self.occurrences) > self._max_candidates:
            for candidate in [c for c, n in self.occurrences.items() if n <= floor]:
                del self.occurrences[candidate], self.documents[candidate]
            floor += 1


def log_odds_z(own: Floats, n_own: float, other: Floats, n_other: float, prior_share: float = PRIOR_SHARE) -> Floats:
    """Log-odds ratio with an informative Dirichlet prior, over its standard deviation.

    **Formula**: with prior `a_0 = s (n + m)`, `a_w = s (y_w + b_w)` from both corpora together,
    `d_w = log((y_w + a_w) / (n + a_0 - y_w - a_w)) - log((b_w + a_w) / (m + a_0 - b_w - a_w))`,
    `z_w = d_w / sqrt(1 / (y_w + a_w) + 1 / (b_w + a_w))`.
    **Source**: Monroe, Colaresi, Quinn: Fightin' Words, Political Analysis 16(4), 2008, equations 16, 18, 20, 22.

    Args:
        own: Occurrences y_w in the company's text.
        n_own: Occurrences n of all candidates there.
        other: Occurrences b_w in the background.
        n_other: Occurrences m of all candidates there.
        prior_share: Weight s of the prior.

    Returns:
        z per term: above 1.96 the term is typical of the company's text at the 5 % level. A term seen nowhere has 0.
    """
    prior = prior_share * (own + other)
    prior_all = prior_share * (n_own + n_other)
    is_seen = own + other > 0
    prior[~is_seen] = 1.0
    own_odds = (own + prior) / np.maximum(n_own + prior_all - own - prior, 1.0)
    other_odds = (other + prior) / np.maximum(n_other + prior_all - other - prior, 1.0)
    z: Floats = (np.log(own_odds) - np.log(other_odds)) / np.sqrt(1.0 / (own + prior) + 1.0 / (other + prior))
    return np.where(is_seen, z, 0.0)


def residual_idf(occurrences: Floats, documents: Floats, n_documents: int) -> Floats:
    """How much more a term clusters in few documents than chance would have it; for use without a background.

    **Formula**: `RIDF = -log2(df / D) + log2(1 - exp(-cf / D))`, cf occurrences, df documents, D all documents.
    **Source**: Church, Gale: Inverse Document Frequency (IDF): A Measure of Deviations from Poisson, 1995.

    Returns:
        RIDF per term [bits]; about 0 for words that are spread evenly.
    """
    expected = -np.log2(-np.expm1(-occurrences / n_documents))
    result: Floats = -np.log2(documents / n_documents) - expected
    return result
