"""Sketches and clusters of documents that say the same."""

import random

import numpy as np
import pytest

from flows.corpus.duplicates import SHINGLE, cluster, page_key, signature, similarity
from flows.corpus.squeezed import exact_hash, ngram_hashes, squeezed

KANJI = [chr(code) for code in range(0x4E00, 0x4E00 + 1500)]


def _prose(seed: int, n_words: int = 120) -> list[str]:
    random_ = random.Random(seed)
    return [f"w{random_.randrange(10**6)}" for _ in range(n_words)]


def _text(words: list[str]) -> str:
    return " ".join(words)


def _shingles(text: str) -> set[str]:
    words = "".join(text.split())
    return {words[i : i + SHINGLE] for i in range(len(words) - SHINGLE + 1)}


def _jaccard(a: str, b: str) -> float:
    first, second = _shingles(a), _shingles(b)
    return len(first & second) / len(first | second)


def _edited(words: list[str], seed: int, target: float) -> list[str]:
    """Words replaced one after the other until the Jaccard similarity is as near above ``target`` as it gets."""
    random_ = random.Random(seed)
    edited = list(words)
    order = random_.sample(range(len(words)), len(words))
    sure = int(0.03 * len(words)) if target > 0.7 else 0
    for at in order[:sure]:
        edited[at] = f"x{random_.randrange(10**6)}"
    for at in order[sure:]:
        changed = [*edited[:at], f"x{random_.randrange(10**6)}", *edited[at + 1 :]]
        if _jaccard(_text(words), _text(changed)) < target:
            return edited
        edited = changed
    return edited


def _clusters(texts: dict[str, str]) -> dict[str, str]:
    sources = list(texts)
    names = cluster(
        sources,
        [signature(squeezed(texts[source])) for source in sources],
        [exact_hash(squeezed(texts[source])) for source in sources],
        [page_key(source) for source in sources],
    )
    return dict(zip(sources, names, strict=True))


@pytest.mark.parametrize("n_words", [15, 60, 400, 2500])
def test_similarity_estimates_jaccard_without_bias(n_words: int) -> None:
    """On texts of any length the mean error is within 4 standard errors of 0, and no error is beyond 5."""
    errors = []
    for seed in range(30):
        words = _prose(seed, n_words)
        edited = list(words)
        for at in range(0, n_words, 25):
            edited[at] = "changed"
        a, b = signature(squeezed(_text(words))), signature(squeezed(_text(edited)))
        assert a is not None
        assert b is not None
        errors.append(float(similarity(a, b)) - _jaccard(_text(words), _text(edited)))
    assert abs(np.mean(errors)) < 4 * 0.0177 / 30**0.5
    assert max(map(abs, errors)) < 5 * 0.0177


def test_near_duplicates_at_jaccard_080_are_found() -> None:
    """Of 200 pairs with a true similarity just above 0.8, at least 95 % are joined; pairs of other texts never."""
    texts = {}
    for seed in range(200):
        words = _prose(seed, 100 + seed)
        edited = _edited(words, seed, 0.8)
        assert 0.8 <= _jaccard(_text(words), _text(edited)) < 0.84
        texts |= {f"{seed}/a": _text(words), f"{seed}/b": _text(edited)}
    names = _clusters(texts)
    found = sum(names[f"{seed}/b"] == names[f"{seed}/a"] for seed in range(200))
    assert found >= 0.95 * 200
    assert all(name.split("/")[0] == source.split("/")[0] for source, name in names.items())


def test_pairs_at_jaccard_060_are_not_joined() -> None:
    """Documents that share much, but are not near-duplicates, stay apart."""
    texts = {}
    for seed in range(60):
        words = _prose(seed, 100)
        texts |= {f"{seed}/a": _text(words), f"{seed}/b": _text(_edited(words, seed, 0.6))}
    assert all(name == source for source, name in _clusters(texts).items())


