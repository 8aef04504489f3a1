"""Trying patterns of private data where they can begin finds what `finditer` finds."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from flows.corpus import addresses, private, private_numbers, secret_patterns
from flows.corpus.places import Places, Plain
from flows.corpus.windows import matches

PIECES = st.sampled_from((
    "0", "1", "3", "(", ")", "+", "-", "ー", ".", " ", "  ", "/", "tel", "fax.", "pass", "Password: ", "PIN",
    "pw=", "@", "example.co.jp", "a", "Z", "市", "区", "村", "〒", "1丁目", "番地2", "東京都", "account ",
    "GB82", "sort code ", "＋81", "03-1234-5678", "4111", "1111 1111", "123456789018", "パスワード",
    "暗証番号は", "Box 12", "P.O. ", "12 Main Street", "，", "３", "のー", "\n", "ABCdef0123456789xyz",
    "mysql -p", "curl -u a:b", "identified by 'x'", "://u:pw1@", "😀", "　",
))  # fmt: skip
TEXTS = st.lists(PIECES, max_size=25).map("".join) | st.text(max_size=60)
RUN = re.compile(r"[A-Za-z0-9_+/-]{14,}")
HINTS = re.compile("pass|Pass|PASS|pw|Pw|PW|pin|Pin|PIN|パスワード|暗証番号")


def _looked_at(text: str) -> tuple[str, Places]:
    plain = Plain(text)
    (places,) = plain.pieces([0, len(text)])
    return plain.text, places


def _spans(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    return [match.span() for match in pattern.finditer(text)]


@settings(deadline=None)
@given(TEXTS)
@example("+81 3 1234 5678 (03)1234-5678")
@example("tel03-1234-5678")
def test_patterns_find_what_finditer_finds(text: str) -> None:
    """Numbers, addresses and mail addresses stand at the same places as by trying every character."""
    plain, places = _looked_at(text)
    begins = sorted([*places.figures, *places.opens])
    for pattern, where in (
        (private._AT, places.at_signs),
        (private_numbers._LONG_RUN, places.long_numbers),
        (private_numbers._MY_NUMBER, places.figures),
        (private_numbers._CARD, places.figures),
        (private_numbers._PHONE_BARE, places.figures),
        (private_numbers._PHONE_WORLD, places.opens),
        (private_numbers._PHONE_JP, begins),
        (private_numbers._PHONE_UK, begins),
        (private_numbers._PHONE_US, begins),
        (private_numbers._IBAN, [figure - 2 for figure in places.figures if figure >= 2]),
        (addresses._ENGLISH, places.figures),
        (addresses._JAPANESE, places.towns),
        (addresses._ZIP, places.postal_marks),
    ):
        assert [match.span() for match in matches(pattern, plain, where)] == _spans(pattern, plain)


@settings(deadline=None)
@given(TEXTS)
def test_words_and_runs_are_all_there(text: str) -> None:
    """Where the words of passwords stand, which runs may be a key, and that no command or box is missed."""
    plain, places = _looked_at(text)

    assert places.hints == [match.start() for match in HINTS.finditer(plain)]
    assert places.keys == [span for span in _spans(RUN, plain) if re.search("[0-9]", plain[slice(*span)])]
    needs_words = (addresses._PO_BOX, *(pattern for _, pattern in secret_patterns._COMMANDS))
    assert places.words or not any(pattern.search(plain) for pattern in needs_words)


@settings(deadline=None)
@given(TEXTS, TEXTS)
def test_pieces_have_the_places_that_they_have_alone(first: str, second: str) -> None:
    """What stands before an empty line has no part in what stands behind it."""
    first += "\n\n"
    together = list(Plain(first + second).pieces([0, len(first), len(first) + len(second)]))

    assert together == [_looked_at(first)[1], _looked_at(second)[1]]


@settings(deadline=None)
@given(TEXTS)
def test_accounts_are_looked_for_wherever_one_is(text: str) -> None:
    """The words that decide whether a pattern of accounts is tried stand in everything that it matches."""
    plain = Plain(text).text
    for words, pattern in private_numbers._ACCOUNTS:
        for match in pattern.finditer(plain):
            assert any(word in match.group().lower() for word in words)
