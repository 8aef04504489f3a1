"""Critical terms proposed from the company's own text, as a CSV that a domain expert edits.

Candidates are compound nouns (Japanese), phrases of up to three words without stop words (English), and Latin words
in Japanese text. They are ranked by keyness against background text of the same language; where there is none, by
how much they cluster in few documents. The list is a suggestion: a term is guarded once a person has put it into
the glossary.
"""

import csv
import io
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flows.corpus.japanese import NounRuns, has_sudachi, script_runs
from flows.corpus.keyness import Counts, log_odds_z, residual_idf
from flows.terms import COLUMNS, EXTRA_COLUMNS, Term

__all__ = ["Proposal", "propose_terms", "write_csv"]

LANGUAGES = ("ja", "en")
MIN_COUNT = 3
"""A candidate must occur this often to be proposed."""
MIN_Z = 1.96
"""Keyness from which a candidate is typical of the company's text (5 % level)."""
MAX_WORDS = 3
"""Words of an English phrase."""
INSIDE = 0.8
"""A phrase is dropped when this share of its occurrences lies within one longer phrase."""

_TOKEN = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[._+-][A-Za-z0-9]+)*(?:['’][a-z]+)?|[^\sA-Za-z]")
_LATIN_WORD = re.compile(r"(?<![A-Za-z0-9_])[A-Za-z][A-Za-z0-9]+(?:[._+-][A-Za-z0-9]+)*(?![A-Za-z0-9_])")
_PLACEHOLDER = re.compile(r"\[[A-Z][A-Z_]*\]")
_BEFORE_VERB = frozenset(["to", "can", "could", "will", "would", "may", "might", "must", "should", "shall", "cannot"])
_BEFORE_NOUN = frozenset(["a", "an", "the", "this", "these", "those", "each", "every", "any", "your", "its", "no"])


@dataclass(frozen=True)
class Proposal:
    """One proposed term: its most frequent spelling, its other spellings, and why it is proposed."""

    term: str
    language: str
    reading: str
    aliases: tuple[str, ...]
    score: float
    """Keyness z against the background, or residual IDF [bits] where there was none."""
    count: int
    documents: int


class EnglishPhrases:
    """Phrases of one to ``MAX_WORDS`` neighbouring words, none of them a stop word, within one clause.

    There is no part-of-speech tagger: a word that follows `to` or `can` more often than `the` or `this` is taken for
    a verb.
    """

    def __init__(self) -> None:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        self._stop_words = ENGLISH_STOP_WORDS
        self._verb: Counter[str] = Counter()

    def __call__(self, text: str) -> list[str]:
        """Return the candidates of a text, repeated as often as they occur."""
        return [" ".join(words) for clause in self._clauses(text) for words in _ngrams(clause)]

    def is_noun_phrase(self, phrase: str) -> bool:
        """Tell whether a phrase neither begins nor ends with a verb, an adverb or a participle, by what was read."""
        words = phrase.lower().split()
        ends = (words[0], words[-1])
        return words[-1][-2:] != "ed" and not any(w.endswith("ly") or self._verb[_stem(w)] > 0 for w in ends)

    def _clauses(self, text: str) -> Iterator[list[str]]:
        for line in _PLACEHOLDER.sub(" . ", text).split("\n"):
            clause: list[str] = []
            before = ""
            for token in _TOKEN.findall(line):
                word = re.sub(r"['’]s$", "", token)
                low = word.lower()
                if before in _BEFORE_VERB or before in _BEFORE_NOUN:
                    self._verb[_stem(low)] += 1 if before in _BEFORE_VERB else -1
                before = low
                if word[0].isalpha() and len(word) > 1 and low not in self._stop_words and "’" not in word:
                    clause.append(word)
                if word is not token or not clause or clause[-1] is not word:
                    yield clause
                    clause = []
            yield clause


def _ngrams(clause: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(len(clause)):
        for end in range(start + 1, min(start + MAX_WORDS, len(clause)) + 1):
            yield clause[start:end]


def _stem(word: str) -> str:
    """Word without the ending of the plural or of the third person."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word[-1] == "s" and word[-2] not in "sui" else word


def _key(surface: str) -> str:
    """What the spellings of one term share: case and plural of ordinary Latin words do not count."""
    if not surface.isascii():
        return surface
    words = [_folded(word) for word in surface.split(" ")]
    return " ".join([*words[:-1], _stem(words[-1])])


def _folded(surface: str) -> str:
    return surface if re.search(r"[A-Za-z0-9][A-Z]", surface) else surface.lower()


def propose_terms(
    texts: Iterable[tuple[str, str]],
    background: Iterable[tuple[str, str]],
    n: int,
    known: Iterable[Term] = (),
) -> list[Proposal]:
    """Propose up to ``n`` terms per language, the most typical first.

    Args:
        texts: Training documents as (text, language); read once.
        background: General text as (text, language), read once; a language may be missing.
        n: Proposals per language.
        known: Terms of the glossary, which are not proposed again.
    """
    nouns = NounRuns() if has_sudachi() else None
    japanese, english = nouns or script_runs, EnglishPhrases()
    candidates: dict[str, Callable[[str], list[str]]] = {
        "ja": lambda text: japanese(text) + _LATIN_WORD.findall(_PLACEHOLDER.sub(" ", text)),
        "en": english,
    }
    own, other = ({language: Counts() for language in LANGUAGES} for _ in range(2))
    for side, stream in ((own, texts), (other, background)):
        for text, language in stream:
            side[language].add(candidates[language](text))
        for counts in side.values():
            counts.flush()
    spellings = {_key(surface) for term in known for surface in (term.term, *term.aliases)}
    proposals: list[Proposal] = []
    for language in LANGUAGES:
        rows = _ranked(language, own[language], other[language])
        if language == "en":
            rows = [row for row in rows if english.is_noun_phrase(row.term)]
        rows = [row for row in rows if not spellings.intersection(map(_key, (row.term, *row.aliases)))][:n]
        proposals.extend(replace(row, reading=_reading(row.term, nouns)) for row in rows)
    return proposals


def _reading(term: str, nouns: NounRuns | None) -> str:
    return "" if nouns is None or term.isascii() else nouns.reading(term)


def _ranked(language: str, own: Counts, other: Counts) -> list[Proposal]:
    """Frequent candidates by falling score, one per group of spellings, without pieces of longer phrases."""
    groups: dict[str, list[str]] = defaultdict(list)
    for surface in own.occurrences:
        groups[_key(surface)].append(surface)
    background: Counter[str] = Counter()
    for surface, count in other.occurrences.items():
        background[_key(surface)] += count
    total = {key: sum(own.occurrences[s] for s in surfaces) for key, surfaces in groups.items()}
    keys = [key for key in groups if total[key] >= MIN_COUNT]
    if not keys:
        return []
    occurrences = np.array([total[key] for key in keys], dtype=np.float64)
    documents = np.array([max(own.documents[s] for s in groups[key]) for key in keys], dtype=np.float64)
    if other.total:
        in_background = np.array([background[key] for key in keys], dtype=np.float64)
        scores = log_odds_z(occurrences, own.total, in_background, other.total)
        least = MIN_Z
    else:
        scores = residual_idf(occurrences, documents, own.n_documents)
        least = 0.0
    pieces = _pieces(keys, total)
    order = np.lexsort((np.array(keys), -occurrences, -scores))
    return [
        _proposal(keys[i], language, groups[keys[i]], own, float(scores[i]), int(documents[i]))
        for i in order
        if scores[i] > least and keys[i] not in pieces
    ]


def _pieces(keys: Sequence[str], total: dict[str, int]) -> set[str]:
    """Phrases that hardly ever stand outside one longer phrase."""
    found: set[str] = set()
    for key in keys:
        words = key.split(" ")
        for part in _ngrams(words):
            # the inner words of a key are not stemmed, so a piece is looked up under its own key
            piece = _key(" ".join(part))
            if len(part) < len(words) and total[key] >= INSIDE * total.get(piece, np.inf):
                found.add(piece)
    return found


def _proposal(key: str, language: str, surfaces: list[str], own: Counts, score: float, documents: int) -> Proposal:
    by_count = sorted(surfaces, key=lambda s: (-own.occurrences[s], s))
    term = by_count[0]
    # the matcher ignores case itself, save for words with an inner capital
    aliases = {_folded(surface) for surface in by_count[1:]} - {_folded(term)}
    return Proposal(
        term, language, "", tuple(sorted(aliases)), score, sum(own.occurrences[s] for s in surfaces), documents
    )


def write_csv(proposals: Iterable[Proposal], path: Path, glossary: Iterable[Term] = ()) -> None:
    """Write a glossary file: the rows of the present glossary unchanged, then the proposals.

    Proposals have weight 1 and `must_not_skip` false. The columns after those of the glossary say why a term is
    proposed; `flows.terms.load_glossary` passes over them, so the edited file is a glossary as it is.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*COLUMNS, *EXTRA_COLUMNS])
    for term in glossary:
        guarded = str(term.must_not_skip).lower()
        writer.writerow([term.term, term.language, term.reading, "|".join(term.aliases), term.weight, guarded,
                         term.note, term.kind, "", "", ""])  # fmt: skip
    for p in proposals:
        writer.writerow([p.term, p.language, p.reading, "|".join(p.aliases), 1.0, "false", "proposed", "glossary",
                         f"{p.score:.2f}", p.count, p.documents])  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    # spreadsheet programs take a CSV for UTF-8 only with the mark
    path.write_text(text.getvalue(), encoding="utf-8-sig", newline="")
