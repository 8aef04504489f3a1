"""Where in a text private data can begin at all, found for all characters at once, so that patterns run there only.

A pattern of private data begins with a rare character - a digit, an ``@``, the ``p`` of *password*, a municipality -
and Python's `re` looks for it at every character. Here one look-up per character leaves the few that matter; what a
pattern finds at them is what it would have found everywhere.
"""

import functools
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from flows.scan import BEYOND, basic_plane

__all__ = ["Places", "Plain"]

Index = npt.NDArray[np.intp]
Codes = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_DASHES = "-‐‑‒–—―−ー"
DIGIT, IN_KEY, RARE, IN_NUMBER, FULL_WIDTH = (1 << bit for bit in range(5))
MIN_KEY = 14
"""Shortest run of letters, digits and ``_+/-`` that a key is made of. [characters]"""
MIN_DIGITS = 6
"""Digits of the shortest private number."""
MAX_GAP = 5
"""Most characters between two digits of one number."""

_DIGITS = "0123456789"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TOWNS = "市区町村"
_OPENS = "(+"
_HINTS = ("pass", "Pass", "PASS", "pw", "Pw", "PW", "pin", "Pin", "PIN", "パスワード", "暗証番号")
_KEPT_FULL_WIDTH = "！＂＇，；＜＞？［＼］｛｜｝～"
_FULL_WIDTH = "".join(chr(code) for code in range(0xFF01, 0xFF5F) if chr(code) not in _KEPT_FULL_WIDTH)
_WIDTH_STEP = 0xFEE0


@functools.cache
def _classes() -> npt.NDArray[np.uint8]:
    classes = np.zeros(BEYOND + 1, dtype=np.uint8)
    for characters, flag in (
        (_DIGITS, DIGIT), (f"{_DIGITS}{_LETTERS}_+/-", IN_KEY), (f"@{_OPENS}{_TOWNS}〒pPパ暗B-'", RARE),
        (f" ().{_DASHES}", IN_NUMBER),
    ):  # fmt: skip
        classes[[ord(character) for character in characters]] |= flag
    full = np.array([ord(character) for character in _FULL_WIDTH])
    classes[full] = classes[full - _WIDTH_STEP] | FULL_WIDTH
    return classes


@functools.cache
def _ascii_classes() -> bytes:
    return bytes([*_classes()[:128].tolist(), *bytes(128)])


def _half_width(text: str, full: Index) -> str:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).copy()
    codes[full] -= np.uint32(_WIDTH_STEP)
    return codes.tobytes().decode("utf-32-le", "surrogatepass")


def _is_one_of(codes: Codes, characters: str) -> npt.NDArray[np.bool_]:
    """Whether each character is one of a few; much faster than numpy.isin."""
    found: npt.NDArray[np.bool_] = codes == ord(characters[0])
    for character in characters[1:]:
        found |= codes == ord(character)
    return found


@dataclass
class Places:
    """Where patterns are tried in one piece of text, in characters from its start."""

    at_signs: list[int] = field(default_factory=list)
    keys: list[tuple[int, int]] = field(default_factory=list)
    """Start and end of the runs that may be a key: long enough and with a digit."""
    hints: list[int] = field(default_factory=list)
    """Words that announce a password."""
    towns: list[int] = field(default_factory=list)
    postal_marks: list[int] = field(default_factory=list)
    figures: list[int] = field(default_factory=list)
    """First digits of the runs of digits."""
    opens: list[int] = field(default_factory=list)
    """Opening brackets and plus signs."""
    long_numbers: list[int] = field(default_factory=list)
    """Digits that five others follow, each near the one before."""
    words: list[int] = field(default_factory=list)
    """What may belong to a post office box, or to a command with a password."""

    def any(self) -> bool:
        """Tell whether there is anything to try."""
        return any((self.at_signs, self.keys, self.hints, self.towns, self.postal_marks, self.figures, self.words))


