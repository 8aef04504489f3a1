"""Text while tokens come: whole characters, stop strings, nothing lost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from skipmodel.serve.text import TextStream
from tests.tiny import save_base_folder

CASES = (
    "plain text",
    "日本語と絵文字😀👨‍👩‍👧と",
    "<script>alert('x')</script>",
    " leading",
    "a\n\nb\tc ",
    "é́ combining",
    "\u202e rtl",
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return AutoTokenizer.from_pretrained(save_base_folder(tmp_path_factory.mktemp("base"), ["日本語 plain text"]))


def stream(tokenizer: Any, ids: list[int], stops: tuple[str, ...] = ()) -> tuple[str, list[str]]:
    text, parts = TextStream(tokenizer, stops), []
    for token in ids:
        parts.append(text.push(token))
        if text.is_stopped:
            break
    parts.append(text.finish())
    return "".join(parts), parts


@pytest.mark.parametrize("case", CASES)
def test_pieces_join_to_the_text(tokenizer: Any, case: str) -> None:
    """Characters of several tokens come once, when they are whole."""
    joined, parts = stream(tokenizer, tokenizer(case)["input_ids"])
    assert joined == case
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in parts)


@given(st.lists(st.integers(3, 300), max_size=40))
@settings(max_examples=150, deadline=None)
def test_any_tokens_join_to_what_they_decode_to(tokenizer: Any, ids: list[int]) -> None:
    """Also where they are no UTF-8: a held-back token is told in the end, at the latest."""
    joined, _ = stream(tokenizer, ids)
    whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert joined.replace("\N{REPLACEMENT CHARACTER}", "") == whole.replace("\N{REPLACEMENT CHARACTER}", "")


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=4), max_size=4))
@settings(max_examples=150, deadline=None)
def test_nothing_from_a_stop_string_on(tokenizer: Any, case: str, stops: list[str]) -> None:
    """The answer is the text before the first stop string, whatever pieces it came in."""
    joined, parts = stream(tokenizer, tokenizer(case)["input_ids"], tuple(stops))
    found = [at for stop in stops if (at := case.find(stop)) >= 0]
    # a stop string is looked for as text comes, so that one found early may hide a longer one that began before it
    expected = case[: min(found)] if found else case
    assert joined.startswith(expected)
    assert not any(stop in joined[: len(expected) + len(stop) - 1] for stop in stops)
    assert all(part in case for part in parts)


def test_what_may_become_a_stop_string_waits(tokenizer: Any) -> None:
    """'plain t' is held back while it may be 'plain tea', and told when it is not."""
    text = TextStream(tokenizer, ("plain tea",))
    told = [text.push(token) for token in tokenizer("plain text")["input_ids"]]
    assert "".join(told) + text.finish() == "plain text"
    assert told[0] == ""
    assert not text.is_stopped


def test_tokens_that_never_make_a_character_are_told(tokenizer: Any) -> None:
    """Bytes without end are told as replacement characters instead of being held for ever."""
    broken = tokenizer.convert_tokens_to_ids("æ")
    text = TextStream(tokenizer)
    assert "\N{REPLACEMENT CHARACTER}" in "".join(text.push(broken) for _ in range(12))
