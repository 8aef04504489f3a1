"""The n-gram overlap of test text with training text."""

import random
from collections.abc import Callable

import numpy as np
import pytest

from flows.corpus import contamination
from flows.corpus.contamination import WIDTH, NgramOverlap, ngrams

KANJI = [chr(code) for code in range(0x4E00, 0x4E00 + 1500)]


def _english(seed: int, n_words: int = 300) -> str:
    random_ = random.Random(seed)
    return " ".join(f"word{random_.randrange(10**5)}" for _ in range(n_words))


def _japanese(seed: int, n: int = 600) -> str:
    return "".join(random.Random(seed).choices(KANJI, k=n))


def _counts(overlap: NgramOverlap, *tests: str, language: str = "en") -> list[tuple[int, int]]:
    for number, text in enumerate(tests):
        overlap.add_test(str(number), ngrams(text, language, overlap.limit))
    return list(overlap.counts().values())


def _train(overlap: NgramOverlap, *texts: str, language: str = "en") -> NgramOverlap:
    for text in texts:
        overlap.add_train(ngrams(text, language, overlap.limit))
    return overlap


@pytest.mark.parametrize(("make", "language"), [(_english, "en"), (_japanese, "ja")])
def test_share_of_copied_text(make: Callable[[int], str], language: str) -> None:
    """A text of training has the share 1, another one 0, and one that is half copied about one half."""
    overlap = _train(NgramOverlap(), *(make(seed) for seed in range(5)), language=language)
    tests = (make(3), make(99), make(3) + " " + make(98))
    shares = [found / n for found, n in _counts(overlap, *tests, language=language)]

    assert shares[:2] == [1.0, 0.0]
    assert shares[2] == pytest.approx(0.5, abs=0.03)


def test_white_space_width_and_case_do_not_hide_a_copy() -> None:
    """A copy in capitals, full width and with other line ends is a copy."""
    ((found, n),) = _counts(_train(NgramOverlap(), _english(1)), _english(1).upper().replace(" ", "\n"))

    assert found == n > 0


@pytest.mark.parametrize(("language", "text"), [("en", "a1b2c3d4e5" * 4), ("ja", "漢字" * 11)])
def test_a_text_shorter_than_an_ngram_has_none(language: str, text: str) -> None:
    """Nothing to look at is 0 of 0."""
    assert len(text) < WIDTH[language]
    assert _counts(_train(NgramOverlap(), text, language=language), text, language=language) == [(0, 0)]


def test_without_training_text_nothing_is_shared() -> None:
    """Nothing is found, and that is no error."""
    ((found, n),) = _counts(NgramOverlap(), _english(1))

    assert found == 0 < n


def test_memory_is_bounded_and_the_share_stays_right() -> None:
    """With room for 2,000 of 150,000 n-grams the sampled share of a half copied corpus is near one half."""
    overlap = _train(NgramOverlap(max_ngrams=2000), *map(_english, range(60)))
    assert overlap.n_kept <= 2000
    assert overlap.sampled_share < 0.03
    n_found, n = (sum(column) for column in zip(*_counts(overlap, *map(_english, range(30, 90))), strict=True))

    assert n > 500
    assert n_found / n == pytest.approx(0.5, abs=0.1)


def test_order_of_documents_does_not_matter() -> None:
    """The kept n-grams are the smallest, however the documents come, test documents before, between or after them."""
    first, second = NgramOverlap(max_ngrams=1000), NgramOverlap(max_ngrams=1000)
    for seed in range(20):
        first.add("train", "", ngrams(_english(seed), "en", first.limit))
        first.add("validation", "", ngrams(_english(50 + seed), "en", first.limit))
    for seed in range(25):
        first.add("test", str(seed), ngrams(_english(seed), "en", first.limit))
        second.add("test", str(seed), ngrams(_english(seed), "en", second.limit))
    for seed in range(20):
        second.add("train", "", ngrams(_english(19 - seed), "en", second.limit))

    assert first.counts() == second.counts()
    assert first.limit == second.limit < 2**64


@pytest.mark.parametrize("n_copies", [1, 3])
def test_halving_before_sorting_keeps_what_sorting_alone_keeps(monkeypatch: pytest.MonkeyPatch, n_copies: int) -> None:
    """The shortcut for far too many hashes changes nothing, be they different or copies of each other."""
    hashes = np.random.default_rng(7).integers(0, 2**64, 90_000, dtype=np.uint64, endpoint=False)
    found = []
    for sampled in (contamination._SAMPLED, 2**60):
        monkeypatch.setattr(contamination, "_SAMPLED", sampled)
        overlap = NgramOverlap(max_ngrams=10_000)
        overlap.add_train(np.repeat(hashes, n_copies))
        overlap.add_test("t", hashes)
        found.append((overlap.limit, overlap.n_kept, overlap.counts()))

    assert found[0] == found[1]
    assert found[0][0] == 2**60