class Plain:
    """A text in which full-width letters, digits and marks are half-width, and where its patterns are tried.

    Args:
        text: Any text.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        codes: Codes
        if text.isascii():
            raw = text.encode()
            codes = np.frombuffer(raw, dtype=np.uint8)
            classes = np.frombuffer(raw.translate(_ascii_classes()), dtype=np.uint8)
        else:
            codes = basic_plane(text)
            classes = np.take(_classes(), codes)
            full = np.flatnonzero(classes & FULL_WIDTH != 0)
            if len(full):
                codes = codes.copy()
                codes[full] -= np.uint16(_WIDTH_STEP)
                self.text = _half_width(text, full)
        self._rare = np.flatnonzero(classes & (DIGIT | RARE) != 0)
        self._codes = codes[self._rare]
        digits = self._rare[classes[self._rare] & DIGIT != 0]
        self._digits = digits
        is_first = np.ones(len(digits), dtype=np.bool_)
        is_first[1:] = np.diff(digits) > 1
        self._figures = digits[is_first]
        self._long_numbers = self._long(classes)
        self._keys = self._key_runs(classes)
        self._hints = self._password_hints(codes)
        self._word_places = self._words(codes)

    def _long(self, classes: npt.NDArray[np.uint8]) -> Index:
        digits = self._digits
        is_joined = np.diff(digits) <= MAX_GAP + 1
        is_joined &= classes[digits[:-1] + 1] & (DIGIT | IN_NUMBER) != 0
        n = max(len(is_joined) - (MIN_DIGITS - 2), 0)
        joined: Index = digits[:n][np.logical_and.reduce([is_joined[at : at + n] for at in range(MIN_DIGITS - 1)])]
        return joined

    def _key_runs(self, classes: npt.NDArray[np.uint8]) -> Index:
        if len(self._digits) == 0:
            return np.zeros((0, 2), dtype=np.intp)
        in_key = classes & IN_KEY != 0
        # most texts have no run of that length; the search leaps over what is shorter
        if in_key.tobytes().find(b"\1" * MIN_KEY) < 0:
            return np.zeros((0, 2), dtype=np.intp)
        edges = np.flatnonzero(np.diff(in_key, prepend=False, append=False)).reshape(-1, 2)
        edges = edges[edges[:, 1] - edges[:, 0] >= MIN_KEY]
        before = np.searchsorted(self._digits, edges)
        return edges[before[:, 0] < before[:, 1]]

    def _password_hints(self, codes: Codes) -> list[int]:
        # their second and third letters leave few
        places = self._rare[_is_one_of(self._codes, "pPパ暗")]
        second, third = (codes[np.minimum(places + step, len(codes) - 1)] for step in (1, 2))
        is_word = _is_one_of(second, "wWス証")
        is_word |= _is_one_of(second, "aA") & _is_one_of(third, "sS")
        is_word |= _is_one_of(second, "iI") & _is_one_of(third, "nN")
        places = places[is_word]
        text = self.text
        return [place for place in places.tolist() if text.startswith(_HINTS, place)]

    def _words(self, codes: Codes) -> Index:
        # Box, -p, -u and "by '"
        places = self._rare[_is_one_of(self._codes, "B-'")]
        last = len(codes) - 1
        here, following, before = codes[places], codes[np.minimum(places + 1, last)], codes[np.maximum(places - 2, 0)]
        is_word = (here == ord("B")) & (following == ord("o"))
        is_word |= (here == ord("-")) & _is_one_of(following, "pu")
        is_word |= (here == ord("'")) & _is_one_of(before, "yY")
        words: Index = places[is_word]
        return words

    def pieces(self, bounds: Sequence[int]) -> Iterator[Places]:
        """Yield the places of each piece of the text between two bounds, in order.

        Args:
            bounds: Start of the first piece and end of each.
        """
        of_kind = {
            "at_signs": self._rare[self._codes == ord("@")],
            "towns": self._rare[_is_one_of(self._codes, _TOWNS)],
            "postal_marks": self._rare[self._codes == ord("〒")],
            "figures": self._figures,
            "opens": self._rare[_is_one_of(self._codes, _OPENS)],
            "long_numbers": self._long_numbers,
            "words": self._word_places,
        }
        lists = {kind: places.tolist() for kind, places in of_kind.items() if len(places)}
        if self._hints:
            lists["hints"] = self._hints
        keys = self._keys.tolist()
        starts = [start for start, _ in keys]
        done = dict.fromkeys([*lists, "keys"], 0)
        for low, high in pairwise(bounds):
            piece = Places()
            for kind, places in lists.items():
                end = bisect_left(places, high, done[kind])
                setattr(piece, kind, [place - low for place in places[done[kind] : end]])
                done[kind] = end
            end = bisect_left(starts, high, done["keys"])
            piece.keys = [(start - low, stop - low) for start, stop in keys[done["keys"] : end]]
            done["keys"] = end
            yield piece
