"""Critical spans of a text: glossary terms, directives, numbers, negations and code-like words.

A layer that is skipped on such a token can change the meaning of an answer, so the share of them that is executed
is measured and guarded. The glossary file is the truth for terms; the other classes are patterns that need no list.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.errors import PocError
from flows.scan import Beginnings, Scan, matches

__all__ = [
    "COLUMNS",
    "EXTRA_COLUMNS",
    "KINDS",
    "Span",
    "Term",
    "TermMatcher",
    "find_spans",
    "load_glossary",
    "read_glossary",
]

COLUMNS = ("term", "language", "reading", "aliases", "weight", "must_not_skip", "note", "kind")
EXTRA_COLUMNS = ("score", "count", "documents")
"""Columns that a proposal has beside ``COLUMNS``; they inform the person who edits it and are not read back."""
LANGUAGES = ("ja", "en", "any")
TERM_KINDS = ("directive", "glossary")
KINDS = (*TERM_KINDS, "code", "number", "negation")
"""Span kinds; of two equally long spans at one place the kind that stands first here wins."""

MAX_WEIGHT = 100.0
ASCII_WORD = "A-Za-z0-9_"
MARK = rf"[{ASCII_WORD}]*(?:[a-z0-9][A-Z]|[A-Z]{{2}}[a-z]|[A-Za-z0-9]_[A-Za-z0-9])"
ERROR_CODE = rf"[A-Z]{{1,4}}[0-9]{{3,6}}(?![{ASCII_WORD}])|[A-Z]{{2,6}}[0-9]{{1,6}}(?![{ASCII_WORD}])"
PART_CODE = rf"(?=[A-Z0-9-]{{0,40}}[0-9])[A-Z][A-Z0-9]{{0,20}}(?:-[A-Z0-9]{{1,20}}){{1,6}}(?![{ASCII_WORD}-])"
CODE = re.compile(
    rf"(?<![{ASCII_WORD}-]){PART_CODE}|(?<![{ASCII_WORD}])0x[0-9A-Fa-f]+(?![{ASCII_WORD}])"
    rf"|(?<![{ASCII_WORD}])(?={MARK}|{ERROR_CODE})[A-Za-z_][{ASCII_WORD}]*"
)
"""A word with an inner capital (KeepAlive, httpd2X), an inner underscore (mod_ssl), an error code (AH00558, USR1,
0x80070005) or a part code (ORA-00942, AB-1234-X, ISO-8859-1)."""

UNITS = (
    "ミリ秒|マイクロ秒|秒|分|時間|日間|日|週間|か月|ヶ月|カ月|年|バイト|ビット|回|個|件|行|文字|円|万円|億円|％|パーセント|倍|台|人|ページ"
    "|milliseconds?|microseconds?|seconds?|minutes?|hours?|days?|weeks?|months?|years?|bytes?|bits?|characters?"
    "|lines?|percent|times|KiB|MiB|GiB|KB|MB|GB|TB|kB|ms|sec|bit|MHz|GHz|%"
)
DIGITS = r"[0-9０-９]"
NUMBER = (
    rf"(?<![{ASCII_WORD}０-９])(?<![A-Za-z]-){DIGITS}+(?:[.,:．，]{DIGITS}+)*(?:[ -]?(?:{UNITS})(?![A-Za-z]))?"
    r"|(?<![第統同唯一二三四五六七八九十百千])(?!十分)(?<!もう)[一二三四五六七八九十百千]+"
    r"(?:つ(?!目)|度|秒|分|時間|日間|週間|か月|ヶ月|年間|回|個|件|行(?!う|な|わ)|文字|円|万円|億円|倍|台|人|ページ|種類)"
    r"|(?<![A-Za-z-])(?i:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand|million|billion)"
    r"(?![A-Za-z-])|(?<=at least )one(?![A-Za-z])|(?<=exactly )one(?![A-Za-z])|(?<![A-Za-z])one(?= or more)"
)
DATE = (
    rf"(?<![{ASCII_WORD}])[0-9]{{4}}[-/][0-9]{{1,2}}[-/][0-9]{{1,2}}(?![0-9])"
    rf"|{DIGITS}{{1,4}}年(?:{DIGITS}{{1,2}}月(?:{DIGITS}{{1,2}}日)?)?|{DIGITS}{{1,2}}月{DIGITS}{{1,2}}日"
    r"|(?<![A-Za-z])(?:[0-9]{1,2} )?(?:January|February|March|April|May|June|July|August|September|October|November"
    r"|December)(?: [0-9]{1,2},)? [0-9]{4}(?![0-9])"
)
MONEY = rf"[¥￥$€£] ?{DIGITS}+(?:[.,]{DIGITS}+)*(?: ?(?:万|億|million|billion))?"
NUMERIC = re.compile(f"(?P<date>{DATE})|(?P<money>{MONEY})|(?P<number>{NUMBER})")
NEGATION = re.compile(
    r"(?<!しれ)ませんでした|(?<!しれ)ません|(?<![少危])なかった|(?<![少危])なければ|(?<![少危行])(?<!しれ)ない"
    r"|(?<=[でもはが])なく(?!とも)|(?<![少危切])なく(?=て)"
    r"|(?:(?<=[一-鿿]ま)|(?<=[わかがさただならばせけげれべめ])(?<!かなら)(?<!関わら)(?<!かかわら)|(?<=[一-鿿]え))ず(?![っつれか])"
    r"|不可|禁止"
    r"|(?<![A-Za-z])(?i:not|never|no|none|neither|nor|without|cannot|[a-z]{2,8}n['’]t)(?![A-Za-z_-])"
)

_NUMBER_WORDS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "hundred", "thousand", "million", "billion",
)  # fmt: skip
_NUMERIC_BEGINNINGS = Beginnings("0123456789０１２３４５６７８９¥￥$€£一二三四五六七八九十百千", _NUMBER_WORDS)
_NEGATION_BEGINNINGS = Beginnings(
    "ず",
    ("not", "never", "no", "none", "neither", "nor", "without", "cannot"),
    ("ませ", "ない", "なか", "なく", "なけ", "不可", "禁止"),
)


@dataclass(frozen=True)
class Term:
    """One row of the glossary.

    ``weight`` is the importance of the term in the training loss (1 = ordinary); ``must_not_skip`` marks terms whose
    tokens are never skipped; ``aliases`` are other spellings of the same thing.
    """

    term: str
    language: str
    reading: str
    aliases: tuple[str, ...]
    weight: float
    must_not_skip: bool
    note: str
    kind: str


@dataclass(frozen=True, order=True)
class Span:
    """Characters ``start`` (inclusive) to ``end`` (exclusive); ``term`` is the glossary term or the pattern's name."""

    start: int
    end: int
    kind: str
    term: str


