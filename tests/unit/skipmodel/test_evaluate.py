"""Scoring against plain forward passes of the Hugging Face model, and pairing against counts by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from skipmodel.config import SkipConfig
from skipmodel.data import Blocks, Document, Span, tokenize
from skipmodel.engine.executor import Engine
from skipmodel.engine.masked import open_engine
from skipmodel.evaluate import (
    BlockScores,
    Item,
    pair_documents,
    score_blocks,
    score_items,
    skip_rate_by_kind,
    skip_rate_per_unit,
)
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.work import Work
from tests.tiny import VOCAB, make_skip, save_base_folder, with_prefix

KINDS = ("other", "glossary", "number")
WORDS = ("KeepAlive", "Timeout", "接続", "応答", "server", "port", "15", "設定", "module", "value")


def _sentence(generator: torch.Generator, n_words: int) -> str:
    picked = torch.randint(len(WORDS), (n_words,), generator=generator).tolist()
    return "".join(f" {WORDS[index]}" for index in picked)


def _document(name: str, text: str) -> Document:
    at = text.find("Timeout")
    return Document(name, text, () if at < 0 else (Span(at, at + len("Timeout"), "glossary"),))


def _items(n: int = 16) -> list[Item]:
    generator = torch.Generator().manual_seed(1)
    items = []
    for number in range(n):
        lengths = torch.randint(1, 7, (5,), generator=generator).tolist()
        question = _sentence(generator, 4 + lengths[4]) + "\n答え:"
        choices = tuple(_document(f"c{i}", _sentence(generator, lengths[i])) for i in range(4))
        items.append(Item(f"i{number}", _document("q", question), choices, 0))
    return items


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> tuple[SkipLayerForCausalLM, Any]:
    """A routed model with large random weights, and the tokenizer of its base."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_base_folder(tmp_path_factory.mktemp("base"), [" ".join(WORDS) * 20], vocab=300)
    base: Any = AutoModelForCausalLM.from_pretrained(Path(folder)).eval()
    torch.manual_seed(3)
    for name, parameter in base.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    model = SkipLayerForCausalLM.from_base(base, SkipConfig(path_rank=4, always_run_first=1, always_run_last=1))
    for _, layer in model.routed:
        torch.nn.init.normal_(layer.router.weight, std=0.5)
        layer.router.bias.data.zero_()
        for parameter in layer.skip_path.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval(), AutoTokenizer.from_pretrained(Path(folder))


def _alone(model: SkipLayerForCausalLM, tokenizer: Any, item: Item, threshold_logit: float | None) -> int:
    """Score each choice in a sequence of its own, with a forward pass of the Hugging Face model."""
    mode, force = ("dense", False) if threshold_logit is None else ("hard", True)
    if threshold_logit is not None:
        model.set_threshold_logit(threshold_logit)
    scores = []
    for choice in item.choices:
        question, answer = tokenize([item.question, choice], tokenizer, KINDS)
        prefix = list(question.prefix_ids)
        ids = torch.tensor([prefix + question.ids + answer.ids])
        critical = torch.tensor([[kind > 0 for kind in [0] * len(prefix) + question.kind_ids + answer.kind_ids]])
        with torch.no_grad(), model.routing(mode):
            logits = model(ids, force_execute=critical if force else None).logits[0]
        first = len(prefix) + len(question.ids)
        log_prob = logits[first - 1 : -1].log_softmax(-1).gather(1, ids[0, first:, None]).sum()
        scores.append(float(log_prob) / len(choice.text.encode()))
    return max(range(4), key=scores.__getitem__)


@pytest.mark.parametrize("prefixed", [False, True])
@pytest.mark.parametrize("threshold_logit", [None, 0.0])
def test_packed_choices_are_scored_as_if_alone(
    scorer: tuple[SkipLayerForCausalLM, Any], threshold_logit: float | None, prefixed: bool
) -> None:
    """Four choices behind one question get the answer that four separate sequences get, dense and skipping."""
    model, tokenizer = scorer
    tokenizer = with_prefix(tokenizer) if prefixed else tokenizer
    engine, items = Engine(model), _items()
    routing = None if threshold_logit is None else engine.routing(threshold_logit)
    chosen = score_items(
        engine, tokenizer, items, routing, kinds=KINDS, force_critical=routing is not None, batch_items=3
    )

    assert chosen == [_alone(model, tokenizer, item, threshold_logit) for item in items]
    assert len(set(chosen)) > 1


