"""How much of a test text stands word for word in the training text.

Clusters keep near-duplicates out of the test split; a paragraph that was copied into an otherwise different document
passes them. This check finds it: the share of the character n-grams of a test text that also occur in training.
An English n-gram has 50 characters without white space, as in the contamination check of the GPT-4 technical report
(arXiv:2303.08774, appendix C); a Japanese one 24, since a Japanese character says about twice as much.

Memory is bounded: of all n-grams those with the smallest hashes are kept, at most ``MAX_NGRAMS``. A small corpus is
checked in full; of a large one the kept n-grams are an unbiased sample, the same of training and of test text, so the
share has the standard error sqrt(s (1 - s) / n) with n the test n-grams that were looked at.
"""

import numpy as np
import numpy.typing as npt

from flows.corpus.clean import language_of
from flows.corpus.duplicates import distinct, ngram_hashes, squeeze

__all__ = ["WIDTH", "NgramOverlap"]

WIDTH = {"en": 50, "ja": 24}
"""Length of an n-gram. [characters without white space]"""
MAX_NGRAMS = 1 << 22
"""Different n-grams of the training text that are kept. [8 bytes each]"""

UInt64 = npt.NDArray[np.uint64]


class NgramOverlap:
    """Hashes of the n-grams of the training text: first ``add_train`` every document, then ask for test texts.

    Args:
        max_ngrams: Different n-grams kept; memory is about 24 bytes for each.
    """

    def __init__(self, max_ngrams: int = MAX_NGRAMS) -> None:
        self._max = max_ngrams
        self._limit = 2**64
        self._kept: UInt64 = np.zeros(0, dtype=np.uint64)
        self._new: list[UInt64] = []
        self._n_new = 0

    @property
    def sampled_share(self) -> float:
        """Share of all n-grams that are looked at, within (0, 1]; 1 means all of them."""
        return self._limit / 2**64

    @property
    def n_kept(self) -> int:
        """Different n-grams of the training text that are kept."""
        self._merge()
        return len(self._kept)

    def add_train(self, text: str) -> None:
        """Add one training document."""
        hashes = distinct(self._hashes(text))
        self._new.append(hashes)
        self._n_new += len(hashes)
        if self._n_new > self._max:
            self._merge()

    def counts(self, text: str) -> tuple[int, int]:
        """Different n-grams of a text that were looked at: those that occur in training, and all."""
        self._merge()
        hashes = distinct(self._hashes(text))
        if len(self._kept) == 0:
            return 0, len(hashes)
        at = np.searchsorted(self._kept, hashes)
        found = self._kept[np.minimum(at, len(self._kept) - 1)] == hashes
        return int(np.count_nonzero(found)), len(hashes)

    def share(self, text: str) -> float | None:
        """Share of the different n-grams of a test text that occur in training, within [0, 1].

        None where there is nothing to look at: the text is shorter than one n-gram, or none of its n-grams is in
        the sample.
        """
        n_found, n = self.counts(text)
        return n_found / n if n else None

    def _hashes(self, text: str) -> UInt64:
        hashes = ngram_hashes(squeeze(text), WIDTH[language_of(text)])
        return hashes if self._limit == 2**64 else hashes[hashes < np.uint64(self._limit)]

    def _merge(self) -> None:
        if not self._new:
            return
        kept = distinct(np.concatenate((self._kept, *self._new)))
        while len(kept) > self._max:
            self._limit //= 2
            kept = kept[: np.searchsorted(kept, np.uint64(self._limit))]
        self._kept, self._new, self._n_new = kept, [], 0
