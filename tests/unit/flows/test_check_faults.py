"""`skip-poc check` tells every faulty row of the glossary and of the questions, each with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows import check, settings
from flows.check import examine
from flows.errors import PocError
from flows.settings import load_settings
from flows.terms import COLUMNS, load_glossary, read_glossary

SETTINGS = """
poc: {title: Manual, owner: ops, organisation: Example}
corpus: {folder: corpus, glossary: glossary.csv, questions: questions.jsonl}
model: {base: {source: weights}}
cost: {price: sakura-dok-h100, api: groq-llama-3.1-8b, requests_per_month: 1000, input_tokens: 300, output_tokens: 100,
       peak_requests_per_s: 2}
"""
GLOSSARY = (
    ",".join(COLUMNS),
    "server,en,,,1.0,false,,glossary",
    "pump,fr,,,1.0,false,,glossary",
    "valve,en,,,heavy,false,,glossary",
    "server,en,,,1.0,false,,glossary",
    '"two\nlines",en,,,1.0,maybe,,glossary',
    "gauge,en,,,2.0,true,,glossary",
)


def _item(name: str, **changes: Any) -> str:
    item = {"item_id": name, "group": name, "language": "en", "slice": "s", "template_id": "t", "held_out": True,
            "question": "What?", "choices": ["a", "b", "c", "d"], "answer": 0, "must_pass": False,
            "source_document": "a.txt"}  # fmt: skip
    return json.dumps(item | changes)


@pytest.fixture
def poc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the settings file of a PoC folder whose glossary and questions have faults."""
    monkeypatch.setattr(settings, "has_cuda", lambda: False)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("The server answers. " * 20)
    (tmp_path / "glossary.csv").write_text("\n".join(GLOSSARY) + "\n")
    (tmp_path / "questions.jsonl").write_text(_item("q1") + "\n")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text("{}")
    path = tmp_path / "poc.yaml"
    path.write_text(SETTINGS)
    return path


def _wheres(poc: Path, name: str) -> list[str]:
    found = examine(load_settings(poc), poc)
    mine = [problem.where for problem in found.problems if isinstance(problem, PocError) and name in problem.where]
    return [where.removeprefix(f"{poc.parent}/") for where in mine]


def test_every_faulty_row_of_the_glossary_is_told(poc: Path) -> None:
    """A row counts by its last line; a run stops at the first of them."""
    assert _wheres(poc, "glossary.csv") == [f"glossary.csv:{line}" for line in (3, 4, 5, 7)]
    terms, faults = read_glossary(poc.parent / "glossary.csv")
    assert [term.term for term in terms] == ["server", "gauge"]
    with pytest.raises(PocError) as first:
        load_glossary(poc.parent / "glossary.csv")
    assert str(first.value) == str(faults[0])


def test_rows_before_a_torn_one_are_still_told(poc: Path) -> None:
    """A quotation mark without end hides what follows it, not what stands before it."""
    with (poc.parent / "glossary.csv").open("a") as file:
        file.write('"open,en,,,1.0,false,,glossary\n')
    assert len(_wheres(poc, "glossary.csv")) == 5


def test_every_faulty_line_of_the_questions_is_told(poc: Path) -> None:
    """Right lines keep their numbers and are counted; nothing of the file is left elsewhere."""
    lines = [_item("q1"), "{", "", _item("q1"), _item("q2", answer=9), _item("q3")]
    (poc.parent / "questions.jsonl").write_text("\n".join(lines) + "\n")
    before = sorted(poc.parent.rglob("*"))

    assert _wheres(poc, "questions.jsonl") == [f"questions.jsonl:{line}" for line in (2, 4, 5)]
    assert len(examine(load_settings(poc), poc).questions) == 2
    assert sorted(poc.parent.rglob("*")) == before


@pytest.mark.parametrize(("raw", "expected"), [(b"\xff\xfe", "cannot be read"), (b"\n", "at least one question")])
def test_a_file_of_questions_that_holds_none_is_one_problem(poc: Path, raw: bytes, expected: str) -> None:
    """There is no line to name, so the file is named."""
    (poc.parent / "questions.jsonl").write_bytes(raw)
    found = examine(load_settings(poc), poc)

    assert _wheres(poc, "questions.jsonl") == ["questions.jsonl"]
    assert sum(expected in str(problem) for problem in found.problems) == 1


def test_a_file_that_is_no_list_of_questions_ends_after_some_lines(poc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand faulty lines as many are told as a person will read."""
    monkeypatch.setattr(check, "MAX_FAULTS", 3)
    (poc.parent / "questions.jsonl").write_text("no question\n" * 1000)

    assert _wheres(poc, "questions.jsonl") == [*(f"questions.jsonl:{line}" for line in (1, 2, 3)), "questions.jsonl"]
