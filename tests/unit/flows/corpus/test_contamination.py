"""The n-gram overlap of test text with training text."""

import random

import pytest

from flows.corpus.contamination import WIDTH, NgramOverlap

KANJI = [chr(code) for code in range(0x4E00, 0x4E00 + 1500)]


def _english(seed: int, n_words: int = 300) -> str:
    random_ = random.Random(seed)
    return " ".join(f"word{random_.randrange(10**5)}" for _ in range(n_words))


def _japanese(seed: int, n: int = 600) -> str:
    return "".join(random.Random(seed).choices(KANJI, k=n))


@pytest.mark.parametrize("make", [_english, _japanese])
def test_share_of_copied_text(make: object) -> None:
    """A text of training has the share 1, another one 0, and one that is half copied about one half."""
    assert callable(make)
    overlap = NgramOverlap()
    for seed in range(5):
        overlap.add_train(make(seed))
    assert overlap.share(make(3)) == 1.0
    assert overlap.share(make(99)) == 0.0
    share = overlap.share(make(3) + " " + make(98))
    assert share is not None
    assert share == pytest.approx(0.5, abs=0.03)


def test_white_space_width_and_case_do_not_hide_a_copy() -> None:
    """A copy in capitals, full width and with other line ends is a copy."""
    overlap = NgramOverlap()
    overlap.add_train(_english(1))
    assert overlap.share(_english(1).upper().replace(" ", "\n")) == 1.0


@pytest.mark.parametrize(("language", "text"), [("en", "a1b2c3d4e5" * 4), ("ja", "漢字" * 11)])
def test_a_text_shorter_than_an_ngram_has_no_share(language: str, text: str) -> None:
    """Nothing to look at is None, not 0."""
    assert len(text) < WIDTH[language]
    overlap = NgramOverlap()
    overlap.add_train(text)
    assert overlap.share(text) is None
    assert overlap.counts(text) == (0, 0)


def test_without_training_text_nothing_is_shared() -> None:
    """The share is 0, not an error."""
    assert NgramOverlap().share(_english(1)) == 0.0


def test_memory_is_bounded_and_the_share_stays_right() -> None:
    """With room for 2,000 of 150,000 n-grams the sampled share of a half copied corpus is near one half."""
    overlap = NgramOverlap(max_ngrams=2000)
    for seed in range(60):
        overlap.add_train(_english(seed))
    assert overlap.n_kept <= 2000
    assert overlap.sampled_share < 0.03
    counts = [overlap.counts(_english(seed)) for seed in range(30, 90)]
    n_found, n = (sum(column) for column in zip(*counts, strict=True))
    assert n > 500
    assert n_found / n == pytest.approx(0.5, abs=0.1)


def test_order_of_documents_does_not_matter() -> None:
    """The kept n-grams are the smallest, however the documents come."""
    first, second = NgramOverlap(max_ngrams=1000), NgramOverlap(max_ngrams=1000)
    for seed in range(20):
        first.add_train(_english(seed))
        second.add_train(_english(19 - seed))
    assert [first.counts(_english(s)) for s in range(25)] == [second.counts(_english(s)) for s in range(25)]
