"""From the text of a file to clean text: one Unicode form, no running headers, whole paragraphs, no boilerplate.

    text -> line feeds, Unicode form -> pages without headers, footers and page numbers -> whole paragraphs

Cleaning is idempotent: clean text stays as it is. Pages are what lies between form feeds.
"""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from flows.corpus.paragraphs import join_wrapped_lines
from flows.corpus.running_lines import join_pages
from flows.corpus.squeezed import clinging_characters
from flows.scan import BEYOND, basic_plane

__all__ = ["CleanConfig", "LineCounts", "clean", "drop_lines", "language_of"]

JAPANESE_SHARE = 0.2
"""From this share of kana and kanji among the letters on, a document is Japanese."""
MIN_LINE = 12
"""Shorter lines are never boilerplate: headings, brackets, table rules. [characters]"""
MIN_DOCUMENTS = 5
"""A line in fewer documents is never boilerplate."""
MAX_LINES = 1 << 20
"""Different lines that are counted at a time."""

_LINE_END = re.compile("[\x85\u2028\u2029]")
_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")
_MARK = "[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]"
_PILED_MARKS = re.compile(f"({_MARK}{{30}}){_MARK}+")
_HALF_WIDTH_KANA = re.compile("[\uff61-\uff9f]+")
_KEEPS_ITS_FORM = "²³¹¼½¾⁰ⁱ⁴-ⁿ₀-ₜ⅐-⅟↉①-⓿❶-➓㉑-㉟㊱-㊿"
_NFKC = re.compile(f"[^\x00-\x7f{_KEEPS_ITS_FORM}]+")
_NEEDS_LINE_ENDS, _NEEDS_BLANKS, _NEEDS_FEWER_MARKS, _NEEDS_KANA, _NEEDS_NFKC, _NEEDS_NFC = (
    1 << bit for bit in range(6)
)
_JAPANESE = ((0x3005, 0x3005), (0x3040, 0x30FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF))


@dataclass(frozen=True)
class CleanConfig:
    """What is changed in a text, beside line ends, NFC, invisible characters and blank lines."""

    nfkc: bool = False
    """NFKC (``Ａ１㈱`` becomes ``A1(株)``), but not for superscripts, fractions and circled numbers, whose meaning it
    would change: 10² stays. Off, since the questions that a model meets in use are not in this form either."""
    half_width_kana: bool = True
    """Half-width katakana and their punctuation become full-width."""
    unwrap_lines: bool = True
    """Lines of a paragraph that were broken at a fixed width are joined."""
    drop_running_lines: bool = True
    """Headers, footers and page numbers of texts with pages are removed."""