def test_items_do_not_depend_on_their_batch(scorer: tuple[SkipLayerForCausalLM, Any]) -> None:
    """Padding and neighbours change no answer, and progress ends at all items."""
    model, tokenizer = scorer
    engine, items, seen = Engine(model), _items(), []
    options: dict[str, Any] = {"kinds": KINDS, "force_critical": False}
    one = score_items(engine, tokenizer, items, None, batch_items=1, **options)
    eight = score_items(engine, tokenizer, items, None, batch_items=8, progress=lambda *at: seen.append(at), **options)

    assert one == eight
    assert seen == [(8, 16), (16, 16)]


def _blocks(kind: list[list[int]], n_real: list[int], names: tuple[str, ...], ids: Tensor | None = None) -> Blocks:
    kinds = torch.tensor(kind)
    bytes_NT = torch.arange(1, kinds.numel() + 1).view(kinds.shape)
    return Blocks(torch.zeros_like(kinds) if ids is None else ids, torch.tensor(n_real), kinds, bytes_NT, names, KINDS)


def test_blocks_get_the_loss_of_the_hugging_face_model() -> None:
    """Per token: cross-entropy of the next one, and the most likely next one, whatever the batch size."""
    model = make_skip()
    ids = torch.randint(3, VOCAB, (5, 12))
    blocks = _blocks([[0] * 12] * 5, [12] * 5, tuple("abcde"), ids)
    scores = score_blocks(Engine(model), blocks, None, force_critical=False, batch_blocks=2)
    with torch.no_grad(), model.routing("dense"):
        logits = model(ids).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")

    torch.testing.assert_close(scores.nll_NT.flatten(), expected, atol=5e-5, rtol=0)
    assert torch.equal(scores.top1_NT, logits.argmax(-1))
    assert bool(scores.execute_mask_LNT.all())
    assert skip_rate_per_unit(blocks, scores) == [0.0] * 6


def _scores(nll: list[list[float]], top1: list[list[int]], mask: list[list[list[int]]]) -> BlockScores:
    return BlockScores(torch.tensor(nll), torch.tensor(top1), torch.tensor(mask, dtype=torch.bool))


def test_documents_are_paired_as_by_hand() -> None:
    """Two blocks of one document and a padded one of another, three layers of which two are routed."""
    blocks = _blocks([[0, 1, 0, 2], [0, 0, 0, 0], [1, 0, 1, 0]], [4, 4, 3], ("a", "a", "b"))
    dense = _scores(
        [[1.0, 2.0, 3.0], [0.5, 0.5, 0.5], [1.0, 1.0, 9.0]], [[1, 2, 3], [1, 1, 1], [4, 4, 4]], [[[1] * 4] * 3] * 3
    )
    always = [[1, 1, 1, 1]] * 3
    skip = _scores(
        [[1.0, 2.6, 3.0], [0.5, 0.5, 0.25], [1.0, 1.5, 0.0]],
        [[1, 2, 9], [1, 1, 1], [4, 5, 6]],
        [always, [[1, 0, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]], [[1, 1, 0, 1], [0, 0, 1, 1], [1, 0, 0, 0]]],
    )
    first, second = pair_documents(blocks, dense, skip, [1, 2])

    assert first == {
        "document_id": "a",
        "n_tokens": 6,  # 3 + 3 positions with a next token
        "n_bytes": (2 + 3 + 4) + (6 + 7 + 8),
        "nll_dense": pytest.approx(7.5),
        "nll_skip": pytest.approx(6.6 + 1.25),
        "n_same_top1": 5,
        "n_critical": 1,  # token 1; the last token of the block predicts nothing
        "n_over_skipped": 1,  # it skipped layer 1 and lost 0.6 nats
        "n_critical_executed": 1 + 2,  # token 1 ran layer 2, token 3 both
        "n_critical_positions": 4,
        "n_other_executed": 2 + 1 + 5,
        "n_other_positions": 12,
    }
    assert second == {
        "document_id": "b",
        "n_tokens": 2,  # the padded position is not scored
        "n_bytes": 10 + 11,
        "nll_dense": pytest.approx(2.0),
        "nll_skip": pytest.approx(2.5),
        "n_same_top1": 1,
        "n_critical": 1,
        "n_over_skipped": 0,  # token 0 ran everywhere
        "n_critical_executed": 2 + 0,
        "n_critical_positions": 4,
        "n_other_executed": 1,
        "n_other_positions": 2,
    }


