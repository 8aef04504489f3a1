"""Question items with known answers: reading, checking, and choosing those of one split.

Splits are made by fact: all templates and both languages of one fact fall on the same side, so a threshold that was
chosen on the validation facts is confirmed on facts it has never met, asked in a template it has never met.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from flows.errors import PocError

__all__ = ["TEST_SHARE", "Question", "load_questions", "select_items", "solved_example", "split_of"]

Split = Literal["validation", "test"]
N_CHOICES = 4
TEST_SHARE = 0.6
"""Share of the facts kept for the single test; the test decides, so it gets the larger part."""


@dataclass(frozen=True)
class Question:
    """One item: ``question`` is the whole prompt, directly followed by one of the ``choices``.

    ``group`` names the fact, ``answer`` is the index of the right choice, ``held_out`` marks the template that only
    the test uses, ``must_pass`` an item that no change may break.
    """

    item_id: str
    group: str
    language: str
    slice: str
    template_id: str
    held_out: bool
    question: str
    choices: tuple[str, ...]
    answer: int
    must_pass: bool
    source_document: str


_TYPES: dict[str, type] = {
    **{field.name: str for field in fields(Question)},
    "held_out": bool,
    "must_pass": bool,
    "answer": int,
    "choices": list,
}


def load_questions(path: Path) -> list[Question]:
    """Read a JSON Lines file of items; every line is checked.

    Raises:
        PocError: The file cannot be read, has no items, or a line is not a valid item; the message names the line
            and the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PocError(
            f"the questions cannot be read: {error}", where=str(path), todo="give a JSON Lines file in UTF-8"
        ) from error
    questions: list[Question] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        question = _question(line, f"{path}:{number}")
        first = first_line.setdefault(question.item_id, number)
        if first != number:
            raise _bad(f"{path}:{number}", "item_id", f"an id that line {first} does not have", question.item_id)
        questions.append(question)
    if not questions:
        raise PocError("expected at least one question, got none", where=str(path), todo="add question items")
    return questions


def _bad(where: str, field: str, expected: str, got: object) -> PocError:
    return PocError(
        f"question field {field}: expected {expected}, got {got!r}", where=where, todo="correct this line and run again"
    )


def _question(line: str, where: str) -> Question:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise _bad(where, "(line)", "one JSON object", str(error)) from error
    if not isinstance(item, dict):
        raise _bad(where, "(line)", "one JSON object", type(item).__name__)
    if set(item) != set(_TYPES):
        difference = sorted(set(item) ^ set(_TYPES))
        raise _bad(where, ", ".join(difference), "exactly the fields " + ", ".join(_TYPES), "missing or unknown fields")
    for field, expected in _TYPES.items():
        # bool is an int in Python, so the types are compared exactly
        if type(item[field]) is not expected:
            raise _bad(where, field, expected.__name__, item[field])
    _check_values(item, where)
    return Question(**{**item, "choices": tuple(item["choices"])})


def _check_values(item: dict[str, Any], where: str) -> None:
    choices = item["choices"]
    if item["language"] not in {"ja", "en"}:
        raise _bad(where, "language", "ja or en", item["language"])
    if len(choices) != N_CHOICES or not all(isinstance(choice, str) and choice.strip() for choice in choices):
        raise _bad(where, "choices", f"{N_CHOICES} texts", choices)
    if len({choice.strip() for choice in choices}) != N_CHOICES:
        raise _bad(where, "choices", "different texts", choices)
    if not 0 <= item["answer"] < N_CHOICES:
        raise _bad(where, "answer", f"an index within [0, {N_CHOICES - 1}]", item["answer"])
    for field in ("item_id", "group", "slice", "template_id", "question"):
        if not item[field].strip():
            raise _bad(where, field, "a text", item[field])


def _unit_hash(*parts: object) -> float:
    """Hash of the parts as a number in [0, 1)."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def split_of(group: str) -> Split:
    """Side of a fact. It depends on nothing but its name: no seed and no other item can move it."""
    return "test" if _unit_hash("split", group) < TEST_SHARE else "validation"


def select_items(questions: Sequence[Question], split: Split, n: int, seed: int) -> list[Question]:
    """Choose up to ``n`` items of a split, one template per fact and slice, spread over the slices.

    The test uses held-out templates only, the validation the others. The order is fixed by ``seed``, and a shorter
    list is always the beginning of a longer one. Fewer than ``n`` come back when the split has fewer facts.

    Raises:
        PocError: ``n`` is not positive, ``split`` is unknown, or the split has no item at all.
    """
    if split not in get_args(Split) or n < 1:
        raise PocError(
            f"expected a split of {get_args(Split)} and at least 1 item, got {split!r} and {n}",
            where="question selection",
            todo="set the number of question items to 1 or more",
        )
    facts: dict[tuple[str, str], list[Question]] = defaultdict(list)
    for question in questions:
        if question.held_out == (split == "test") and split_of(question.group) == split:
            facts[question.slice, question.group].append(question)
    if not facts:
        raise PocError(
            f"expected question items for the {split} split, got none",
            where="questions",
            todo="add facts, each with at least one held-out template and one other template",
        )
    slices: dict[str, list[Question]] = defaultdict(list)
    for (slice_name, _), templates in facts.items():
        slices[slice_name].append(min(templates, key=lambda q: _unit_hash(seed, "template", q.item_id)))
    order: list[tuple[float, str, Question]] = []
    for slice_name, items in slices.items():
        items.sort(key=lambda q: (_unit_hash(seed, "item", q.item_id), q.item_id))
        # the k-th of m items stands at (k + 0.5) / m, so every beginning of the list has the shares of the whole
        order.extend(((k + 0.5) / len(items), slice_name, item) for k, item in enumerate(items))
    order.sort(key=lambda entry: entry[:2])
    return [question for _, _, question in order[:n]]


def solved_example(question: Question, questions: Sequence[Question], seed: int) -> Question | None:
    """Choose a question whose answer may be shown before another one is asked: a validation fact of its slice.

    One of the same template if there is, and never one with the same answer: that would give it away. None when the
    validation side has no such question.
    """
    wanted = _plain(question.choices[question.answer])
    pool = [
        q for q in questions
        if q.slice == question.slice and split_of(q.group) == "validation" and q.group != question.group
        and _plain(q.choices[q.answer]) != wanted
    ]  # fmt: skip
    return min(
        pool,
        key=lambda q: (q.template_id != question.template_id, _unit_hash(seed, "example", question.item_id, q.item_id)),
        default=None,
    )


def _plain(choice: str) -> str:
    return choice.strip().casefold()
