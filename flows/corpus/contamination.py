"""How much of a test text stands word for word in the training text.

Clusters keep near-duplicates out of the test split; a paragraph that was copied into an otherwise different document
passes them. This check finds it: the share of the character n-grams of a test text that also occur in training.
An English n-gram has 50 characters without white space, as in the contamination check of the GPT-4 technical report
(arXiv:2303.08774, appendix C); a Japanese one 24, since a Japanese character says about twice as much.

Memory is bounded: of all n-grams those with the smallest hashes are kept, at most ``MAX_NGRAMS``. A small corpus is
checked in full; of a large one the kept n-grams are an unbiased sample, the same of training and of test text, so the
share has the standard error sqrt(s (1 - s) / n) with n the test n-grams that were looked at.

The n-grams of a text are hashed where the text is, by the processes that write the documents; here their hashes meet.
"""

import numpy as np
import numpy.typing as npt

from flows.corpus.duplicates import distinct
from flows.corpus.squeezed import ngram_hashes, squeezed

__all__ = ["COMPARED", "WIDTH", "NgramOverlap", "ngrams"]

COMPARED = ("train", "test")
"""Splits whose n-grams are looked at."""

WIDTH = {"en": 50, "ja": 24}
"""Length of an n-gram. [characters without white space]"""
MAX_NGRAMS = 1 << 22
"""Different n-grams of the training text that are kept. [8 bytes each]"""
_PLACES_BITS = 24
"""Bits of a hash that say whether a kept n-gram is near: most lookups end there, in 16 MB. [bits]"""

_SAMPLED = 16
_SURPLUS = 100
"""One in how many hashes is counted before all of them are sorted, and by how many more than needed to be sure."""

UInt64 = npt.NDArray[np.uint64]


def ngrams(text: str, language: str, limit: int = 2**64) -> UInt64:
    """Return the hashes below ``limit`` of the n-grams of a text, in the order of the text."""
    hashes = ngram_hashes(squeezed(text), WIDTH[language])
    return _below(hashes, limit)


def _below(hashes: UInt64, limit: int) -> UInt64:
    return hashes if limit == 2**64 else hashes[hashes < np.uint64(limit)]


class NgramOverlap:
    """N-grams of the training text, and those of the test texts until all training text is there.

    Args:
        max_ngrams: Different n-grams kept; memory is about 24 bytes for each.
    """

    def __init__(self, max_ngrams: int = MAX_NGRAMS) -> None:
        self._max = max_ngrams
        self._limit = 2**64
        self._kept: UInt64 = np.zeros(0, dtype=np.uint64)
        self._new: list[UInt64] = []
        self._n_new = 0
        self._tests: dict[str, UInt64] = {}
        self._n_tests = 0

    @property
    def limit(self) -> int:
        """Hashes from here on are not looked at; it only goes down."""
        return self._limit

    @property
    def sampled_share(self) -> float:
        """Share of all n-grams that are looked at, within (0, 1]; 1 means all of them."""
        return self._limit / 2**64

    @property
    def n_kept(self) -> int:
        """Different n-grams of the training text that are kept."""
        self._merge()
        return len(self._kept)

    def add(self, split: str, name: str, hashes: UInt64) -> None:
        """Add the n-grams of one document, all of them below ``limit``; of other splits than ``COMPARED`` nothing."""
        if split == "train":
            self.add_train(hashes)
        elif split == "test":
            self.add_test(name, hashes)

    def add_train(self, hashes: UInt64) -> None:
        """Add the n-grams of one training document, all of them below ``limit``."""
        self._new.append(_below(hashes, self._limit))
        self._n_new += len(self._new[-1])
        if self._n_new > self._max:
            self._merge()

    def add_test(self, name: str, hashes: UInt64) -> None:
        """Add the n-grams of one test document, all of them below ``limit``."""
        self._tests[name] = distinct(_below(hashes, self._limit))
        self._n_tests += len(self._tests[name])
        if self._n_tests > self._max:
            self._tests = {other: _below(kept, self._limit) for other, kept in self._tests.items()}
            self._n_tests = sum(map(len, self._tests.values()))

    def counts(self) -> dict[str, tuple[int, int]]:
        """Per test document its different n-grams that were looked at: those that occur in training, and all."""
        self._merge()
        shift = np.uint64(max(self._limit.bit_length() - 1 - _PLACES_BITS, 0))
        is_near = np.zeros(1 << _PLACES_BITS, dtype=np.bool_)
        is_near[self._kept >> shift] = True
        found = {}
        for name, every in self._tests.items():
            hashes = _below(every, self._limit)
            near = hashes[is_near[hashes >> shift]]
            at = np.searchsorted(self._kept, near)
            is_kept = self._kept[at[at < len(self._kept)]] == near[at < len(self._kept)]
            found[name] = int(np.count_nonzero(is_kept)), len(hashes)
        return found

    def _merge(self) -> None:
        if not self._new:
            return
        every = np.concatenate((self._kept, *self._new))
        self._new, self._n_new = [], 0
        while self._are_far_too_many(every):
            self._limit //= 2
            every = _below(every, self._limit)
        every = distinct(every)
        while len(every) > self._max:
            self._limit //= 2
            every = _below(every, self._limit)
        self._kept = every

    def _are_far_too_many(self, hashes: UInt64) -> bool:
        """Tell by a sample whether there are more than 1.5 times as many different ones as are kept: it spares sorting.

        The sample is of more than 390,000 where that many are allowed, so it cannot err by the half that it claims.
        """
        enough = 1.5 * self._max / _SAMPLED + _SURPLUS
        return len(hashes) > self._max and len(distinct(_below(hashes, self._limit // _SAMPLED))) > enough