def test_near_duplicates_are_found_among_thousands_of_like_documents() -> None:
    """Of one form, filled in 2,000 times (similarity about 0.7), the 50 that are copies with a changed word join."""
    form = _prose(0, 150)
    texts = {f"{i:04d}": _text([*form, *_prose(1000 + i, 32)]) for i in range(2000)}
    for i in range(50):
        texts[f"{i * 17:04d}-copy"] = texts[f"{i * 17:04d}"].replace(form[20], "changed", 1)
    names = _clusters(texts)
    joined = sum(names[f"{i * 17:04d}-copy"] == names[f"{i * 17:04d}"] for i in range(50))
    assert joined >= 48
    assert len(set(names.values())) > 1900


def test_copies_edits_and_translations_share_a_cluster() -> None:
    """Copies, a text with one changed word, and the two languages of a page join; an unlike text stays alone."""
    base = _text(_prose(1))
    texts = {
        "a.txt": base,
        "copy.txt": base.upper().replace(" ", "\n"),
        "edited.txt": base.replace(base.split()[60], "changed", 1),
        "en/guide.txt": _text(_prose(2)),
        "ja/guide.md": "案内" * 60,
        "guide.ja.txt": "手引き" * 50,
        "other.txt": _text(_prose(3)),
        "sub/guide.txt": _text(_prose(4)),
    }
    assert list(_clusters(texts).values()) == ["a.txt"] * 3 + ["en/guide.txt"] * 3 + ["other.txt", "sub/guide.txt"]


def test_japanese_near_duplicates_join() -> None:
    """A Japanese text with a few changed characters, in another width and without line ends, is a near-duplicate."""
    text = "".join(random.Random(1).choices(KANJI, k=400))
    changed = text[:100] + "変更" + text[102:] + "ＡＢＣ１２３"
    names = _clusters({"a": text + "ABC123", "b": changed, "c": "".join(random.Random(2).choices(KANJI, k=400))})
    assert names == {"a": "a", "b": "a", "c": "c"}


@pytest.mark.parametrize("text", ["", " \n", "short", "七文字です。。"])
def test_a_text_shorter_than_a_shingle_has_no_signature(text: str) -> None:
    """It clusters by its exact hash alone."""
    assert signature(squeezed(text)) is None
    assert _clusters({"1": text, "2": text + " ", "3": _text(_prose(5))}) == {"1": "1", "2": "1", "3": "3"}


@pytest.mark.parametrize("text", ["abcdefgh", "ab" * 20_000, "a" * 100_000, "😀" * 9])
def test_repetitive_text_has_a_signature(text: str) -> None:
    """One or two different shingles fill a whole signature, the same for every length of the text."""
    words = signature(squeezed(text))
    assert words is not None
    assert words.shape == (128,)
    longer = signature(squeezed(text + text))
    assert longer is not None
    if len(set(text)) < 3:
        assert float(similarity(words, longer)) == 1.0


def test_signature_does_not_depend_on_the_process() -> None:
    """The first word is always the same, so that signatures kept from an earlier run can be compared."""
    words = signature(squeezed("The quick brown fox jumps over the lazy dog."))
    assert words is not None
    assert int(words[0]) == 0x9BCDC9DD6F4ACEA1


def test_ngram_hashes_are_those_of_the_substrings() -> None:
    """Equal n-grams have equal hashes wherever they stand, different ones different hashes."""
    for width in (1, 2, 3, 7, 8, 24, 50):
        text = "".join(random.Random(width).choices("abc", k=400))
        grams = [text[i : i + width] for i in range(len(text) - width + 1)]
        hashes = ngram_hashes(squeezed(text), width).tolist()
        assert len(hashes) == len(grams)
        assert len(set(hashes)) == len(set(grams)) == len(set(zip(hashes, grams, strict=True)))


def test_no_documents_have_no_clusters() -> None:
    """An empty corpus is not an error here."""
    assert cluster([], [], [], []) == []
