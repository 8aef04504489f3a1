"""LoRA on the base: nothing changes at first, off means off, and merging leaves plain modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from skipmodel.lora import Lora
from tests.tiny import FAMILIES, N_LAYERS, VOCAB, make_base, make_skip

MAPS_PER_LAYER = {"gpt2": 4, "gpt_neox": 4, "opt": 6}


def _ids() -> torch.Tensor:
    return torch.randint(3, VOCAB, (2, 8), generator=torch.Generator().manual_seed(0))


def _moved(lora: Lora) -> None:
    """Give the matrices values that matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lora.parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_lora_on_every_family(family: str) -> None:
    """B starts at 0; off gives the base bit for bit; merged weights give the forward pass with the matrices."""
    base, ids = make_base(family), _ids()
    modules = {name: type(module) for name, module in base.named_modules()}
    before = base(ids).logits
    lora = Lora(base, 4, seed=0)
    at_start = base(ids).logits
    _moved(lora)
    moved = base(ids).logits
    with lora.off():
        off = base(ids).logits
    again = base(ids).logits
    lora.merge()
    merged = base(ids).logits

    assert len(lora.parameters) == 2 * N_LAYERS * MAPS_PER_LAYER.get(family, 7)
    assert torch.equal(at_start, before)
    assert torch.equal(off, before)
    assert torch.equal(again, moved)
    assert float((moved - before).abs().max()) > 1e-2
    torch.testing.assert_close(merged, moved, atol=1e-4, rtol=1e-4)
    assert {name: type(module) for name, module in base.named_modules()} == modules
    assert not hasattr(base, "peft_config")


@pytest.mark.parametrize("unit", ["layer", "sublayers"])
@torch.no_grad()
def test_routers_and_paths_get_none(unit: str) -> None:
    """In a routed model only the base's own maps are adapted; routing goes on through them, before and after."""
    model = make_skip(unit=unit, path="adapter", router="bottleneck")
    names = set(model.state_dict())
    lora = Lora(model.lm, 4, seed=0)
    _moved(lora)
    with_matrices = model(_ids()).logits
    added = [name for name, _ in model.named_parameters() if "lora_" in name]
    lora.merge()

    assert not [name for name in added if "router" in name or "skip_path" in name]
    assert len(added) == 2 * N_LAYERS * 7
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(_ids()).logits, with_matrices, atol=1e-4, rtol=1e-4)


def test_only_the_matrices_learn() -> None:
    """Everything else is frozen, and a seed gives the same A matrices again."""
    base = make_base()
    lora = Lora(base, 4, seed=3)
    other = Lora(make_base(), 4, seed=3)
    different = Lora(make_base(), 4, seed=4)
    base(_ids()).logits.square().mean().backward()

    assert {id(p) for p in base.parameters() if p.requires_grad} == {id(p) for p in lora.parameters}
    assert all(torch.equal(a, b) for a, b in zip(lora.parameters, other.parameters, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(lora.parameters, different.parameters, strict=True))
    assert any(p.grad is not None and bool(p.grad.any()) for p in lora.parameters)


def test_off_ends_after_an_exception() -> None:
    """Whatever happens while they are off, the matrices are on again afterwards."""
    base = make_base()
    lora = Lora(base, 4, seed=0)
    _moved(lora)
    with torch.no_grad():
        before = base(_ids()).logits
    with pytest.raises(ZeroDivisionError), lora.off():
        raise ZeroDivisionError
    with torch.no_grad():
        assert torch.equal(base(_ids()).logits, before)
    assert all(p.requires_grad for p in lora.parameters)


def test_the_head_and_the_embedding_stay() -> None:
    """Only maps inside decoder layers are adapted, tied vocabulary matrices never."""
    base: Any = make_base("gpt2")
    lora = Lora(base, 2, seed=0)

    assert all(name.startswith("transformer.h.") for name in lora.layers)
    assert isinstance(base.lm_head, nn.Linear)


@torch.no_grad()
def test_bfloat16_weights_take_the_merge() -> None:
    """Matrices are float32 beside a bfloat16 base; merged, the base is bfloat16 again and near the unmerged pass."""
    base = make_base().bfloat16()
    lora = Lora(base, 4, seed=0)
    _moved(lora)
    unmerged = base(_ids()).logits.float()
    kinds = {p.dtype for p in lora.parameters}
    lora.merge()

    assert kinds == {torch.float32}
    assert {p.dtype for p in base.parameters()} == {torch.bfloat16}
    assert float((base(_ids()).logits.float() - unmerged).abs().mean()) < 0.05 * float(unmerged.abs().mean())
