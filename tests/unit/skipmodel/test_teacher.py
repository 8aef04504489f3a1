"""The teacher: dense hidden states, each block computed once where it is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skipmodel.teacher import Teacher, dense_hidden
from tests.tiny import FAMILIES, VOCAB, make_base, make_skip


def _ids(n: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCAB, (n, 8), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_its_logits_are_those_of_the_base(family: str) -> None:
    """Hidden states through the vocabulary matrix, soft-capping included, give the base model's logits."""
    model = make_skip(family)

    torch.testing.assert_close(
        model.vocabulary_logits(dense_hidden(model, _ids())), make_base(family)(_ids()).logits, atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("kv", ["project", "drop"])
@torch.no_grad()
def test_a_pass_of_the_student_leaves_no_trace(kv: str) -> None:
    """After a routed pass the teacher still sees everything executed, and the model routes as before."""
    model = make_skip(kv=kv)
    before = dense_hidden(model, _ids())
    routed = model(_ids()).logits

    assert torch.equal(dense_hidden(model, _ids()), before)
    assert torch.equal(model(_ids()).logits, routed)


def test_a_kept_block_is_computed_once() -> None:
    """Blocks that come again, in any order and company, are not computed again, and are the same bit for bit."""
    model = make_skip()
    teacher = Teacher(model, keep=True)
    ids = _ids()
    first = teacher.hidden(ids[:3])
    mixed = teacher.hidden(ids[[2, 3, 0]])

    assert teacher.n_computed == 4
    assert torch.equal(mixed[[2, 0]], first[[0, 2]])
    assert torch.equal(mixed[1], teacher.hidden(ids[[3]])[0])
    assert teacher.n_computed == 4
    assert not mixed.requires_grad


def test_nothing_is_kept_unasked_or_beyond_the_room() -> None:
    """Without `keep` every call computes; with room for two blocks two are kept and the rest computed again."""
    model = make_skip()
    forgetful = Teacher(model, keep=False)
    cramped = Teacher(model, keep=True, capacity_bytes=2 * 8 * 32 * 4)
    for _ in range(2):
        forgetful.hidden(_ids())
        cramped.hidden(_ids())

    assert (forgetful.n_computed, cramped.n_computed) == (8, 4 + 2)
    assert len(cramped.kept) == 2


def test_another_pass_can_stand_in() -> None:
    """A training whose LoRA changes the model gives the pass that switches it off; it sees missing blocks only."""
    teacher, seen = Teacher(make_skip(), keep=True), []

    def compute(ids_BT: Tensor) -> Tensor:
        seen.append(len(ids_BT))
        return torch.ones(*ids_BT.shape, 32)

    teacher.hidden(_ids()[:1], compute)
    out = teacher.hidden(_ids(), compute)

    assert seen == [1, 3]
    assert torch.equal(out, torch.ones(4, 8, 32))
