"""Where in a text a pattern can begin at all, found for all characters at once, so that patterns are tried there only.

Python's `re` tries a pattern with several beginnings at every character, which takes ten times as long as everything
else that is done with a text. What is found is the same as by `finditer`: candidates are a superset of the places
where the pattern matches.
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["BEYOND", "Beginnings", "Scan", "basic_plane", "matches"]

Flags = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]

UPPER, LOWER, DIGIT, UNDERSCORE, HYPHEN = (1 << bit for bit in range(5))
LETTER = UPPER | LOWER
WORD = LETTER | DIGIT | UNDERSCORE
BEYOND = 0xFFFF
"""Stands for all characters beyond the basic plane; it is no character itself."""


def basic_plane(text: str) -> npt.NDArray[np.uint16]:
    """Return the code of each character, ``BEYOND`` for those beyond the basic plane.

    Tables are looked up with 16 bits and ``np.take``: a sixth of the time of 32 bits and an index in brackets.
    """
    codes = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), dtype=np.uint16)
    if len(codes) == len(text):
        return codes
    wide = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    return np.minimum(wide, BEYOND).astype(np.uint16)


def _character_classes() -> Flags:
    classes = np.zeros(BEYOND + 1, dtype=np.uint8)
    for characters, flag in (
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", UPPER), ("abcdefghijklmnopqrstuvwxyz", LOWER), ("0123456789", DIGIT),
        ("_", UNDERSCORE), ("-", HYPHEN),
    ):  # fmt: skip
        classes[[ord(character) for character in characters]] = flag
    return classes


_CLASSES = _character_classes()


_LETTERS = np.where(_CLASSES & LETTER, np.arange(BEYOND + 1) & 31, 0).astype(np.uint8)
"""Number in the alphabet of each Latin letter, 0 for all other characters."""


class Beginnings:
    """How the matches of a pattern can begin.

    Args:
        characters: Single characters, at any place.
        words: Latin words, of any case, with no letter before them. A word of fewer than three characters ends there:
            what follows it is no letter.
        pairs: Two characters, at any place; for those that are frequent alone, as kana are.
    """

    def __init__(self, characters: Iterable[str] = (), words: Iterable[str] = (), pairs: Iterable[str] = ()) -> None:
        characters, pairs = tuple(characters), tuple(pairs)
        codes = [min(ord(character), BEYOND) for character in (*characters, *(pair[0] for pair in pairs))]
        self.in_pairs = "".join(sorted({pair[0] for pair in pairs} - set(characters)))
        self.seconds = "".join(sorted({pair[1] for pair in pairs}))
        self.characters = np.zeros(BEYOND + 1, dtype=np.bool_) if codes else None
        if self.characters is not None:
            self.characters[codes] = True
        self.prefixes = np.zeros((32, 32, 32), dtype=np.bool_)
        for word in words:
            letters = [_letter(character) for character in word[:3]]
            # one character after the word is known, nothing after that
            key = tuple([*letters, 0][:3]) + (slice(None),) * (2 - len(letters))
            self.prefixes[key] = True


def _letter(character: str) -> int:
    return ord(character) & 31 if character.isascii() and character.isalpha() else 0


class Scan:
    """A text with the class of each character.

    Args:
        text: Any text.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._codes = basic_plane(text)
        self._flags = np.take(_CLASSES, self._codes)
        self._before = np.zeros(len(text) + 1, dtype=np.uint8)
        self._before[1:] = self._flags
        self.word_starts = _starts(self._before & WORD != 0)
        self._letter_starts = _starts(self._before & LETTER != 0)
        letters = np.zeros(len(text) + 2, dtype=np.uint8)  # two more: the last word is looked at too
        np.take(_LETTERS, self._codes, out=letters[: len(text)])
        starts = self._letter_starts
        self._words = np.ravel_multi_index((letters[starts], letters[starts + 1], letters[starts + 2]), (32, 32, 32))

    def places(self, beginnings: Beginnings) -> Places:
        """Return where a match with one of these beginnings can begin, in order."""
        starts = self._letter_starts[np.take(beginnings.prefixes.ravel(), self._words)]
        if beginnings.characters is None:
            return starts
        here = np.flatnonzero(np.take(beginnings.characters, self._codes))
        if beginnings.in_pairs:
            following = self._codes[np.minimum(here + 1, len(self._codes) - 1)]
            is_pair = _is_one_of(following, beginnings.seconds)
            here = here[is_pair | ~_is_one_of(self._codes[here], beginnings.in_pairs)]
        return np.union1d(here, starts) if len(starts) else here

    def contractions(self) -> Places:
        """Return the beginnings of the words before an apostrophe."""
        if "'" not in self.text and "’" not in self.text:
            return self._letter_starts[:0]
        ends = np.flatnonzero((self._codes == ord("'")) | (self._codes == ord("’")))
        return self._starts_before(self._letter_starts, ends)

    def marked_words(self) -> Places:
        """Return the beginnings of words with an inner capital, underscore or digit, a hyphen behind, or ``0x``."""
        # every mark is such a character or follows one, and these are few
        special = np.flatnonzero(self._flags & (UPPER | DIGIT | UNDERSCORE | HYPHEN) != 0)
        is_near = np.zeros(len(self._flags) + 1, dtype=np.bool_)
        is_near[special] = is_near[special + 1] = True
        at = np.flatnonzero(is_near[:-1])
        flags, before = self._flags[at], self._before[at]
        before_that = self._before[np.maximum(at - 1, 0)]
        before_that[at == 0] = 0
        is_marked = (flags & UPPER != 0) & (before & (LOWER | DIGIT) != 0)
        is_marked |= (flags & LOWER != 0) & (before & before_that & UPPER != 0)
        is_marked |= (flags & (LETTER | DIGIT) != 0) & (before & UNDERSCORE != 0)
        is_marked |= (flags & DIGIT != 0) & (before & UPPER != 0)
        is_marked |= (flags & HYPHEN != 0) & (before & (UPPER | DIGIT) != 0)
        is_marked |= (self._codes[at] == ord("x")) & (before & DIGIT != 0)
        return self._starts_before(self.word_starts, at[is_marked])

    @staticmethod
    def _starts_before(starts: Places, at: Places) -> Places:
        """Return the last start before each place, each once."""
        number = np.searchsorted(starts, at) - 1
        return np.unique(starts[number[number >= 0]])


def _is_one_of(codes: npt.NDArray[np.uint16], characters: str) -> Mask:
    """Whether each character is one of a few of the basic plane; much faster than numpy.isin."""
    found: Mask = codes == ord(characters[0])
    for character in characters[1:]:
        found |= codes == ord(character)
    return found


def _starts(is_member: Mask) -> Places:
    """Return the places of the members that follow no member; the first value is that of the place before the text."""
    return np.flatnonzero(is_member[1:] > is_member[:-1])


def matches(pattern: re.Pattern[str], text: str, places: Places) -> Iterator[re.Match[str]]:
    """Yield the matches of a pattern, from left to right and without overlaps, that begin at one of the places."""
    end = 0
    for place in places.tolist():
        if place >= end and (match := pattern.match(text, place)) is not None:
            yield match
            end = match.end()