def clean(text: str, config: CleanConfig) -> str:
    """Clean text with line feeds and exactly one at its end; one line feed if nothing is left."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\x0b", "\n")
    if not text.isascii():
        text = _one_form(text, config)
    text = "\n".join([line.rstrip() for line in text.split("\n")]) if "\f" not in text else _without_pages(text, config)
    text = _one_blank_line(text)
    if config.unwrap_lines:
        text = join_wrapped_lines(text)
    return text.strip("\n") + "\n"


def _one_blank_line(text: str) -> str:
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text


def _one_form(text: str, config: CleanConfig) -> str:
    # most texts need few of the steps; one look-up per character says which
    needs = int(np.bitwise_or.reduce(np.take(_needs(), basic_plane(text))))
    if needs & _NEEDS_LINE_ENDS:
        text = _LINE_END.sub("\n", text)
    if needs & _NEEDS_BLANKS:
        text = _INVISIBLE.sub("", text).replace("\xa0", " ")
    if needs & _NEEDS_FEWER_MARKS:
        # sorting marks takes time with the square of their number; Unicode's stream-safe text has 30 in a row at most
        text = _PILED_MARKS.sub(r"\1", text)
    if config.half_width_kana and needs & _NEEDS_KANA:
        text = _HALF_WIDTH_KANA.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text)
    if config.nfkc and needs & _NEEDS_NFKC:
        text = _NFKC.sub(lambda match: unicodedata.normalize("NFKC", match.group()), text)
    return unicodedata.normalize("NFC", text) if needs & _NEEDS_NFC else text


@functools.cache
def _needs() -> npt.NDArray[np.uint8]:
    """Per character of the basic plane the steps that may change it; what lies beyond needs the forms of Unicode."""
    needs = np.zeros(BEYOND + 1, dtype=np.uint8)
    every = "".join(map(chr, range(0x80, BEYOND)))
    for pattern, flag in (
        (_LINE_END, _NEEDS_LINE_ENDS),
        (re.compile(f"{_INVISIBLE.pattern}|\xa0"), _NEEDS_BLANKS),
        (re.compile(_MARK), _NEEDS_FEWER_MARKS),
        # the voiced marks of kana join with what stands before them
        (_HALF_WIDTH_KANA, _NEEDS_KANA | _NEEDS_NFC | _NEEDS_NFKC),
    ):
        needs[[ord(match.group()) for character in every for match in [pattern.match(character)] if match]] |= flag
    forms: tuple[tuple[Literal["NFC", "NFKC"], int], ...] = (("NFC", _NEEDS_NFC), ("NFKC", _NEEDS_NFKC))
    for form, flag in forms:
        # a null has no part in composition and ordering, so each character changes as if it were alone
        changed = unicodedata.normalize(form, "\0".join(every)).split("\0")
        pairs = zip(every, changed, strict=True)
        needs[[ord(character) for character, alone in pairs if character != alone]] |= flag
    needs[[ord(character) for character in clinging_characters()]] |= _NEEDS_NFC | _NEEDS_NFKC
    needs[BEYOND] = _NEEDS_NFC | _NEEDS_NFKC
    return needs


def _without_pages(text: str, config: CleanConfig) -> str:
    pages = [[line.rstrip() for line in page.split("\n")] for page in text.split("\f")]
    return join_pages(pages, drop=config.drop_running_lines)


def language_of(text: str) -> str:
    """Return ``ja`` when kana and kanji make up at least ``JAPANESE_SHARE`` of the letters, otherwise ``en``."""
    if text.isascii():
        return "en"
    kinds = np.take(_letters(), basic_plane(text))
    n_letters, n_japanese = int(np.count_nonzero(kinds & 1)), int(np.count_nonzero(kinds & 2))
    return "ja" if n_japanese >= max(JAPANESE_SHARE * n_letters, 1) else "en"


@functools.cache
def _letters() -> npt.NDArray[np.uint8]:
    """Per character of the basic plane: 1 for a letter plus 2 for Japanese; what lies beyond counts as neither."""
    table = np.array([chr(code).isalpha() for code in range(0x10000)], dtype=np.uint8)
    for low, high in _JAPANESE:
        table[low : high + 1] |= 2
    return table


# --- boilerplate -----------------------------------------------------------------------------------------


def _line_hash(line: str) -> int:
    return int.from_bytes(hashlib.blake2b(line.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _countable(text: str) -> Iterator[str]:
    for line in text.split("\n"):
        stripped = line.strip()
        if len(stripped) >= MIN_LINE and not stripped.startswith("#"):
            yield stripped


class LineCounts:
    """In how many documents each line stands, with memory that does not grow with the corpus.

    **Source**: Misra and Gries 1982 (heavy hitters). When there are ``max_lines`` different lines, one is taken off
    every count and those at zero are forgotten; a count is too small by at most the number of such rounds, which is
    at most lines / max_lines, and that much is forgiven when counts are compared.
    """

    def __init__(self, max_lines: int = MAX_LINES) -> None:
        self._max = max_lines
        self._counts: dict[int, int] = {}
        self._forgotten = 0
        self.n_documents = 0

    def add(self, text: str) -> None:
        """Count the different lines of one cleaned document."""
        self.n_documents += 1
        for line in {_line_hash(line) for line in _countable(text)}:
            self._counts[line] = self._counts.get(line, 0) + 1
        while len(self._counts) > self._max:
            self._counts = {line: n - 1 for line, n in self._counts.items() if n > 1}
            self._forgotten += 1

    def boilerplate(self, min_documents_share: float = 0.2) -> set[int]:
        """Hashes of the lines that stand in at least this share of the documents, and in ``MIN_DOCUMENTS``."""
        needed = max(MIN_DOCUMENTS, min_documents_share * self.n_documents)
        return {line for line, n in self._counts.items() if n + self._forgotten >= needed}


def drop_lines(text: str, hashes: set[int]) -> str:
    """Text without the lines whose hash is in ``hashes``."""
    if not hashes:
        return text
    dropped = {line for line in set(_countable(text)) if _line_hash(line) in hashes}
    if not dropped:
        return text
    kept = "\n".join([line for line in text.split("\n") if line.strip() not in dropped])
    return _one_blank_line(kept).strip("\n") + "\n"
