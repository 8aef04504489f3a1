"""Continuous batching: one thread that owns the engine, admits requests to slots, and runs one pass after the other.

Between two passes answers join and leave. A pass feeds one token of every answer that is being written, and all
drafted tokens of the lossless ones; before it, one waiting prompt is read by a piece, so that a long prompt does not
hold up the others. What an answer says depends on its own request alone: it has its own slot, thresholds, guards and
random numbers, and the passes are such that rows do not change each other (`skipmodel.engine.rows`).
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from typing import Any

import torch
from torch import Tensor

from skipmodel.engine.executor import Engine, Routing
from skipmodel.engine.lanes import LanePass
from skipmodel.engine.rows import Row, RowPass, SlotCache
from skipmodel.guards import Fallback, ServingGuards
from skipmodel.serve.config import ServeConfig
from skipmodel.serve.errors import RequestError
from skipmodel.serve.lossless import Draft, make_draft
from skipmodel.serve.metrics import Metrics
from skipmodel.serve.sampling import Sampler, verify_greedy, verify_sampled
from skipmodel.serve.sequence import Ask, Piece, Sequence, Sink, TokenInfo
from skipmodel.serve.text import TextStream

LOG = logging.getLogger(__name__)


class Scheduler:
    """Runs the requests of a server.

    Args:
        engine: The engine; from `start` on only the scheduler's thread uses it.
        tokenizer: Decodes answers.
        guards: Of the checkpoint; apply to answers that skip.
        config: Of the server.
        rows: How rows are run; see `ServeConfig.batching`.
    """

    def __init__(
        self, engine: Engine, tokenizer: Any, guards: ServingGuards, config: ServeConfig, rows: LanePass | RowPass
    ) -> None:  # fmt: skip
        self.engine, self.tokenizer, self.guards, self.config, self.rows = engine, tokenizer, guards, config, rows
        self.metrics = Metrics()
        self.metrics.set("slots", config.slots)
        self.cache = SlotCache(engine, config.slots, config.context)
        self.free = deque(self.cache.slots)
        self.waiting: deque[Sequence] = deque()
        self.active: list[Sequence] = []
        self.end_ids = end_tokens(tokenizer)
        self._wake = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._loop, name="skip-poc-engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the pass that runs; whoever still waits is told so."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, ask: Ask, sink: Sink) -> Sequence:
        """Queue a request; pieces of its answer go to `sink`, from the scheduler's thread.

        Raises:
            RequestError: The queue is full, or the server is stopping.
        """
        now = time.monotonic()
        sequence = Sequence(
            ask, sink, TextStream(self.tokenizer, ask.stops), Sampler(ask.temperature, ask.top_p, ask.seed),
            self.guards, Draft(self.config.draft_tokens), now + self.config.request_timeout_s,
            now + self.config.queue_timeout_s,
        )  # fmt: skip
        if self.guards.band is not None and ask.threshold_logit > -math.inf and not ask.is_lossless:
            sequence.fallback = Fallback(self.guards.band)
        with self._wake:
            if self._is_stopping:
                raise RequestError(503, "the server is stopping; send the request to another one", code="stopping")
            if len(self.waiting) >= self.config.max_queue:
                raise RequestError(429, f"{len(self.waiting)} requests are waiting; try again later", code="queue_full")
            self.waiting.append(sequence)
            self._wake.notify()
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """Give up an answer: its slot is free after the pass that runs."""
        sequence.is_cancelled = True
        with self._wake:
            self._wake.notify()

    def _loop(self) -> None:
        while True:
            with self._wake:
                while not (self.waiting or self.active or self._is_stopping):
                    self._wake.wait()
                if self._is_stopping:
                    break
            try:
                self.work()
            except Exception:
                LOG.exception("a pass failed; the answers in it are given up")
                for sequence in list(self.active):
                    self._end(sequence, Piece(error=(500, "the server failed while it wrote this answer")), "failed")
        for sequence in [*self.active, *self.waiting]:
            self._end(sequence, Piece(error=(503, "the server was stopped")), "stopped")

    def work(self) -> None:
        """Admit who waits, read a piece of a prompt, run a pass."""
        self._sweep()
        self._admit()
        reading = next((sequence for sequence in self.active if sequence.is_reading), None)
        if reading is not None:
            self._read(reading)
        writing = [sequence for sequence in self.active if not sequence.is_reading]
        if writing:
            self._write(writing)
        self.metrics.set("active_sequences", len(self.active))
        self.metrics.set("queued_sequences", len(self.waiting))

    def _sweep(self) -> None:
        """End what was cancelled or took too long."""
        now = time.monotonic()
        with self._wake:
            waiting = list(self.waiting)
        for sequence in [*self.active, *waiting]:
            if sequence.is_cancelled:
                self._end(sequence, None, "cancelled")
            elif now > sequence.deadline_s:
                self._end(sequence, Piece(error=(504, "the answer took too long")), "timeout")
            elif sequence.slot is None and now > sequence.queue_deadline_s:
                self._end(sequence, Piece(error=(503, "no slot became free in time; try again later")), "timeout")

    def _admit(self) -> None:
        while self.free:
            with self._wake:
                if not self.waiting:
                    return
                sequence = self.waiting.popleft()
            sequence.slot = self.free.popleft()
            sequence.slot.rewind(0)
            self.active.append(sequence)
            self.metrics.observe("queue_seconds", time.monotonic() - sequence.asked_s)

    def _read(self, sequence: Sequence) -> None:
        """Read the next piece of a prompt; with the last one the first token of the answer is known."""
        ask, start, slot = sequence.ask, sequence.n_read, sequence.slot
        end = min(start + self.config.prefill_tokens, len(ask.prompt_ids))
        forced = torch.tensor([sequence.forced_prompt(start, end)], device=self.engine.device)
        ids = torch.tensor([ask.prompt_ids[start:end]], device=self.engine.device)
        is_dense = ask.is_lossless or ask.prefill_logit == -math.inf
        routing = None if is_dense else Routing(ask.prefill_logit, self.engine.force_first_positions)
        out = self.engine.hidden(ids, routing, cache=slot, forced_BT=forced)
        sequence.n_read = end
        self.metrics.add("prompt_tokens_total", end - start)
        if ask.echoes and ask.n_logprobs is not None:
            self._tell_prompt(sequence, self.engine.logits(out.hidden_BTD[0]), start)
        if not sequence.is_reading:
            if ask.max_tokens == 0:
                self._end(sequence, Piece(finish="length", prompt=tuple(sequence.prompt_info)), "ok")
                return
            logits_V = self.engine.logits(out.hidden_BTD[0, -1:])[0]
            mask = out.execute_mask_LBT
            skipped = () if mask is None else tuple((~mask[:, 0, -1]).nonzero()[:, 0].tolist())
            self._take(sequence, [sequence.sampler.choose(logits_V)], logits_V[None], skipped)

    def _tell_prompt(self, sequence: Sequence, logits_TV: Tensor, start: int) -> None:
        """Note the log probabilities of prompt tokens, each under the logits of the one before it."""
        ids = sequence.ask.prompt_ids
        if start == 0:
            sequence.prompt_info.append(TokenInfo(ids[0]))
        for i, row_V in enumerate(logits_TV):
            if start + i + 1 < len(ids):
                sequence.prompt_info.append(token_info(ids[start + i + 1], row_V, sequence.ask.n_logprobs))

    def _write(self, writing: list[Sequence]) -> None:
        """Run one pass: a token of every answer, or what a lossless one has drafted."""
        rows: list[Row] = []
        for sequence in writing:
            slot, last = sequence.slot, sequence.made[-1]
            if slot is None:
                raise AssertionError("an answer that is written has a slot")
            if sequence.ask.is_lossless:
                room = min(sequence.ask.max_tokens - len(sequence.made), slot.capacity - slot.length) - 1
                routing = Routing(sequence.ask.threshold_logit, self.engine.force_first_positions)
                make_draft(self.engine, slot, last, routing, sequence.sampler, sequence.draft, room)
                rows += [Row(slot, token) for token in (last, *sequence.draft.tokens)]
            else:
                threshold = sequence.threshold(last, slot.length, self.engine.force_first_positions)
                rows.append(Row(slot, last, threshold))
        out = self.rows.run(rows, self.cache)
        at = 0
        for sequence in writing:
            n_rows = 1 + len(sequence.draft.tokens)
            logits = out.logits[at : at + n_rows]
            if sequence.ask.is_lossless:
                self._verify(sequence, logits)
            else:
                self._count(sequence, len(out.skipped[at]))
                self._take(sequence, [sequence.sampler.choose(logits[0])], logits, out.skipped[at])
            at += n_rows

    def _verify(self, sequence: Sequence, logits: Tensor) -> None:
        draft, slot = sequence.draft, sequence.slot
        if sequence.sampler.is_greedy:
            tokens = verify_greedy(draft.tokens, logits)
        else:
            tokens = verify_sampled(draft.tokens, draft.probs, logits, sequence.sampler)
        if slot is not None:  # what was fed behind the last accepted token is forgotten
            slot.rewind(slot.length - len(draft.tokens) + len(tokens) - 1)
        self.metrics.add("draft_tokens_total", len(tokens) - 1, outcome="accepted")
        self.metrics.add("draft_tokens_total", len(draft.tokens) - len(tokens) + 1, outcome="rejected")
        draft.settle(len(tokens) - 1)
        for _ in tokens:
            self._count(sequence, 0)
        self._take(sequence, tokens, logits, ())

    def _count(self, sequence: Sequence, n_skipped: int) -> None:
        n_layers = self.engine.n_layers
        sequence.n_skipped += n_skipped
        sequence.n_executed += n_layers - n_skipped
        self.metrics.add("layer_executions_total", n_layers - n_skipped, kind="run")
        self.metrics.add("layer_executions_total", n_skipped, kind="skip")
        if sequence.fallback is not None and sequence.dense_from is None:
            n_routed = max(1, len(self.engine.routed_units))
            if sequence.fallback.update(n_skipped / n_routed):
                sequence.dense_from = len(sequence.made)
                self.metrics.add("fallbacks_total")

    def _take(
        self, sequence: Sequence, tokens: list[int], logits: Tensor, skipped: tuple[int, ...]
    ) -> None:  # fmt: skip
        """Append tokens to an answer, tell the client, and end it where it ends."""
        ask, now = sequence.ask, time.monotonic()
        if sequence.first_s is None:
            sequence.first_s = now
            self.metrics.observe("ttft_seconds", now - sequence.asked_s)
        sequence.last_s = now
        text, told, finish = "", [], None
        for token, logits_V in zip(tokens, logits, strict=False):
            if token in self.end_ids and not ask.ignores_eos:
                finish = "stop"
                break
            sequence.made.append(token)
            self.metrics.add("generated_tokens_total")
            told.append(token_info(token, logits_V, ask.n_logprobs, skipped))
            text += sequence.text.push(token)
            if sequence.text.is_stopped:
                finish = "stop"
                break
            if len(sequence.made) >= ask.max_tokens or self._is_full(sequence):
                finish = "length"
                break
        if finish is not None:
            text += sequence.text.finish()
        prompt = tuple(sequence.prompt_info)
        sequence.prompt_info = []
        piece = Piece(text, tuple(told), finish, prompt=prompt)
        if finish is None:
            self._tell(sequence, piece)
        else:
            self._end(sequence, piece, "ok")

    def _is_full(self, sequence: Sequence) -> bool:
        return len(sequence.ask.prompt_ids) + len(sequence.made) >= self.config.context

    def _end(self, sequence: Sequence, piece: Piece | None, outcome: str) -> None:
        """Free the slot and tell the client; only the first call does anything."""
        if sequence.is_done:
            return
        sequence.is_done = True
        if sequence.slot is not None:
            self.active.remove(sequence)
            self.free.append(sequence.slot)
        else:
            with self._wake, contextlib.suppress(ValueError):
                self.waiting.remove(sequence)
        now = time.monotonic()
        self.metrics.add("requests_total", outcome=outcome)
        self.metrics.observe("request_seconds", now - sequence.asked_s)
        if outcome == "ok" and sequence.first_s is not None and len(sequence.made) > 1:
            self.metrics.observe("tpot_seconds", (now - sequence.first_s) / (len(sequence.made) - 1))
        if piece is not None:
            self._tell(sequence, piece)

    def _tell(self, sequence: Sequence, piece: Piece) -> None:
        try:
            sequence.sink(piece)
        except RuntimeError:  # the event loop of the client is closed
            sequence.is_cancelled = True


def end_tokens(tokenizer: Any) -> frozenset[int]:
    """Return the ids that end an answer."""
    found = tokenizer.eos_token_id
    return frozenset() if found is None else frozenset([found] if isinstance(found, int) else found)


def token_info(
    token: int, logits_V: Tensor, n_logprobs: int | None, skipped: tuple[int, ...] | None = None
) -> TokenInfo:  # fmt: skip
    """Return what is told of a token; log probabilities are those of the model, before temperature and top_p."""
    if n_logprobs is None:
        return TokenInfo(token, skipped=skipped)
    logprob_V = logits_V.double().log_softmax(-1)
    values, index = logprob_V.topk(min(n_logprobs, len(logprob_V)))
    top = tuple(zip(index.tolist(), values.tolist(), strict=True))
    return TokenInfo(token, float(logprob_V[token]), top, skipped)
