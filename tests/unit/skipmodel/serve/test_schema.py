"""Request bodies: what is refused, and that the message says where."""

from __future__ import annotations

from typing import Any

import pytest

from skipmodel.serve.bodies import CHAT, COMPLETION
from skipmodel.serve.errors import RequestError
from skipmodel.serve.schema import check, read_json

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "body.prompt: expected a value, it is missing"),
    "unknown": ({"prompt": "a", "top_k": 4}, 'body."top_k": is not known here'),
    "kind": ({"prompt": 5}, "body.prompt: expected string or array, got 5"),
    "entry": ({"prompt": ["a", 5]}, "body.prompt"),
    "range": ({"prompt": "a", "temperature": 3}, "body.temperature: expected 0 to 2, got 3"),
    "infinite": ({"prompt": "a", "top_p": float("inf")}, "body.top_p"),
    "whole": ({"prompt": "a", "max_tokens": 1.5}, "body.max_tokens: expected integer or null, got 1.5"),
    "true is no number": ({"prompt": "a", "max_tokens": True}, "body.max_tokens: expected integer"),
    "surrogate": ({"prompt": "\ud800"}, "body.prompt: expected text, got half of a surrogate pair"),
    "many stops": ({"prompt": "a", "stop": ["x"] * 10_000}, "body.stop: expected 0 to 16 entries, got 10000"),
    "empty stop": ({"prompt": "a", "stop": [""]}, r"body.stop\[0\]: expected 1 to 256 characters, got 0"),
    "more answers": ({"prompt": "a", "n": 2}, "body.n: expected 1 to 1, got 2"),
    "bias": ({"prompt": "a", "logit_bias": {"5": 1}}, "body.logit_bias"),
    "options": ({"prompt": "a", "stream_options": {"x": 1}}, "body.stream_options"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_body_that_does_not_fit_is_refused_with_its_place(name: str) -> None:
    """Status 400, the place, what was expected and what came."""
    body, message = REFUSED[name]
    with pytest.raises(RequestError, match=message) as caught:
        check(body, COMPLETION)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b'{"a": Infinity}', b"[" * 100_000,
     b'{"a": ' + b"9" * 5000 + b"}"]
)  # fmt: skip
def test_what_is_no_json_is_refused(content: bytes) -> None:
    """Broken, not UTF-8, NaN, nested without end, numbers without end."""
    with pytest.raises(RequestError, match="expected JSON in UTF-8"):
        read_json(content)


def test_values_that_clients_send_are_taken() -> None:
    """Nulls, whole numbers as floats, token ids, ignored names, chat parts."""
    check({"prompt": [[1, 2], [3]], "max_tokens": 4.0, "temperature": None, "user": "me", "stop": None}, COMPLETION)
    check({"prompt": ["a", "b"], "stop": "x", "logprobs": 5}, COMPLETION)
    check({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "metadata": {"a": "b"}}, CHAT)
    check({"messages": [{"role": "user", "content": "a"}], "tools": [], "response_format": {"type": "text"}}, CHAT)


@pytest.mark.parametrize(
    "part", [{"role": "tool", "content": "a"}, {"role": "user"}, {"role": "user", "content": [{"type": "image_url"}]}]
)  # fmt: skip
def test_messages_that_are_not_served_are_refused(part: dict[str, Any]) -> None:
    """Tools, pictures, and messages without content."""
    with pytest.raises(RequestError, match="messages"):
        check({"messages": [part]}, CHAT)
