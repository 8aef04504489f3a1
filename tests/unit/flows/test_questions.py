"""Reading and choosing question items."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.errors import PocError
from flows.questions import Question, load_questions, select_items, split_of


def _item(fact: int = 0, template: int = 1, slice_name: str = "ja_default") -> dict[str, Any]:
    return {
        "item_id": f"{slice_name}/{fact}/{template}",
        "group": f"core/{fact}/default",
        "language": slice_name[:2],
        "slice": slice_name,
        "template_id": f"{slice_name}_{template}",
        "held_out": template == 4,
        "question": "デフォルト:",
        "choices": [" 1", " 2", " 3", " 4"],
        "answer": fact % 4,
        "must_pass": False,
        "source_document": "ja/mod_core.txt",
    }


def _questions(n_facts: int, slices: tuple[str, ...] = ("ja_default", "en_default", "en_module")) -> list[Question]:
    return [
        Question(**{**_item(fact, template, name), "choices": (" 1", " 2", " 3", " 4")})
        for name in slices
        for fact in range(n_facts)
        for template in (1, 2, 3, 4)
    ]


ALL = _questions(60)


def _write(path: Path, *items: Any) -> Path:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items), encoding="utf-8")
    return path


def test_items_are_read(tmp_path: Path) -> None:
    """Valid lines become questions with a tuple of choices; blank lines do not count."""
    path = _write(tmp_path / "q.jsonl", _item())
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert [(q.item_id, q.choices) for q in load_questions(path)] == [("ja_default/0/1", (" 1", " 2", " 3", " 4"))]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"answer": 4}, "answer"),
        ({"answer": True}, "answer"),
        ({"answer": "1"}, "answer"),
        ({"held_out": 1}, "held_out"),
        ({"choices": [" 1", " 2", " 3"]}, "choices"),
        ({"choices": [" 1", " 2", " 3", "3 "]}, "choices"),
        ({"choices": [" 1", " 2", " 3", ""]}, "choices"),
        ({"language": "fr"}, "language"),
        ({"question": " "}, "question"),
        ({"extra": 1}, "extra"),
    ],
)
def test_wrong_items_are_named(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    """The message of a wrong item names its field and its line."""
    path = _write(tmp_path / "q.jsonl", _item(0), {**_item(1), **change})
    with pytest.raises(PocError, match=f"question field {field}: expected") as caught:
        load_questions(path)
    assert caught.value.where.endswith("q.jsonl:2")


@pytest.mark.parametrize("text", ["", "\n", "{", "[]\n", json.dumps(_item()) + "\n" + json.dumps(_item()) + "\n"])
def test_wrong_files_are_refused(tmp_path: Path, text: str) -> None:
    """No items, broken JSON, another JSON value and a repeated id are refused."""
    path = tmp_path / "q.jsonl"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PocError):
        load_questions(path)


@given(st.integers(0, 2**31), st.integers(1, 200), st.integers(1, 200))
def test_selection_is_nested_and_splits_are_apart(seed: int, n: int, m: int) -> None:
    """For every seed: shorter lists begin longer ones, no fact is on both sides, templates belong to their split."""
    short, long = (select_items(ALL, "test", k, seed) for k in sorted((n, m)))
    validation = select_items(ALL, "validation", n, seed)
    assert long[: len(short)] == short
    assert not {q.group for q in long} & {q.group for q in validation}
    assert all(q.held_out and split_of(q.group) == "test" for q in long)
    assert not any(q.held_out for q in validation)
    assert len({(q.slice, q.group) for q in long}) == len(long)


def test_every_beginning_has_all_slices_in_their_shares() -> None:
    """Three equally large slices give equal counts in the first 30 items."""
    chosen = select_items(ALL, "test", 30, seed=1)
    assert [sum(q.slice == name for q in chosen) for name in ("ja_default", "en_default", "en_module")] == [10, 10, 10]


def test_seed_changes_the_order_but_not_the_split() -> None:
    """Another seed gives another order of the same facts."""
    first, second = (select_items(ALL, "test", 1000, seed) for seed in (1, 2))
    assert first != second
    assert {q.group for q in first} == {q.group for q in second}


@pytest.mark.parametrize(("questions", "n"), [(ALL, 0), ([q for q in ALL if not q.held_out], 5)])
def test_impossible_selections_are_refused(questions: list[Question], n: int) -> None:
    """Zero items, and a test without held-out templates, end in a PocError."""
    with pytest.raises(PocError):
        select_items(questions, "test", n, seed=1)
