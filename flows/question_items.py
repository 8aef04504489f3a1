"""Question items made from held-out documents, for whoever has none; the format is that of `flows.questions`.

    cloze        a sentence with a gap where a term stood; wrong choices are terms of the same class
    definition   what a sentence says about its term; which term is it?
    reading      a passage with one solved example before it, then a sentence of it with a gap: the answer is there

Only validation and test documents are used. An item of a test document is asked in a template that nothing else
uses and has a group that `flows.questions.split_of` puts on the test side; the same for validation. So neither a
fact nor a template crosses the splits. Generated items test recall of wording; they do not replace questions that a
domain expert writes, and none of them is `must_pass`.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.errors import PocError
from flows.question_templates import GAP, TEMPLATES
from flows.questions import N_CHOICES, split_of
from flows.terms import Span, Term, TermMatcher, find_spans

__all__ = ["HeldOut", "generate", "write_questions"]

KINDS = ("definition", "reading", "cloze")
CLASSES = ("directive", "glossary", "code", "number")
"""Span kinds that can be asked for."""
PER_ANSWER = 6
"""Items of one kind and split that may have the same answer."""
SENTENCE = {"ja": (15, 150), "en": (30, 300)}
PASSAGE = {"ja": 300, "en": 700}
"""Greatest length. [characters]"""

_END = {"ja": re.compile(r"(?<=[。！？])"), "en": re.compile(r"(?<=[.!?]) +(?=[A-Z\"(])")}
_PLACEHOLDER = re.compile(r"\[[A-Z][A-Z_]*\]")
_SAYS = {
    "en": re.compile(
        r" (?:[a-z]+ )?((?:is|are) (?:an?|the|used) .{20,}|(?:means|refers to|denotes|describes|sets|specifies|defines"
        r"|controls|determines|provides|enables) .{20,})"
    ),
    "ja": re.compile(
        r" ?(?:ディレクティブ|モジュール|機能|コマンド)?(?:とは、?|は、?)"
        r"(.{12,}(?:です|である|のこと|もの|を指します|を意味します|(?:指定|設定|定義|提供|制御|決定)し?ます)。)"
    ),
}


@dataclass(frozen=True)
class HeldOut:
    """One document of the validation or test split."""

    document_id: str
    language: str
    split: str
    text: str


@dataclass(frozen=True)
class _Sentence:
    document: HeldOut
    number: int
    text: str
    passage: str
    spans: tuple[Span, ...]


@dataclass(frozen=True)
class _Fact:
    """A question before its templates."""

    kind: str
    sentence: _Sentence
    span: Span
    text: str

    @property
    def answer(self) -> str:
        return self.sentence.text[self.span.start : self.span.end]

    @property
    def where(self) -> str:
        document = self.sentence.document
        return f"{document.language}/{document.document_id}/{self.kind}/{self.sentence.number}.{self.span.start}"


def generate(
    documents: Iterable[HeldOut], terms: Sequence[Term], language: str, n: int, seed: int
) -> list[dict[str, Any]]:
    """Make question items about up to ``n`` facts of each split in one language.

    Args:
        documents: Held-out documents; those of another language are passed over.
        terms: The glossary, or accepted proposals; without any, only codes and numbers are asked for.
        language: ``ja`` or ``en``.
        n: Facts per split; `kpis.paired.required_n` says how many the registered margin takes.
        seed: Decides which facts are taken when there are more.

    Returns:
        One mapping per line of the questions file: a validation fact in three templates, a test fact in the fourth.
        Fewer than ``n`` facts when the documents do not give them.

    Raises:
        PocError: A document belongs to the training split.
    """
    matcher = TermMatcher.from_glossary(term for term in terms if term.language in (language, "any"))
    sentences = [s for document in documents if document.language == language for s in _sentences(document, matcher)]
    vocabulary = _vocabulary(sentences)
    items: list[dict[str, Any]] = []
    for split in ("validation", "test"):
        held_out = [sentence for sentence in sentences if sentence.document.split == split]
        for position, (fact, wrong) in enumerate(_chosen(held_out, vocabulary, n, seed)):
            items.extend(_items(fact, wrong, position))
    return items


def write_questions(items: Iterable[dict[str, Any]], path: Path) -> None:
    """Write a questions file."""
    lines = [json.dumps(item, ensure_ascii=False, separators=(",", ":")) + "\n" for item in items]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


# --- sentences -------------------------------------------------------------------------------------------


def _sentences(document: HeldOut, matcher: TermMatcher) -> Iterator[_Sentence]:
    if document.split not in ("validation", "test"):
        raise PocError(
            f"expected a validation or test document, got one of split {document.split!r}",
            where=document.document_id,
            todo="make questions from held-out documents only",
        )
    low, high = SENTENCE[document.language]
    parts = [p.strip() for line in document.text.split("\n") for p in _END[document.language].split(line) if p.strip()]
    for number, text in enumerate(parts):
        if low <= len(text) <= high and text[-1] in "。.!?！？" and not _PLACEHOLDER.search(text):
            spans = tuple(span for span in find_spans(text, matcher) if span.kind in CLASSES)
            yield _Sentence(document, number, text, _passage(parts, number, document.language), spans)


def _passage(parts: Sequence[str], at: int, language: str) -> str:
    """Return a sentence with as many of its neighbours as a passage has room for, those before it first in turn."""
    first = last = at
    length = len(parts[at])
    while True:
        grew = False
        for index in (first - 1, last + 1):
            if 0 <= index < len(parts) and length + len(parts[index]) + 1 <= PASSAGE[language]:
                length += len(parts[index]) + 1
                first, last, grew = min(first, index), max(last, index), True
        if not grew:
            return "\n".join(parts[first : last + 1])


def _vocabulary(sentences: Iterable[_Sentence]) -> dict[str, dict[str, str]]:
    """Most frequent spelling of every term that occurs, by class; codes and numbers are their own terms."""
    spellings: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for sentence in sentences:
        for span in sentence.spans:
            surface = sentence.text[span.start : span.end]
            spellings[span.kind, _name(span, surface)][surface] += 1
    vocabulary: dict[str, dict[str, str]] = defaultdict(dict)
    for (kind, name), surfaces in sorted(spellings.items()):
        vocabulary[kind][name] = min(surfaces, key=lambda s: (-surfaces[s], s))
    return vocabulary


def _name(span: Span, surface: str) -> str:
    return span.term if span.kind in ("directive", "glossary") else surface


# --- facts -----------------------------------------------------------------------------------------------


def _chosen(
    sentences: Sequence[_Sentence], vocabulary: dict[str, dict[str, str]], n: int, seed: int
) -> list[tuple[_Fact, list[str]]]:
    """Return up to ``n`` facts with their wrong choices, the kinds in turn; a sentence is asked about once."""
    order = {
        kind: sorted(
            (fact for sentence in sentences for fact in _FACTS[kind](sentence)), key=lambda f: _hash(seed, f.where)
        )
        for kind in KINDS
    }
    chosen: list[tuple[_Fact, list[str]]] = []
    asked: set[tuple[str, int]] = set()
    answers: Counter[tuple[str, str]] = Counter()
    queues = {kind: iter(facts) for kind, facts in order.items()}
    while queues and len(chosen) < n:
        for kind in tuple(queues):
            for fact in queues[kind]:
                place = (fact.sentence.document.document_id, fact.sentence.number)
                name = (kind, fact.answer.casefold())
                if place in asked or answers[name] >= PER_ANSWER:
                    continue
                wrong = _wrong_choices(fact, vocabulary)
                if len(wrong) == N_CHOICES - 1:
                    chosen.append((fact, wrong))
                    asked.add(place)
                    answers[name] += 1
                    break
            else:
                del queues[kind]
    return chosen[:n]


def _gaps(sentence: _Sentence) -> Iterator[tuple[Span, str]]:
    """Give the terms that stand in a sentence once, each with the sentence without it."""
    for span in sentence.spans:
        surface = sentence.text[span.start : span.end]
        if sentence.text.casefold().count(surface.casefold()) == 1:
            yield span, sentence.text[: span.start] + GAP + sentence.text[span.end :]


def _clozes(sentence: _Sentence) -> Iterator[_Fact]:
    for span, text in _gaps(sentence):
        if span.kind != "number":
            yield _Fact("cloze", sentence, span, text)


def _readings(sentence: _Sentence) -> Iterator[_Fact]:
    if len(sentence.passage) >= 2 * len(sentence.text):
        for span, text in _gaps(sentence):
            yield _Fact("reading", sentence, span, text)


def _definitions(sentence: _Sentence) -> Iterator[_Fact]:
    text = sentence.text
    for span in sentence.spans:
        if span.kind not in ("directive", "glossary", "code") or text[: span.start] not in ("", "The ", "A ", "An "):
            continue
        says = _SAYS[sentence.document.language].match(text, span.end)
        if says is not None and text[span.start : span.end].casefold() not in says[1].casefold():
            yield _Fact("definition", sentence, span, says[1])


_FACTS: dict[str, Callable[[_Sentence], Iterator[_Fact]]] = {
    "cloze": _clozes,
    "reading": _readings,
    "definition": _definitions,
}


def _wrong_choices(fact: _Fact, vocabulary: dict[str, dict[str, str]]) -> list[str]:
    """Terms of the same class that the sentence lacks, the likest first; for reading those of the passage first."""
    answer, shown = fact.answer, fact.sentence.text.casefold()
    own = _name(fact.span, answer)
    passage = fact.sentence.passage.casefold() if fact.kind == "reading" else ""
    candidates: dict[str, str] = {}
    for name, surface in vocabulary[fact.span.kind].items():
        choice = _in_case_of(answer, surface)
        low, asked = choice.casefold(), answer.casefold()
        if name != own and low not in shown and low not in asked and asked not in low:
            candidates.setdefault(low, choice)
    ranked = sorted(
        candidates.values(),
        key=lambda c: (
            c.casefold() not in passage,
            c.isascii() != answer.isascii(),
            c.endswith("s") != answer.endswith("s"),
            abs(len(c) - len(answer)) // 3,
            _hash(fact.where, c),
        ),
    )
    return ranked[: N_CHOICES - 1]


def _in_case_of(answer: str, surface: str) -> str:
    """Write an ordinary Latin word with a capital where the answer has one."""
    if not surface.isascii() or not answer.isascii() or re.search(r"[A-Z0-9_.<]", surface[1:] + answer[1:]):
        return surface
    return surface[0].upper() + surface[1:] if answer[0].isupper() else surface[0].lower() + surface[1:]


# --- items -----------------------------------------------------------------------------------------------


def _items(fact: _Fact, wrong: Sequence[str], position: int) -> Iterator[dict[str, Any]]:
    document = fact.sentence.document
    is_test = document.split == "test"
    templates = TEMPLATES[f"{document.language}_{fact.kind}"]
    group = _group(fact.where, document.split)
    for number, template in enumerate(templates):
        if is_test != (number == len(templates) - 1):
            continue
        question = template.format(text=fact.text, passage=fact.sentence.passage)
        index = (position + number) % N_CHOICES
        choices = sorted(wrong, key=lambda choice: _hash(group, number, choice))
        choices.insert(index, fact.answer)
        yield {
            "item_id": f"{group}/{number + 1}",
            "group": group,
            "language": document.language,
            "slice": f"{document.language}_{fact.kind}",
            "template_id": f"{document.language}_{fact.kind}_{number + 1}",
            "held_out": is_test,
            "question": question,
            "choices": [_joined(choice, question) for choice in choices],
            "answer": index,
            "must_pass": False,
            "source_document": document.document_id,
        }


def _group(where: str, split: str) -> str:
    """Name a fact so that `split_of` puts it on the side of its document."""
    number = 0
    while split_of(f"{where}#{number}") != split:
        number += 1
    return f"{where}#{number}"


def _joined(choice: str, question: str) -> str:
    """Choice with the leading space that Latin text, or any text after a colon, needs."""
    return f" {choice}" if choice[0].isascii() or question.endswith(":") else choice


def _hash(*parts: object) -> str:
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()
