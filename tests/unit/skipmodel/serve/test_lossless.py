"""Lossless mode: the dense answer, whatever was drafted."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch

from skipmodel.engine.lanes import LanePass
from skipmodel.engine.rows import RowPass, SlotCache
from skipmodel.guards import ServingGuards
from skipmodel.serve.config import ServeConfig
from skipmodel.serve.lossless import Draft
from skipmodel.serve.scheduler import Scheduler
from skipmodel.serve.sequence import Ask, Piece
from skipmodel.serve.served import Served
from tests.unit.skipmodel.serve.helpers import make_served

N_PROMPTS, N_TOKENS = 500, 12


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return make_served(tmp_path_factory.mktemp("base"))


def answers(served: Served, asks: list[Ask], backend: Any, most: int = 8) -> tuple[list[list[int]], Scheduler]:
    """Return the tokens of every answer; slots hold all of them at once."""
    config = ServeConfig(slots=16, context=40, draft_tokens=most, max_queue=len(asks))
    scheduler = Scheduler(served.engine, served.tokenizer, ServingGuards(), config, backend(served.engine))
    parts: list[list[Piece]] = []
    for ask in asks:
        parts.append([])
        scheduler.submit(ask, parts[-1].append)
    while scheduler.active or scheduler.waiting:
        scheduler.work()
    return [[info.token for piece in part for info in piece.tokens] for part in parts], scheduler


@pytest.mark.parametrize("backend", [LanePass, RowPass])
def test_500_greedy_answers_are_the_dense_ones(served: Served, backend: Any) -> None:
    """Token for token, also at the end of an answer, with many drafts accepted and many not."""
    generator = torch.Generator().manual_seed(2)
    prompts = [torch.randint(3, 300, (2 + i % 7,), generator=generator).tolist() for i in range(N_PROMPTS)]
    dense = [Ask(tuple(ids), N_TOKENS, 0.0) for ids in prompts]
    lossless = [Ask(tuple(ids), N_TOKENS, 0.0, threshold_logit=-0.6, is_lossless=True) for ids in prompts]
    expected, _ = answers(served, dense, backend)
    got, scheduler = answers(served, lossless, backend)
    accepted = scheduler.metrics.value("draft_tokens_total", outcome="accepted")
    rejected = scheduler.metrics.value("draft_tokens_total", outcome="rejected")
    assert got == expected
    assert accepted > 500
    assert rejected > 500


def test_dense_answers_are_those_of_generate(served: Served) -> None:
    """The reference itself: the greedy answers of transformers' own decoding of the same weights."""
    engine = served.engine
    prompts = [[5, 9, 14], [40, 41], [77, 3, 3, 8]]
    got, _ = answers(served, [Ask(tuple(ids), N_TOKENS, 0.0, ignores_eos=True) for ids in prompts], LanePass)
    for ids, tokens in zip(prompts, got, strict=True):
        text = list(ids)
        for _ in range(N_TOKENS):
            text.append(int(engine.logits(engine.hidden(torch.tensor([text])).hidden_BTD[0, -1]).argmax()))
        assert tokens == text[len(ids) :]


def test_sampled_answers_have_the_dense_distribution(served: Served) -> None:
    """600 seeds, four tokens, three of them drafted and verified, against dense samples: two-sample chi-square."""
    ids = tuple(served.tokenizer("The server")["input_ids"])
    dense = [Ask(ids, 4, 0.5, seed=seed, ignores_eos=True) for seed in range(600)]
    lossless = [Ask(ids, 4, 0.5, seed=seed + 5000, ignores_eos=True, threshold_logit=-0.6, is_lossless=True)
                for seed in range(600)]  # fmt: skip
    first, _ = answers(served, dense, LanePass)
    second, scheduler = answers(served, lossless, LanePass)
    assert scheduler.metrics.value("draft_tokens_total", outcome="accepted") > 60
    assert scheduler.metrics.value("draft_tokens_total", outcome="rejected") > 60
    for position in range(4):
        counts = [Counter(tokens[position] for tokens in answers_) for answers_ in (first, second)]
        common = [token for token, n in (counts[0] + counts[1]).items() if n >= 10]
        table = [[count[token] for token in common] for count in counts]
        for row in table:
            row.append(600 - sum(row))
        chi2 = sum((a - b) ** 2 / (a + b) for a, b in zip(*table, strict=True) if a + b)
        assert len(common) > 2
        assert (chi2 - len(common)) / math.sqrt(2 * len(common)) < 5, position


def test_the_cache_holds_dense_keys_afterwards(served: Served) -> None:
    """What a draft wrote is overwritten: keys and values are those of a dense pass over the answer."""
    scheduler = Scheduler(served.engine, served.tokenizer, ServingGuards(), ServeConfig(slots=1, context=40),
                          LanePass(served.engine))  # fmt: skip
    ask = Ask((5, 9, 14), 10, 0.0, threshold_logit=0.0, is_lossless=True, ignores_eos=True)
    state = scheduler.submit(ask, lambda piece: None)
    while not state.is_done:
        scheduler.work()
    slot = scheduler.cache.slots[0]
    fresh = SlotCache(served.engine, 1, 40)
    served.engine.hidden(torch.tensor([[*ask.prompt_ids, *state.made[:-1]]]), None, cache=fresh.slots[0])
    assert slot.length >= 12
    for mine, expected in zip(slot.layers, fresh.slots[0].layers, strict=True):
        torch.testing.assert_close(mine[:, :, :12], expected[:, :, :12], atol=1e-4, rtol=1e-4)


def test_the_draft_grows_and_shrinks_with_acceptance() -> None:
    """One more after a draft that was right, one above what was right otherwise, within 1 and the limit."""
    draft, sizes = Draft(most=4), []
    for n_right in (2, 3, 4, 4, 1, 0, 0, 1):
        draft.tokens = [0] * draft.size
        draft.settle(min(n_right, draft.size))
        sizes.append(draft.size)
    assert sizes == [3, 4, 4, 4, 2, 1, 1, 2]
    assert draft.n_passes == 8
