"""Clusters of documents that say the same: exact copies, near-duplicates, and the two languages of one page.

Two documents are near-duplicates when the Jaccard similarity of their sets of character shingles is at least
``NEAR_DUPLICATE``. Texts are not kept: each document leaves a sketch of ``N_VALUES`` values of 16 bits, 1 KB, whose
agreement estimates the similarity.

**Sketch**: fast similarity sketching. Each shingle is hashed to one bin per round, the smallest value of a bin stays,
and rounds follow until no bin is empty; so the time is linear in the text and hardly depends on ``N_VALUES``, where
MinHash needs one operation per shingle and value (datasketch 2.0 with 128 values: 0.2 MB/s, this: above 20 MB/s).
**Source**: Dahlgaard, Knudsen and Thorup 2017, arXiv:1704.04370. Other than there, the rounds just go on until all
bins are full; one single shingle takes about 3,500 of them.

**Error**: a value agrees with probability J (plus 2^-16), so the estimate has the standard error
sqrt(J (1 - J) / N_VALUES), 0.0177 at J = 0.8. Pairs are joined from ``ACCEPT`` = 0.8 - 2 standard errors on: of pairs
at J = 0.8 exactly 97.7 % are joined, of pairs at J <= 0.7 fewer than 1 in 1,000.
"""

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt

from flows.corpus.squeezed import Codes, mix, ngram_hashes

__all__ = [
    "NEAR_DUPLICATE",
    "cluster",
    "distinct",
    "page_key",
    "signature",
    "similarity",
]

NEAR_DUPLICATE = 0.8
"""Jaccard similarity from which two documents count as one."""
SHINGLE = 8
"""Length of a shingle. [characters without white space]"""
N_VALUES = 512
"""Values of a sketch; four of them make one word of the signature."""
ACCEPT = 0.765
"""Estimated similarity from which a pair is joined."""
BAND_WORDS = 2
"""Words per band: 64 bands of 8 values find a pair at J = 0.8 with probability 0.99999, at J = 0.5 with 0.22."""
NEIGHBOURS = 8
"""How many neighbours in the order of its band a document is compared with."""

UInt64 = npt.NDArray[np.uint64]
Index = npt.NDArray[np.intp]

_EMPTY = np.uint64(2**64 - 1)
_KEPT = 14 * N_VALUES
"""Smallest hashes of a long text that are looked at first: at 14 per bin one text in 2,300 has an empty bin."""
_AT_ONCE = 16 * N_VALUES
"""Hashes of all rounds of a short text that are computed at a time."""
_PAIRS = 1 << 14
"""Pairs verified at a time: 32 MB of signatures."""

_LANGUAGE_MARK = re.compile(r"[._-](?:ja|jp|en)$", re.IGNORECASE)
_LANGUAGE_FOLDERS = {"ja", "jp", "en"}


def page_key(source: str) -> str:
    """Path without language folder and language mark: ``ja/a.txt``, ``en/a.md`` and ``a.en.txt`` are one page."""
    path = PurePosixPath(source)
    folders = [part for part in path.parts[:-1] if part.lower() not in _LANGUAGE_FOLDERS]
    return "/".join([*folders, _LANGUAGE_MARK.sub("", path.stem)]).casefold()


# --- sketch ----------------------------------------------------------------------------------------------


def _mixed(hashes: UInt64) -> UInt64:
    mixed = hashes.copy()
    mix(mixed, np.empty_like(mixed))
    return mixed


def distinct(hashes: UInt64) -> UInt64:
    """Sorted different hashes; much faster than numpy.unique, which builds a hash table first."""
    ordered = np.sort(hashes)
    is_first = np.ones(len(ordered), dtype=np.bool_)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first]


def _fill(keys: UInt64, hashes: UInt64, rounds: UInt64) -> None:
    """Put the smallest (round, hash) of every bin into ``keys``."""
    bins = (hashes & np.uint64(N_VALUES - 1)).astype(np.intp)
    np.minimum.at(keys, bins.ravel(), ((rounds << np.uint64(48)) | (hashes >> np.uint64(16))).ravel())


