"""Candidates for Japanese terms: runs of nouns, by SudachiPy or, where it is not installed, by script.

SudachiPy and its dictionary (200 MB) are the optional extra ``ja``. Without them runs of kanji and katakana are
taken; that finds バーチャルホスト and 証明書, but also 場合 or 使用可能, which only the contrast with a background
corpus can sink, and it gives no readings.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sudachipy import Morpheme

__all__ = ["NounRuns", "has_sudachi", "script_runs"]

MAX_LINE = 10_000
"""SudachiPy refuses input above 49,149 bytes; longer lines are read in pieces of this length. [characters]"""
MIN_LENGTH, MAX_LENGTH = 2, 24
"""Length of a candidate. [characters]"""

_TERM = re.compile(r"[゠-ヿ㐀-䶿一-鿿々]")
_SCRIPT_RUN = re.compile(r"[A-Za-z0-9]*(?:[゠-ヺー-ヿ㐀-䶿一-鿿々]+[A-Za-z0-9]*)+")
_MIDDLE_DOTS = "・゠"


def has_sudachi() -> bool:
    """Tell whether SudachiPy and a dictionary of it are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("sudachipy", "sudachidict_core"))


def _is_candidate(run: str) -> bool:
    return MIN_LENGTH <= len(run) <= MAX_LENGTH and _TERM.search(run) is not None


def _pieces(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        for start in range(0, len(line), MAX_LINE):
            yield line[start : start + MAX_LINE]


def script_runs(text: str) -> list[str]:
    """Return the runs of kanji and katakana, with Latin letters and digits that stand directly beside them."""
    runs = (match.group().strip(_MIDDLE_DOTS) for match in _SCRIPT_RUN.finditer(text))
    return [run for run in runs if _is_candidate(run)]


class NounRuns:
    """Compound nouns of a text by SudachiPy: the longest runs of nouns, prefixes and nominal suffixes.

    Numbers, adverbial nouns (場合, 以下) and pronouns end a run, and so does a space. Runs without kanji and katakana
    are left out.
    """

    def __init__(self) -> None:
        from sudachipy import Dictionary

        dictionary = Dictionary(dict="core")
        self._tokenize: Callable[[str], list[Morpheme]] = dictionary.tokenizer().tokenize
        self._is_part = dictionary.pos_matcher(_is_part)
        self._is_noun = dictionary.pos_matcher(lambda pos: _is_part(pos) and pos[0] == "名詞")

    def __call__(self, text: str) -> list[str]:
        """Return the candidates of a text in reading order, repeated as often as they occur."""
        return [run for piece in _pieces(text) for run in self._runs(piece)]

    def reading(self, term: str) -> str:
        """Return the reading of a term in hiragana; letters of other scripts give none."""
        reading = "".join(morpheme.reading_form() for morpheme in self._tokenize(term))
        return "".join(chr(ord(c) - 0x60) if "ァ" <= c <= "ヶ" else c for c in reading)

    def _runs(self, piece: str) -> Iterator[str]:
        run: list[Morpheme] = []
        for morpheme in self._tokenize(piece):
            if self._is_part(morpheme):
                run.append(morpheme)
            else:
                yield from self._closed(run)
                run = []
        yield from self._closed(run)

    def _closed(self, run: list["Morpheme"]) -> Iterator[str]:
        while run and run[0].part_of_speech()[0] == "接尾辞":
            run = run[1:]
        while run and run[-1].part_of_speech()[0] == "接頭辞":
            run = run[:-1]
        surface = "".join(morpheme.surface() for morpheme in run)
        if any(self._is_noun(morpheme) for morpheme in run) and _is_candidate(surface):
            yield surface


def _is_part(pos: tuple[str, ...]) -> bool:
    """Tell whether a word of this part of speech may stand in a compound noun."""
    if pos[0] == "名詞":
        return pos[1] in ("普通名詞", "固有名詞") and pos[2] != "副詞可能"
    return pos[0] == "接頭辞" or (pos[0] == "接尾辞" and pos[1] == "名詞的" and pos[2] != "副詞可能")
