"""The squeezed form of a text, its hashes and its Unicode form are those of their definitions."""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flows.corpus import clean
from flows.corpus.clean import CleanConfig
from flows.corpus.squeezed import exact_hash, ngram_hashes, squeezed

FACTOR = 0x9E3779B97F4A7C15
ODD = st.sampled_from((
    "か", "\u3099", "\u309a", "ﾞ", "ｶﾞ", "e", "\u0301", "\u0323", "…", "㈱", "①", "ﬁ", "Straße", "İ", "ſ", "각", "ᄀ", "ᅡ",
    "ᆨ", "😀", "\U000242ee", "豈", "\u00ad", "\u200b", "\xa0", "\x85", "\u2028", "\x1f", " ", "\n", "Ａ", "A", "²", "が",
))  # fmt: skip
TEXTS = st.lists(ODD, max_size=20).map("".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
LONG = st.builds(
    lambda text, at: "日本語の文と words. " * at + text + " そして日本語。" * 40, TEXTS, st.integers(0, 30)
)


def _by_definition(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


@settings(deadline=None)
@given(TEXTS | LONG)
@example("")
@example("\0a\0")
@example("".join(map(chr, (*range(0xD800), *range(0xE000, 0x11000)))))
def test_a_squeezed_text_is_what_normalising_all_of_it_gives(text: str) -> None:
    """Looking characters up one by one never differs from NFKC, case folding and splitting of the whole."""
    codes = squeezed(text)
    expected = _by_definition(text)

    assert "".join(map(chr, codes.tolist())) == expected
    assert exact_hash(codes) == hashlib.sha256(expected.encode()).hexdigest()


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=70) | TEXTS, st.integers(1, 60))
def test_ngram_hashes_are_those_of_the_formula(text: str, width: int) -> None:
    """Differences of one running sum are the sums themselves."""
    codes = squeezed(text)
    expected = []
    for start in range(len(codes) - width + 1):
        total = 0
        for code in codes[start : start + width].tolist():
            total = (total * FACTOR + code) % 2**64
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            total = (total ^ (total >> shift)) * factor % 2**64
        expected.append(total ^ (total >> 31))

    assert ngram_hashes(codes, width).tolist() == expected


def test_hashes_do_not_change_where_one_block_ends() -> None:
    """A text longer than what is hashed at a time has the hashes of its pieces."""
    codes = squeezed("abcdefghij" * 5000)
    hashes = ngram_hashes(codes, 50)

    assert len(hashes) == 50_000 - 49
    assert np.array_equal(hashes[10_000:20_000], ngram_hashes(codes[10_000:20_049], 50))
    assert len(set(hashes.tolist())) == 10


@settings(deadline=None)
@given(TEXTS | LONG, st.booleans(), st.booleans())
def test_steps_that_are_left_out_would_have_changed_nothing(text: str, nfkc: bool, half_width_kana: bool) -> None:
    """The form that takes only the steps a text needs is the one that takes all of them."""
    config = CleanConfig(nfkc=nfkc, half_width_kana=half_width_kana)
    expected = clean._INVISIBLE.sub("", clean._LINE_END.sub("\n", text)).replace("\xa0", " ")
    expected = clean._PILED_MARKS.sub(r"\1", expected)
    if half_width_kana:
        expected = clean._HALF_WIDTH_KANA.sub(lambda match: unicodedata.normalize("NFKC", match.group()), expected)
    if nfkc:
        expected = clean._NFKC.sub(lambda match: unicodedata.normalize("NFKC", match.group()), expected)

    assert clean._one_form(text, config) == unicodedata.normalize("NFC", expected)