@pytest.mark.parametrize(
    ("kind", "ran", "top1", "loss", "over"),
    [
        (1, [1, 0], 7, 1.0, 1),  # skipped one layer, and another token became the most likely
        (1, [1, 0], 5, 1.51, 1),  # skipped, same token, loss more than 0.5 nats higher
        (1, [1, 0], 5, 1.5, 0),  # exactly 0.5 nats is not more
        (1, [0, 0], 5, 0.2, 0),  # skipped everything, and it did not matter
        (1, [1, 1], 7, 3.0, 0),  # skipped nothing itself: somebody else's skip is not its own
        (0, [0, 0], 7, 3.0, 0),  # not critical
    ],
)
def test_over_skip_needs_a_skip_and_a_changed_output(
    kind: int, ran: list[int], top1: int, loss: float, over: int
) -> None:
    """A critical token counts when it skipped a routed layer itself and its own output changed."""
    blocks = _blocks([[kind, 0]], [2], ("a",))
    dense = _scores([[1.0]], [[5]], [[[1, 1]]] * 2)
    skip = _scores([[loss]], [[top1]], [[[ran[0], 1]], [[ran[1], 1]]])
    (record,) = pair_documents(blocks, dense, skip, [0, 1])

    assert record["n_over_skipped"] == over
    assert record["n_critical"] == kind


def test_skips_of_always_run_layers_do_not_count_as_over_skip() -> None:
    """Only routed layers are looked at."""
    blocks = _blocks([[1, 0]], [2], ("a",))
    dense = _scores([[1.0]], [[5]], [[[1, 1]]] * 2)
    skip = _scores([[9.0]], [[6]], [[[0, 1]], [[1, 1]]])
    (record,) = pair_documents(blocks, dense, skip, [1])

    assert record["n_over_skipped"] == 0
    assert record["n_critical_positions"] == 1


def test_skip_rates_leave_padding_out() -> None:
    """Per unit and per class: skipped executions over those of real tokens; classes without tokens are absent."""
    blocks = _blocks([[0, 1, 1, 0], [0, 0, 1, 0]], [4, 2], ("a", "b"))
    mask = [[[1, 0, 1, 0], [1, 1, 0, 0]], [[1, 0, 0, 1], [0, 1, 0, 0]]]
    scores = _scores([[0.0] * 3] * 2, [[0] * 3] * 2, mask)

    assert skip_rate_per_unit(blocks, scores) == pytest.approx([2 / 6, 3 / 6])
    assert skip_rate_by_kind(blocks, scores, Work((1.0, 1.0), (1, 1), 4, 2)) == [
        {"class": "other", "skip_rate": pytest.approx(2 / 8), "n": 4},
        {"class": "glossary", "skip_rate": pytest.approx(3 / 4), "n": 2},
    ]


def test_skip_rates_weigh_units_by_their_share_of_a_layer() -> None:
    """The attention of one layer of two, a quarter of it, and its feed-forward part, three quarters."""
    blocks = _blocks([[0, 1, 1, 0]], [4], ("a",))
    scores = _scores([[0.0] * 3], [[0] * 3], [[[0, 0, 1, 1]], [[1, 0, 1, 0]], [[1] * 4], [[1] * 4]])

    assert skip_rate_by_kind(blocks, scores, Work((0.25, 0.75, 0.25, 0.75), (1, 3, 1, 3), 8, 2)) == [
        {"class": "other", "skip_rate": pytest.approx((0.25 + 0.75) / 2 / 2), "n": 2},
        {"class": "glossary", "skip_rate": pytest.approx((0.25 + 0.75) / 2 / 2), "n": 2},
    ]


@pytest.mark.parametrize("choice", [{"unit": "sublayers"}, {"unit": "attention", "kv": "drop"}, {"path": "adapter"}])
def test_blocks_are_scored_by_whatever_engine_runs_the_model(choice: dict[str, str]) -> None:
    """Loss, next token and decisions per token are those of plain forward passes with the critical tokens forced."""
    model = make_skip(**choice)  # type: ignore[arg-type]
    ids = torch.randint(3, VOCAB, (5, 12))
    kinds = (torch.rand(5, 12) < 0.3).long()
    blocks = _blocks(kinds.tolist(), [12] * 5, tuple("abcde"), ids)
    engine = open_engine(model)
    scores = score_blocks(engine, blocks, engine.routing(0.0), force_critical=True, batch_blocks=2)
    with torch.no_grad():
        logits = model(ids, force_execute=kinds > 0).logits[:, :-1]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")

    torch.testing.assert_close(scores.nll_NT.flatten(), expected, atol=5e-5, rtol=0)
    for index in model.config.routed_units:
        assert torch.equal(scores.execute_mask_LNT[index], model.state.gates_BT[index])
    assert not bool(scores.execute_mask_LNT.all())
    assert bool(scores.execute_mask_LNT[:, kinds > 0].all())
