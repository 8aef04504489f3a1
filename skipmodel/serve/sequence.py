"""One prompt and its answer on their way through the server."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from skipmodel.engine.rows import Slot
from skipmodel.guards import Fallback, ServingGuards
from skipmodel.serve.lossless import Draft
from skipmodel.serve.sampling import Sampler
from skipmodel.serve.text import TextStream


@dataclass(frozen=True)
class Ask:
    """What one answer is asked to be.

    Attributes:
        prompt_ids: Token ids of the prompt, one at least.
        max_tokens: Longest answer; 0 reads the prompt only.
        temperature, top_p, seed: See `skipmodel.serve.sampling`.
        stops: Strings that end the answer.
        n_logprobs: Likeliest tokens told beside each one; None tells no log probabilities.
        echoes: Log probabilities of the prompt are told too.
        ignores_eos: The end token does not end the answer.
        threshold_logit: Execute from this router logit on; -inf is dense.
        prefill_logit: The same while the prompt is read.
        is_lossless: Draft by skipping at `threshold_logit`, verify densely.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()
    n_logprobs: int | None = None
    echoes: bool = False
    ignores_eos: bool = False
    threshold_logit: float = -math.inf
    prefill_logit: float = -math.inf
    is_lossless: bool = False


@dataclass(frozen=True)
class TokenInfo:
    """One token as it is told: its id, its log probability, and the likeliest others.

    `skipped` are the layers that were skipped in the pass that computed it; None where that is not known.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    skipped: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Piece:
    """A part of an answer: text that became certain, the tokens behind it, and why it ended with it."""

    text: str = ""
    tokens: tuple[TokenInfo, ...] = ()
    finish: str | None = None
    error: tuple[int, str] | None = None
    """Status and message where the answer failed."""
    prompt: tuple[TokenInfo, ...] = ()
    """The prompt's tokens, in the first piece of an answer that echoes."""


Sink = Callable[[Piece], None]


@dataclass
class Sequence:
    """State of an answer; the scheduler's thread alone changes it, but for `is_cancelled`."""

    ask: Ask
    sink: Sink
    text: TextStream
    sampler: Sampler
    guards: ServingGuards
    draft: Draft
    deadline_s: float
    queue_deadline_s: float
    asked_s: float = field(default_factory=time.monotonic)
    slot: Slot | None = None
    n_read: int = 0
    made: list[int] = field(default_factory=list)
    node: int = 0
    fallback: Fallback | None = None
    dense_from: int | None = None
    n_skipped: int = 0
    n_executed: int = 0
    prompt_info: list[TokenInfo] = field(default_factory=list)
    prompt_logits: Any = None
    first_s: float | None = None
    last_s: float | None = None
    is_cancelled: bool = False
    is_done: bool = False

    @property
    def is_reading(self) -> bool:
        """Whether prompt tokens are left to read."""
        return self.n_read < len(self.ask.prompt_ids)

    def forced_prompt(self, start: int, end: int) -> list[bool]:
        """Return which prompt tokens guards force, and move the finder on."""
        finder, forced = self.guards.finder, []
        for token in self.ask.prompt_ids[start:end]:
            self.node = finder.step(self.node, token)
            forced.append(finder.holds(self.node))
        return forced

    def threshold(self, token: int, position: int, first_positions: int) -> float:
        """Return the threshold logit of the token fed next, guards included, and move the finder on."""
        self.node = self.guards.finder.step(self.node, token)
        if position < first_positions or self.dense_from is not None or self.guards.finder.holds(self.node):
            return -math.inf
        return self.ask.threshold_logit