def signature(codes: Codes) -> UInt64 | None:
    """Sketch of a squeezed text as ``N_VALUES / 4`` words, or None if it is shorter than one shingle."""
    hashes = ngram_hashes(codes, SHINGLE)
    if len(hashes) == 0:
        return None
    keys = np.full(N_VALUES, _EMPTY)
    first = np.zeros(1, dtype=np.uint64)
    if len(hashes) > _KEPT:
        # the smallest of a bin is nearly always among the smallest of all; a text that repeats itself needs them all
        _fill(keys, hashes[hashes < np.uint64(_KEPT / len(hashes) * 2**64)], first)
    if (keys == _EMPTY).any():
        _fill(keys, hashes, first)
    if (keys == _EMPTY).any():
        different = distinct(hashes)
        stop = 1
        while (keys == _EMPTY).any():
            start, stop = stop, stop + max(1, _AT_ONCE // len(different))
            rounds = np.arange(start, stop, dtype=np.uint64)[:, None]
            _fill(keys, _mixed(different + rounds * np.uint64(0x9E3779B97F4A7C15)), rounds)
    words: UInt64 = (_mixed(keys) & np.uint64(0xFFFF)).astype(np.uint16).view(np.uint64)
    return words


def similarity(a: UInt64, b: UInt64) -> npt.NDArray[np.float64]:
    """Estimated Jaccard similarity of the texts of two signatures, or of two equally long lists of signatures."""
    agree: npt.NDArray[np.float64] = (a.view(np.uint16) == b.view(np.uint16)).mean(axis=-1)
    return agree


# --- clusters --------------------------------------------------------------------------------------------


def _labels(n: int, edges: tuple[Index, Index]) -> Index:
    """Number of the connected component of each of ``n`` documents."""
    # here, since the processes that read and write make signatures only, and it takes a third of their start
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    graph = coo_array((np.ones(len(edges[0]), dtype=np.bool_), edges), shape=(n, n))
    labels: Index = connected_components(graph, directed=False)[1].astype(np.intp)
    return labels


def _edges_of_equal(keys: Sequence[str]) -> tuple[Index, Index]:
    """An edge from every document to the first one with the same key."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(key, i) for i, key in enumerate(keys)], dtype=np.intp), np.arange(len(keys))


def _band_pairs(words: UInt64, band: int, labels: Index) -> tuple[Index, Index]:
    """Pairs of rows that agree in a band and are not in one cluster yet.

    Within a band the rows are ordered by the words that follow it, so that the most similar ones are neighbours and
    thousands of like documents (one form, filled in) stay linear.
    """
    n_words = words.shape[1]
    columns = [words[:, (band + offset) % n_words] for offset in range(2 * BAND_WORDS)]
    order = np.lexsort(columns[::-1])
    same = np.all([column[order[1:]] == column[order[:-1]] for column in columns[:BAND_WORDS]], axis=0)
    group = np.concatenate(([0], np.cumsum(~same)))
    left: list[Index] = []
    right: list[Index] = []
    for step in range(1, NEIGHBOURS + 1):
        near = np.flatnonzero(group[step:] == group[:-step])
        left.append(order[near])
        right.append(order[near + step])
    i, j = np.concatenate(left), np.concatenate(right)
    apart = labels[i] != labels[j]
    return i[apart], j[apart]


def cluster(
    sources: Sequence[str],
    signatures: Sequence[UInt64 | None],
    exact_hashes: Sequence[str],
    page_keys: Sequence[str],
) -> list[str]:
    """Cluster name of every document: the smallest source among the documents that say the same.

    Documents with one exact hash, one page key, or an estimated similarity of at least ``ACCEPT`` are in one cluster,
    and so is what hangs together through them. Memory: the signatures twice; time: N log N.
    """
    n = len(sources)
    equal = [_edges_of_equal(exact_hashes), _edges_of_equal(page_keys)]
    edges = (np.concatenate([e[0] for e in equal]), np.concatenate([e[1] for e in equal]))
    labels = _labels(n, edges)
    rows = np.array([i for i, words in enumerate(signatures) if words is not None], dtype=np.intp)
    if len(rows) > 1:
        words = np.stack([words for words in signatures if words is not None])
        for band in range(0, words.shape[1], BAND_WORDS):
            i, j = _band_pairs(words, band, labels[rows])
            for start in range(0, len(i), _PAIRS):
                a, b = i[start : start + _PAIRS], j[start : start + _PAIRS]
                near = similarity(words[a], words[b]) >= ACCEPT
                edges = (np.concatenate((edges[0], rows[a[near]])), np.concatenate((edges[1], rows[b[near]])))
            labels = _labels(n, edges)
    name: dict[int, str] = {}
    for source, label in zip(sources, labels.tolist(), strict=True):
        name[label] = min(source, name.get(label, source))
    return [name[label] for label in labels.tolist()]
