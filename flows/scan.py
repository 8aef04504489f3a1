"""Where in a text a pattern can begin at all, found for all characters at once, so that patterns are tried there only.

Python's `re` tries a pattern with several beginnings at every character, which takes ten times as long as everything
else that is done with a text. What is found is the same as by `finditer`: candidates are a superset of the places
where the pattern matches.
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["Beginnings", "Scan", "matches"]

Flags = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.intp]

UPPER, LOWER, DIGIT, UNDERSCORE, HYPHEN = (1 << bit for bit in range(5))
LETTER = UPPER | LOWER
WORD = LETTER | DIGIT | UNDERSCORE
_BEYOND = 0xFFFF
"""Stands for all characters beyond the basic plane; it is no character itself."""


def _character_classes() -> Flags:
    classes = np.zeros(_BEYOND + 1, dtype=np.uint8)
    for characters, flag in (
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZ", UPPER), ("abcdefghijklmnopqrstuvwxyz", LOWER), ("0123456789", DIGIT),
        ("_", UNDERSCORE), ("-", HYPHEN),
    ):  # fmt: skip
        classes[[ord(character) for character in characters]] = flag
    return classes


_CLASSES = _character_classes()


class Beginnings:
    """How the matches of a pattern can begin.

    Args:
        characters: Single characters, at any place.
        words: Latin words, of any case, with no letter before them. A word of fewer than three characters ends there:
            what follows it is no letter.
    """

    def __init__(self, characters: Iterable[str] = (), words: Iterable[str] = ()) -> None:
        codes = [min(ord(character), _BEYOND) for character in characters]
        self.characters = np.zeros(_BEYOND + 1, dtype=np.bool_) if codes else None
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
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        self._codes = np.minimum(codes, _BEYOND).astype(np.uint16)
        self._flags = _CLASSES[self._codes]
        self._before = np.concatenate((np.zeros(1, np.uint8), self._flags[:-1]))[: len(text)]
        self._letters = np.zeros(len(text) + 2, dtype=np.uint8)  # two more: the last word is looked at too
        self._letters[: len(text)] = np.where(self._flags & LETTER, self._codes & 31, 0)
        word_starts = (self._flags & WORD != 0) & (self._before & WORD == 0)
        self.word_starts: Places = np.flatnonzero(word_starts)
        self._letter_starts: Places = np.flatnonzero((self._flags & LETTER != 0) & (self._before & LETTER == 0))

    def places(self, beginnings: Beginnings) -> Places:
        """Return where a match with one of these beginnings can begin, in order."""
        starts = self._letter_starts
        begins = beginnings.prefixes[self._letters[starts], self._letters[starts + 1], self._letters[starts + 2]]
        if beginnings.characters is None:
            return starts[begins]
        here = beginnings.characters[self._codes]
        here[starts[begins]] = True
        return np.flatnonzero(here)

    def contractions(self) -> Places:
        """Return the beginnings of the words before an apostrophe."""
        ends = np.flatnonzero((self._codes == ord("'")) | (self._codes == ord("’")))
        return self._starts_before(self._letter_starts, ends)

    def marked_words(self) -> Places:
        """Return the beginnings of words with an inner capital, underscore or digit, a hyphen behind, or ``0x``."""
        flags, before = self._flags, self._before
        before_that = np.concatenate((np.zeros(1, np.uint8), before[:-1]))[: len(flags)]
        is_marked = (flags & UPPER != 0) & (before & (LOWER | DIGIT) != 0)
        is_marked |= (flags & LOWER != 0) & (before & before_that & UPPER != 0)
        is_marked |= (flags & (LETTER | DIGIT) != 0) & (before & UNDERSCORE != 0)
        is_marked |= (flags & DIGIT != 0) & (before & UPPER != 0)
        is_marked |= (flags & HYPHEN != 0) & (before & (UPPER | DIGIT) != 0)
        is_marked |= (self._codes == ord("x")) & (before & DIGIT != 0)
        return self._starts_before(self.word_starts, np.flatnonzero(is_marked))

    @staticmethod
    def _starts_before(starts: Places, at: Places) -> Places:
        """Return the last start before each place, each once."""
        number = np.searchsorted(starts, at) - 1
        return np.unique(starts[number[number >= 0]])


def matches(pattern: re.Pattern[str], text: str, places: Places) -> Iterator[re.Match[str]]:
    """Yield the matches of a pattern, from left to right and without overlaps, that begin at one of the places."""
    end = 0
    for place in places.tolist():
        if place >= end and (match := pattern.match(text, place)) is not None:
            yield match
            end = match.end()
