"""Continuous batching: answers join and leave, and none depends on another."""

from __future__ import annotations

import dataclasses
import math
import random
from typing import Any

import pytest
import torch

from skipmodel.guards import ServingGuards, SkipBand
from skipmodel.serve.config import ServeConfig
from skipmodel.serve.errors import RequestError
from skipmodel.serve.scheduler import Scheduler
from skipmodel.serve.sequence import Ask, Piece, Sequence
from skipmodel.serve.served import Served, open_rows
from tests.unit.skipmodel.serve.helpers import PROMPTS, make_served

CONFIG = ServeConfig(slots=4, context=64, prefill_tokens=5, batching="lanes")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return make_served(tmp_path_factory.mktemp("base"))


def ask(served: Served, prompt: str, n: int = 8, **more: Any) -> Ask:
    return Ask(tuple(served.tokenizer(prompt)["input_ids"]), n, **({"temperature": 0.0} | more))


def make(served: Served, config: ServeConfig = CONFIG) -> Scheduler:
    return Scheduler(served.engine, served.tokenizer, served.guards, config, open_rows(served.engine, config))


def finish(scheduler: Scheduler) -> None:
    """Work until nothing is left, in this thread."""
    for _ in range(5000):
        if not (scheduler.active or scheduler.waiting):
            return
        scheduler.work()
    raise AssertionError("the scheduler does not come to an end")


def told(pieces: list[Piece]) -> tuple[Any, ...]:
    return ("".join(piece.text for piece in pieces), [info.token for piece in pieces for info in piece.tokens],
            [info.logprob for piece in pieces for info in piece.tokens], pieces[-1].finish)  # fmt: skip


def mixed(served: Served) -> list[Ask]:
    """Requests of every kind: dense, skipping, lossless; greedy and sampled; long and short; with stop strings."""
    draws, asks = random.Random(4), []
    for i in range(24):
        kind = i % 3
        asks.append(
            ask(
                served, PROMPTS[i % len(PROMPTS)] * (1 + i % 2), draws.randint(1, 20), seed=i,
                temperature=draws.choice([0.0, 0.8, 1.2]), top_p=draws.choice([1.0, 0.8]),
                n_logprobs=draws.choice([None, 2]), stops=draws.choice([(), ("e",)]), is_lossless=kind == 2,
                threshold_logit=(-math.inf, 0.0, 0.5)[kind], prefill_logit=(-math.inf, 0.0, -math.inf)[kind],
            )
        )  # fmt: skip
    return asks


@pytest.mark.parametrize("batching", ["lanes", "rows"])
def test_every_answer_is_its_answer_alone(served: Served, batching: Any) -> None:
    """24 requests of all kinds through four slots: text, tokens and log probabilities equal to the last bit."""
    config = dataclasses.replace(CONFIG, batching=batching)
    scheduler, together = make(served, config), []
    asks = mixed(served)
    for one in asks:
        together.append([])
        scheduler.submit(one, together[-1].append)
    finish(scheduler)
    for one, pieces in zip(asks, together, strict=True):
        alone: list[Piece] = []
        single = make(served, dataclasses.replace(config, slots=1))
        single.submit(one, alone.append)
        finish(single)
        assert told(pieces) == told(alone)
    texts = {told(pieces)[0] for pieces in together}
    assert len(texts) > 12
    assert sorted(slot.number for slot in scheduler.free) == [0, 1, 2, 3]


def test_a_prompt_in_pieces_is_the_same_prompt(served: Served) -> None:
    """Chunks of 5 or all at once: the same greedy answer, and decoding goes on between chunks."""
    long = ask(served, "The server reads its configuration once. " * 3)
    answers = []
    for size in (5, 1000):
        scheduler, pieces = make(served, dataclasses.replace(CONFIG, prefill_tokens=size)), []
        scheduler.submit(long, pieces.append)
        finish(scheduler)
        answers.append(told(pieces)[1])
    assert answers[0] == answers[1]
    scheduler, short, later = make(served), [], []
    scheduler.submit(ask(served, "To", 12, ignores_eos=True), short.append)
    scheduler.work()
    scheduler.submit(long, later.append)
    scheduler.work()
    scheduler.work()
    assert len(short) >= 3
    assert later == []


