"""From tokens to text while they come: whole characters only, and nothing from a stop string on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MAX_PENDING = 8
"""Tokens held back for a character that does not become whole; no character has more bytes than four."""


class TextStream:
    """Turns the tokens of one answer into text, piece by piece.

    Args:
        tokenizer: Decodes.
        stops: Strings at which the answer ends; they are not part of it.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._ids: list[int] = []
        self._from, self._read = 0, 0
        self._held = ""
        self.is_stopped = False

    def push(self, token: int) -> str:
        """Take in a token; return the text that is certain by now, which may be none."""
        self._ids.append(token)
        return self._release(self._decode(is_last=len(self._ids) - self._read > MAX_PENDING), is_last=False)

    def finish(self) -> str:
        """Return what was held back, at the end of the answer."""
        return self._release(self._decode(is_last=True), is_last=True)

    def _decode(self, *, is_last: bool) -> str:
        """Return text behind what was decoded before; a few tokens ahead of it settle spaces and joins."""
        before = self._text(self._ids[self._from : self._read])
        now = self._text(self._ids[self._from :])
        if not is_last and (len(now) <= len(before) or now.endswith("\N{REPLACEMENT CHARACTER}")):
            return ""
        self._from, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _text(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _release(self, new: str, *, is_last: bool) -> str:
        if self.is_stopped:
            return ""
        text = self._held + new
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.is_stopped, self._held = True, ""
            return text[: min(found)]
        n_held = 0 if is_last else max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a stop string."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if stop.startswith(text[-n:])), 0)
