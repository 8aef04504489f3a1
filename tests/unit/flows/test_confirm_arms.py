"""Arms of the confirmation on a tiny model: int8 beside the dense model, and the dense model answering twice."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flows import evaluation
from flows.evaluation import Scorer
from kpis.records import DocumentPair, ItemPair
from skipmodel.config import SkipConfig
from skipmodel.data import Blocks
from skipmodel.engine.masked import open_engine
from skipmodel.model import SkipLayerForCausalLM
from tests.tiny import VOCAB, make_base

SKIP = SkipConfig(path_rank=4, always_run_first=1, always_run_last=1)


@pytest.fixture
def scorer() -> Scorer:
    """Four blocks of three documents under a dense tiny model; four questions whose dense answers are known."""
    base = make_base()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCAB, (4, 12), generator=generator)
    kinds = (torch.rand(4, 12, generator=generator) < 0.2).long()
    blocks = Blocks(ids, torch.full((4,), 12), kinds, torch.ones_like(ids), ("a", "a", "b", "c"), ("other", "term"))
    model = SkipLayerForCausalLM.from_base(copy.deepcopy(base), SKIP)
    engine = open_engine(model)
    settings = SimpleNamespace(model=SimpleNamespace(skip=SKIP))
    bench: Any = SimpleNamespace(
        settings=settings,
        model=model,
        engine=engine,
        dense_engine=engine,
        tokenizer=None,
        load_dense=lambda: copy.deepcopy(base),
    )
    made = Scorer.__new__(Scorer)
    made.bench, made.split, made.force_critical, made.blocks = bench, "test", True, blocks
    made.questions, made._dense, made._dense_choices = [], None, None
    return made


def ask(scorer: Scorer, dense: list[int]) -> None:
    """Give the scorer questions whose right answer is 0, and what the dense model answered."""
    questions = [
        SimpleNamespace(item_id=f"q{i}", group="g", slice="all", answer=0, must_pass=False, language="ja")
        for i in range(len(dense))
    ]
    scorer.questions = [(question, None) for question in questions]  # type: ignore[misc]
    scorer._dense_choices = dense


def test_int8_is_scored_on_the_same_text_and_leaves_the_dense_model_alone(scorer: Scorer) -> None:
    """Same documents, everything executed, predictions changed by rounding only."""
    before = copy.deepcopy(scorer.bench.model.state_dict())

    arm = evaluation._int8_arm(scorer.bench, scorer)

    reference = scorer.reference()
    pairs = [DocumentPair.from_json(row) for row in arm["documents"]]
    assert [(p.document_id, p.n_tokens) for p in pairs] == [
        (row["document_id"], row["n_tokens"]) for row in reference["documents"]
    ]
    assert (arm["skip_rate"], arm["items"]) == (0.0, [])
    assert all(p.n_other_executed == p.n_other_positions and p.n_over_skipped == 0 for p in pairs)
    assert all(p.nll_skip != p.nll_dense for p in pairs)
    assert all(p.nll_skip == pytest.approx(p.nll_dense, rel=0.05) for p in pairs)
    after = scorer.bench.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_int8_answers_the_same_questions(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers are paired with the dense ones, question by question."""
    ask(scorer, [0, 0, 1])
    monkeypatch.setattr(scorer, "choices", lambda engine, routing: [0, 1, 0])

    pairs = [ItemPair.from_json(row) for row in evaluation._int8_arm(scorer.bench, scorer)["items"]]

    assert [(p.item_id, p.dense_correct, p.skip_correct) for p in pairs] == [
        ("q0", True, True), ("q1", True, False), ("q2", False, True)
    ]  # fmt: skip


def test_the_noise_floor_keeps_the_pairs_it_was_counted_from(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first questions are answered again; every changed answer counts, right or wrong."""
    ask(scorer, [0, 1, 2, 0, *[0] * 40])
    n = evaluation.NOISE_FLOOR_ITEMS
    asked: list[dict[str, Any]] = []

    def again(engine: Any, routing: Any, **options: Any) -> list[int]:
        asked.append(options)
        return [0, 2, 2, 1, *[0] * 40][: options["n"]]

    monkeypatch.setattr(scorer, "choices", again)
    floor = evaluation._noise_floor(scorer)

    assert (floor["n"], floor["n_flips"], len(floor["items"])) == (n, 2, n)
    assert asked == [{"batch_items": 1, "n": n}]
    assert [ItemPair.from_json(row).skip_correct for row in floor["items"][:4]] == [True, False, False, False]