def test_guards_and_fallback_act_in_their_own_request(served: Served) -> None:
    """Listed tokens execute everything; a rate outside the band makes the rest dense, in that answer alone."""
    free, pieces = make(served), []
    skipping = ask(served, "The server", 12, threshold_logit=math.inf, ignores_eos=True)
    free.submit(skipping, pieces.append)
    finish(free)
    everything = {(i,) for i in range(len(served.engine.weights.embedding))}
    guarded = make(dataclasses.replace(served, guards=ServingGuards(tuple(everything))))
    dense: list[Piece] = []
    guarded.submit(skipping, dense.append)
    finish(guarded)
    assert all(info.skipped for piece in pieces[1:] for info in piece.tokens)
    assert not any(info.skipped for piece in dense for info in piece.tokens)

    banded = make(dataclasses.replace(served, guards=ServingGuards(band=SkipBand(0.0, 0.5, 4))))
    fallen, calm = [], []
    first = banded.submit(skipping, fallen.append)
    second = banded.submit(ask(served, "To", 12, ignores_eos=True), calm.append)
    finish(banded)
    skipped = [bool(info.skipped) for piece in fallen for info in piece.tokens]
    assert first.dense_from is not None
    assert skipped[1:] == [True] * 4 + [False] * 7
    assert second.dense_from is None
    assert banded.metrics.value("fallbacks_total") == 1


def test_a_cancelled_answer_frees_its_slot_at_once(served: Served) -> None:
    """Waiting or being written; nothing more is told, and the next one gets the slot."""
    config = dataclasses.replace(CONFIG, slots=1)
    scheduler, parts = make(served, config), [[], [], []]
    asks = [ask(served, prompt, 30, ignores_eos=True) for prompt in PROMPTS[:3]]
    running = [scheduler.submit(one, part.append) for one, part in zip(asks, parts, strict=True)]
    scheduler.work()
    scheduler.cancel(running[0])
    scheduler.cancel(running[1])
    n_told = len(parts[0])
    finish(scheduler)
    assert len(parts[0]) == n_told
    assert parts[1] == []
    assert parts[2][-1].finish == "length"
    assert scheduler.metrics.value("requests_total", outcome="cancelled") == 2


def test_a_full_queue_refuses(served: Served) -> None:
    """The request behind the last place is told 429, and the others are answered."""
    scheduler = make(served, dataclasses.replace(CONFIG, max_queue=2))
    pieces: list[Piece] = []
    for _ in range(2):
        scheduler.submit(ask(served, "To", 2), pieces.append)
    with pytest.raises(RequestError, match="waiting") as caught:
        scheduler.submit(ask(served, "To", 2), pieces.append)
    assert caught.value.status == 429
    finish(scheduler)
    assert sum(piece.finish is not None for piece in pieces) == 2


def test_time_limits_end_answers(served: Served) -> None:
    """Too long in the queue is 503, too long altogether 504; slots are free again."""
    scheduler = make(served, dataclasses.replace(CONFIG, slots=1))
    parts: list[list[Piece]] = [[], []]
    states: list[Sequence] = [scheduler.submit(ask(served, "To", 30), part.append) for part in parts]
    scheduler.work()
    states[0].deadline_s = states[1].queue_deadline_s = 0.0
    finish(scheduler)
    assert [part[-1].error[0] for part in parts if part[-1].error] == [504, 503]
    assert len(scheduler.free) == 1


def test_a_failing_pass_ends_its_answers_and_not_the_server(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was in the pass is told 500; the next request is answered as ever."""
    scheduler = make(served)
    real, broken = scheduler.rows.run, iter([True])

    def run(*arguments: Any) -> Any:
        if next(broken, False):
            raise RuntimeError("no memory left")
        return real(*arguments)

    monkeypatch.setattr(scheduler.rows, "run", run)
    scheduler.start()
    answers = []
    for _ in range(2):
        pieces: list[Piece] = []
        state = scheduler.submit(ask(served, "To", 6, ignores_eos=True), pieces.append)
        while not state.is_done:
            pass
        answers.append(pieces)
    scheduler.stop()
    assert answers[0][-1].error == (500, "the server failed while it wrote this answer")
    assert answers[1][-1].finish == "length"


def test_stopping_tells_who_waits(served: Served) -> None:
    """Answers that are cut off by the stop say so; later ones are refused."""
    scheduler, pieces = make(served), []
    scheduler.submit(ask(served, "To", 5), pieces.append)
    scheduler._is_stopping = True
    scheduler.start()
    scheduler.stop()
    assert pieces[-1].error == (503, "the server was stopped")
    with pytest.raises(RequestError, match="stopping"):
        scheduler.submit(ask(served, "To", 5), pieces.append)


def test_echoed_log_probabilities_are_those_of_the_text(served: Served) -> None:
    """Every prompt token under the logits of the one before it, over chunk borders; nothing is generated."""
    prompt = ask(served, "The server reads its configuration", 0, n_logprobs=1, echoes=True)
    scheduler, pieces = make(served), []
    scheduler.submit(prompt, pieces.append)
    finish(scheduler)
    ids = torch.tensor([prompt.prompt_ids])
    logits = served.engine.logits(served.engine.hidden(ids).hidden_BTD)[0].double().log_softmax(-1)
    (piece,) = pieces
    assert piece.finish == "length"
    assert piece.prompt[0].logprob is None
    expected = [float(logits[i, token]) for i, token in enumerate(prompt.prompt_ids[1:])]
    assert [info.logprob for info in piece.prompt[1:]] == pytest.approx(expected, abs=1e-4)