def load_glossary(path: Path) -> list[Term]:
    """Read and check a glossary file (CSV, UTF-8, header row, columns as ``COLUMNS``; aliases separated by ``|``).

    The ``EXTRA_COLUMNS`` of a proposal may be there, so that an edited proposal is a glossary.

    Raises:
        PocError: The file cannot be read, a column is missing or unknown, a cell has a wrong value, or a term
            appears twice for one language. The message names the first such row and the column.
    """
    terms, faults = read_glossary(path)
    if faults:
        raise faults[0]
    return terms


def read_glossary(path: Path) -> tuple[list[Term], list[PocError]]:
    """Return the terms of the rows of a glossary that are right, and the first fault of each other row.

    Raises:
        PocError: The file cannot be read, or its header is not that of a glossary.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PocError(
            f"the glossary cannot be read: {error}", where=str(path), todo="give a CSV file in UTF-8"
        ) from error
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    terms: list[Term] = []
    faults: list[PocError] = []
    first_row: dict[tuple[str, str], int] = {}
    try:
        header = tuple(reader.fieldnames or ())
        if len(set(header)) != len(header) or set(header) - set(EXTRA_COLUMNS) != set(COLUMNS):
            raise _bad(path, 1, "header", ", ".join(COLUMNS), ", ".join(header) or "nothing")
        for row in reader:
            try:
                term = _term(row, path, reader.line_num)
                first = first_row.setdefault((term.term, term.language), reader.line_num)
                if first != reader.line_num:
                    raise _bad(path, reader.line_num, "term", f"a term that is not in row {first} already", term.term)
            except PocError as fault:
                faults.append(fault)
            else:
                terms.append(term)
    except csv.Error as error:
        # what comes behind a quotation mark without end cannot be told apart
        faults.append(_bad(path, reader.line_num, "row", "a well-formed CSV row", str(error)))
    return terms, faults


def _bad(path: Path, row: int, column: str, expected: str, got: str) -> PocError:
    return PocError(
        f"glossary row {row}, column {column}: expected {expected}, got {got!r}",
        where=f"{path}:{row}",
        todo="correct this row of the glossary and run again",
    )


def _term(row: Mapping[str, str | None], path: Path, line: int) -> Term:
    cells: dict[str, str] = {}
    for column in COLUMNS:
        value = row.get(column)
        if value is None or None in row:
            raise _bad(path, line, column, f"{len(COLUMNS)} cells", "too few or too many cells")
        cells[column] = value.strip()
    if not cells["term"]:
        raise _bad(path, line, "term", "a term", "")
    for column, allowed in (("language", LANGUAGES), ("kind", TERM_KINDS), ("must_not_skip", ("true", "false"))):
        if cells[column] not in allowed:
            raise _bad(path, line, column, "one of " + ", ".join(allowed), cells[column])
    return Term(
        term=cells["term"],
        language=cells["language"],
        reading=cells["reading"],
        aliases=tuple(alias.strip() for alias in cells["aliases"].split("|") if alias.strip()),
        weight=_weight(cells["weight"], path, line),
        must_not_skip=cells["must_not_skip"] == "true",
        note=cells["note"],
        kind=cells["kind"],
    )


def _weight(cell: str, path: Path, line: int) -> float:
    try:
        weight = float(cell)
    except ValueError:
        raise _bad(path, line, "weight", f"a number within [0, {MAX_WEIGHT:g}]", cell) from None
    if not 0 <= weight <= MAX_WEIGHT:
        raise _bad(path, line, "weight", f"a number within [0, {MAX_WEIGHT:g}]", cell)
    return weight


class TermMatcher:
    """All terms and aliases compiled into tries, so that a text is read in time linear in its length.

    Terms that begin or end with a Latin letter or digit must stand there as whole words; Japanese is matched as a
    substring. A term with a capital inside a word (``SSL``, ``KeepAlive``), and every directive, must match exactly;
    other Latin terms match in any case, so that ``Access Control`` of the glossary is found in running text.
    """

    def __init__(self, exact: Mapping[str, Term], folded: Mapping[str, Term]) -> None:
        self._exact = dict(exact)
        self._folded = dict(folded)
        self._patterns = [
            *(_words_pattern(self._exact, flags=0)),
            *(_words_pattern(self._folded, flags=re.IGNORECASE | re.ASCII)),
        ]

    @classmethod
    def from_glossary(cls, terms: Iterable[Term]) -> "TermMatcher":
        """Matcher of the terms and their aliases; of two terms with one spelling the first one wins."""
        exact: dict[str, Term] = {}
        folded: dict[str, Term] = {}
        for term in terms:
            for surface in (term.term, *term.aliases):
                if _is_exact(surface, term):
                    exact.setdefault(surface, term)
                else:
                    folded.setdefault(surface.lower(), term)
        return cls(exact, folded)

    @property
    def surfaces(self) -> list[str]:
        """All spellings of all terms."""
        return sorted({*self._exact, *self._folded})

    def term_spans(self, scan: Scan) -> Iterator[Span]:
        """Spans of terms; spans of different tries may overlap."""
        for pattern, beginnings in self._patterns:
            for match in matches(pattern, scan.text, scan.places(beginnings)):
                surface = match.group()
                term = self._exact.get(surface) or self._folded[surface.lower()]
                yield Span(match.start(), match.end(), term.kind, term.term)


def _is_exact(surface: str, term: Term) -> bool:
    return term.kind == "directive" or not surface.isascii() or re.search(r"[A-Za-z0-9][A-Z]", surface) is not None


def _words_pattern(surfaces: Iterable[str], flags: int) -> list[tuple[re.Pattern[str], Beginnings]]:
    """One pattern for each kind of border, Latin or not at the start, Latin or not at the end, and how it begins."""
    groups: dict[tuple[bool, bool], list[str]] = {}
    for surface in surfaces:
        groups.setdefault((_is_latin(surface[0]), _is_latin(surface[-1])), []).append(surface)
    patterns = []
    for (latin_start, latin_end), words in sorted(groups.items()):
        before = f"(?<![{ASCII_WORD}])" if latin_start else ""
        after = f"(?![{ASCII_WORD}])" if latin_end else ""
        is_word = latin_start and latin_end
        letters = [word for word in words if is_word and word[0].isalpha()]
        others = {
            case for word in words if not (is_word and word[0].isalpha()) for case in word[0].swapcase() + word[0]
        }
        pattern = re.compile(f"{before}{_trie_pattern(words)}{after}", flags)
        patterns.append((pattern, Beginnings(others, letters)))
    return patterns


def _is_latin(character: str) -> bool:
    return re.fullmatch(f"[{ASCII_WORD}]", character) is not None


def _trie_pattern(words: Sequence[str]) -> str:
    """Regular expression of a set of words with shared beginnings written once; prefers the longest word."""
    by_first: dict[str, list[str]] = {}
    for word in sorted({w for w in words if w}):
        by_first.setdefault(word[0], []).append(word[1:])
    branches = []
    for first, rests in by_first.items():
        tail = _trie_pattern([rest for rest in rests if rest]) if any(rests) else ""
        optional = f"(?:{tail})?" if tail and "" in rests else tail
        branches.append(re.escape(first) + optional)
    return branches[0] if len(branches) == 1 else "(?:" + "|".join(branches) + ")"


def _pattern_spans(scan: Scan) -> Iterator[Span]:
    for match in matches(CODE, scan.text, scan.marked_words()):
        yield Span(match.start(), match.end(), "code", "code")
    for match in matches(NUMERIC, scan.text, scan.places(_NUMERIC_BEGINNINGS)):
        yield Span(match.start(), match.end(), "number", str(match.lastgroup))
    negations = np.union1d(scan.places(_NEGATION_BEGINNINGS), scan.contractions())
    for match in matches(NEGATION, scan.text, negations):
        yield Span(match.start(), match.end(), "negation", "negation")


def find_spans(text: str, matcher: TermMatcher) -> list[Span]:
    """Critical spans of a text in reading order, without overlaps.

    Where candidates overlap, the one that starts first wins, then the longer one, then the kind that stands first
    in ``KINDS``. Time is linear in the length of the text (and in the length of the longest term).
    """
    scan = Scan(text)
    candidates = [*matcher.term_spans(scan), *_pattern_spans(scan)]
    candidates.sort(key=lambda span: (span.start, -span.end, KINDS.index(span.kind)))
    spans: list[Span] = []
    for span in candidates:
        if not spans or span.start >= spans[-1].end:
            spans.append(span)
    return spans
