"""Answers in the form of OpenAI's API, whole or as chunks of a stream."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from skipmodel.serve.asks import Query
from skipmodel.serve.sequence import Piece, Sequence, TokenInfo


@dataclass
class Choice:
    """One answer as far as it is known."""

    text: str = ""
    tokens: list[TokenInfo] = field(default_factory=list)
    finish: str | None = None
    n_told: int = 0
    """Characters of the tokens whose offsets were told."""


class Answers:
    """Collects pieces and tells them; `index` is the number of the prompt."""

    def __init__(self, query: Query, sequences: list[Sequence], tokenizer: Any, *, is_chat: bool) -> None:
        self.query, self.sequences, self.tokenizer, self.is_chat = query, sequences, tokenizer, is_chat
        self.id = ("chatcmpl-" if is_chat else "cmpl-") + uuid.uuid4().hex
        self.created = int(time.time())
        self.choices = [Choice() for _ in query.asks]

    def add(self, index: int, piece: Piece) -> Piece:
        """Take in a piece; return it with the prompt in front where the answer echoes."""
        choice = self.choices[index]
        if self.query.asks[index].echoes and not choice.text and not choice.tokens:
            prompt = piece.prompt
            if not prompt:
                prompt = tuple(TokenInfo(token) for token in self.query.asks[index].prompt_ids)
            text = self.tokenizer.decode(self.query.asks[index].prompt_ids, clean_up_tokenization_spaces=False)
            piece = Piece(text + piece.text, (*prompt, *piece.tokens), piece.finish, piece.error)
        choice.text += piece.text
        choice.tokens += piece.tokens
        choice.finish = choice.finish or piece.finish
        return piece

    @property
    def is_whole(self) -> bool:
        """Whether all answers have ended."""
        return all(choice.finish is not None for choice in self.choices)

    def whole(self) -> dict[str, Any]:
        """Return the body of an answer that is not streamed."""
        choices = []
        for index, choice in enumerate(self.choices):
            told: dict[str, Any] = {"index": index, "finish_reason": choice.finish}
            if self.is_chat:
                told["message"] = {"role": "assistant", "content": choice.text, "refusal": None}
            else:
                told["text"] = choice.text
            told["logprobs"] = self._logprobs(index, choice.tokens)
            choices.append(told | self._skips(choice.tokens))
        kind = "chat.completion" if self.is_chat else "text_completion"
        return self._head(kind) | {"choices": choices, "usage": self.usage(), "skip": self.skip()}

    def first_chunks(self) -> list[dict[str, Any]]:
        """Return what opens a stream: the role, in a chat."""
        if not self.is_chat:
            return []
        return [self._chunk([{"index": i, "delta": {"role": "assistant", "content": ""}, "logprobs": None,
                              "finish_reason": None}]) for i in range(len(self.choices))]  # fmt: skip

    def chunk(self, index: int, piece: Piece) -> dict[str, Any]:
        """Return the chunk of a piece, which must have been added."""
        told: dict[str, Any] = {"index": index, "finish_reason": piece.finish}
        if self.is_chat:
            told["delta"] = {"content": piece.text} if piece.text else {}
        else:
            told["text"] = piece.text
        told["logprobs"] = self._logprobs(index, list(piece.tokens))
        chunk = self._chunk([told | self._skips(piece.tokens)])
        return chunk | {"usage": self.usage()} if self.query.tells_usage_always else chunk

    def last_chunk(self) -> dict[str, Any] | None:
        """Return the chunk with the usage behind the last piece; None where nobody asked for it."""
        if not (self.query.tells_usage or self.query.tells_skips):
            return None
        return self._chunk([]) | {"usage": self.usage(), "skip": self.skip()}

    def usage(self) -> dict[str, int]:
        """Return counted tokens."""
        prompt = sum(len(ask.prompt_ids) for ask in self.query.asks)
        made = sum(len(sequence.made) for sequence in self.sequences)
        return {"prompt_tokens": prompt, "completion_tokens": made, "total_tokens": prompt + made}

    def skip(self) -> dict[str, Any]:
        """Return what was skipped: an extension of ours."""
        skipped = sum(sequence.n_skipped for sequence in self.sequences)
        counted = skipped + sum(sequence.n_executed for sequence in self.sequences)
        first = self.sequences[0]
        drafted = sum(sequence.draft.n_drafted for sequence in self.sequences)
        accepted = sum(sequence.draft.n_accepted for sequence in self.sequences)
        is_engaged = first.ask.threshold_logit > float("-inf")
        return {
            "mode": "lossless" if first.ask.is_lossless else "skip" if is_engaged else "dense",
            "skip_rate": skipped / counted if counted else 0.0,
            "fell_back": any(sequence.dense_from is not None for sequence in self.sequences),
            "acceptance": accepted / drafted if drafted else None,
        }

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.query.model}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        chunk = self._head("chat.completion.chunk" if self.is_chat else "text_completion") | {"choices": choices}
        return chunk | {"usage": None} if self.query.tells_usage else chunk

    def _skips(self, tokens: list[TokenInfo] | tuple[TokenInfo, ...]) -> dict[str, Any]:
        if not self.query.tells_skips:
            return {}
        return {"skipped_layers": [None if info.skipped is None else list(info.skipped) for info in tokens]}

    def _logprobs(self, index: int, tokens: list[TokenInfo]) -> dict[str, Any] | None:
        if self.query.asks[index].n_logprobs is None:
            return None
        if self.is_chat:
            return {"content": [self._chat_logprob(info) for info in tokens], "refusal": None}
        texts = [self._text(info.token) for info in tokens]
        offsets, choice = [], self.choices[index]
        for text in texts:
            offsets.append(choice.n_told)
            choice.n_told += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [info.logprob for info in tokens],
            "top_logprobs": [
                {self._text(token): value for token, value in info.top} if info.logprob is not None else None
                for info in tokens
            ],
            "text_offset": offsets,
        }

    def _chat_logprob(self, info: TokenInfo) -> dict[str, Any]:
        return self._one(info.token, info.logprob) | {"top_logprobs": [self._one(*pair) for pair in info.top]}

    def _one(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self._text(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8"))}

    def _text(self, token: int) -> str:
        text: str = self.tokenizer.decode([token], clean_up_tokenization_spaces=False)
        return text
