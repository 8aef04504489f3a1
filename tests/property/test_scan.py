"""Trying patterns where they can begin finds what `finditer` finds."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from flows import terms
from flows.scan import Beginnings, Scan, matches
from flows.terms import Term, TermMatcher

PIECES = st.sampled_from((
    "January", "2024年", "１２", "12", "3.5", "ms", " ", " ", "-", "_", "not", "NO", "no", "none", "can't", "isn’t",
    "two", "at least", "one", "or more", "KeepAlive", "mod_ssl", "AH00558", "ORA-00942", "0x1F", "ない", "ません", "ず",
    "わから", "不可", "三つ", "¥", "$", "x", "A", "b", "ssl", "IP", "access", "control", "アクセス", "httpd", "é",
    "😀", "\n", ".",
))  # fmt: skip
TEXTS = st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=60)


def _term(name: str, kind: str = "glossary") -> Term:
    return Term(name, "any", "", (), 1.0, True, "", kind)


NAMES = ("Access Control", "IP", "b", "C++", ".htaccess", "mod_ssl", "アクセス", "MIME タイプ", "x86", "😀")
MATCHER = TermMatcher.from_glossary(
    [*map(_term, NAMES), _term("KeepAlive", "directive"), _term("<If", "directive")],
)


@given(TEXTS)
@example("a_b no")
@example("no")
def test_patterns_find_what_finditer_finds(text: str) -> None:
    """Codes, numbers and negations stand at the same places as by trying every character."""
    scan = Scan(text)
    negations = np.union1d(scan.places(terms._NEGATION_BEGINNINGS), scan.contractions())
    for pattern, places in (
        (terms.CODE, scan.marked_words()),
        (terms.NUMERIC, scan.places(terms._NUMERIC_BEGINNINGS)),
        (terms.NEGATION, negations),
    ):
        found = [match.span() for match in matches(pattern, text, places)]

        assert found == [match.span() for match in pattern.finditer(text)]


@given(TEXTS)
def test_terms_are_found_as_by_finditer(text: str) -> None:
    """Every trie finds its terms, whatever characters they begin with."""
    scan = Scan(text)
    for pattern, beginnings in MATCHER._patterns:
        found = [match.span() for match in matches(pattern, text, scan.places(beginnings))]

        assert found == [match.span() for match in pattern.finditer(text)]


def test_a_short_word_is_found_only_where_it_ends() -> None:
    """What follows a word of two letters is no letter; a place is given once, in order."""
    scan = Scan("no nose a no_ no")
    assert scan.places(Beginnings("a", ["no"])).tolist() == [0, 8, 10, 14]
    assert [match.start() for match in matches(re.compile("no"), scan.text, scan.places(Beginnings((), ["no"])))] == [
        0, 10, 14,
    ]  # fmt: skip
