"""One step of the SkipLayer fine-tune: what its gradient must not depend on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from skipmodel.config import DenseTuneConfig, SkipTuneConfig
from skipmodel.data import Blocks
from skipmodel.errors import ConfigError
from skipmodel.losses import ExecutedShares, distillation_loss, routing_losses
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.teacher import dense_hidden
from skipmodel.train import Fixed, _SkipTune, dense_tune, skip_tune
from tests.tiny import VOCAB, make_base, make_skip

LENGTH = 12


def _blocks(n_real: tuple[int, ...] = (12, 12, 12, 12), length: int = LENGTH, fill: int = 0) -> Blocks:
    """Blocks of these real lengths; longer or shorter padding leaves the real tokens as they are."""
    n = len(n_real)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, VOCAB, (n, LENGTH), generator=generator)[:, :length]
    kinds = (torch.rand(n, LENGTH, generator=generator) < 0.2).long()[:, :length]
    n_real_N = torch.tensor(n_real)
    padding = torch.arange(length)[None] >= n_real_N[:, None]
    ids, kinds = ids.masked_fill(padding, fill), kinds.masked_fill(padding, fill % 2)
    names = tuple(f"d{i}" for i in range(n))
    return Blocks(ids, n_real_N, kinds, torch.ones_like(ids), names, ("other", "glossary"))


def _config(**changes: Any) -> SkipTuneConfig:
    return SkipTuneConfig(**({"steps": 10, "batch_blocks": 4, "ce_weight": 0.3, "critical_loss_weight": 2.0,
                              "floor": 0.9, "critical_floor": 1.0} | changes))  # fmt: skip


def _gradients(
    model: SkipLayerForCausalLM, blocks: Blocks, config: SkipTuneConfig, step: int = 3, **more: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return the gradient of one step by parameter name, and its loss terms."""
    options = {"force_critical": True, "checkpoints": None, "teacher": None, "fixed": None} | more
    run = _SkipTune(model, blocks, config, 7, **options)
    from skipmodel.train import _recompute

    _recompute(model, config.gradient_checkpointing)
    terms = run._step(step, blocks)
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, terms


def _same(first: tuple[dict[str, Tensor], Any], second: tuple[dict[str, Tensor], Any], atol: float = 1e-6) -> None:
    assert first[0].keys() == second[0].keys()
    for name, gradient in first[0].items():
        torch.testing.assert_close(second[0][name], gradient, atol=atol, rtol=1e-4)
    assert second[1] == pytest.approx(first[1], abs=1e-5)


CHOICES: list[dict[str, str]] = [
    {}, {"router": "bottleneck", "path": "adapter"}, {"unit": "sublayers", "router": "linear"}, {"kv": "drop"},
]  # fmt: skip
every_choice = pytest.mark.parametrize("choice", CHOICES, ids=lambda choice: "-".join(choice.values()) or "default")


@every_choice
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_the_cut_into_parts_does_not_matter(choice: dict[str, str], lora_rank: int) -> None:
    """With noise, padding, critical weights and all losses on: one, two or four parts give one gradient."""
    blocks = _blocks((12, 7, 12, 3))
    whole = _gradients(make_skip(**choice), blocks, _config(lora_rank=lora_rank))  # type: ignore[arg-type]
    for accumulate in (2, 4):
        cut = _config(lora_rank=lora_rank, accumulate=accumulate)
        _same(whole, _gradients(make_skip(**choice), blocks, cut))  # type: ignore[arg-type]

    assert all(bool(gradient.any()) for name, gradient in whole[0].items() if "lora_A" not in name)
    assert any("lora" in name for name in whole[0]) == bool(lora_rank)


@pytest.mark.parametrize("control", ["mask", "capacity"])
def test_the_cut_does_not_matter_to_controls(control: str) -> None:
    """A mask from outside is made once per step for all of its blocks, a capacity drawn once."""
    calls: list[Any] = []

    def make_mask(ids_BT: Tensor, step: int) -> Tensor:
        calls.append((tuple(ids_BT.shape), step))
        return torch.rand(6, *ids_BT.shape, generator=torch.Generator().manual_seed(step)) < 0.7

    fixed = Fixed(mask_LBT=make_mask) if control == "mask" else Fixed(fields={"capacity": 0.6})
    whole = _gradients(make_skip(), _blocks(), _config(), fixed=fixed)
    _same(whole, _gradients(make_skip(), _blocks(), _config(accumulate=4), fixed=fixed))

    assert calls == ([((4, LENGTH), 3)] * 2 if control == "mask" else [])
    assert any("router" in name for name in whole[0]) == (control == "capacity")


def test_some_steps_in_parts_end_on_the_same_parameters() -> None:
    """Six steps of the whole training with noise: parameters agree whether a step is one part or four."""
    whole, cut = make_skip(), make_skip()
    log = skip_tune(whole, _blocks((12, 5, 12, 9)), _config(steps=6), 1, force_critical=True)
    log_cut = skip_tune(cut, _blocks((12, 5, 12, 9)), _config(steps=6, accumulate=4), 1, force_critical=True)
    expected, start = whole.state_dict(), make_skip().state_dict()

    for name, value in cut.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-4)
    assert sum(not torch.equal(start[name], value) for name, value in expected.items()) == 4 * 5
    for row, row_cut in zip(log.rows, log_cut.rows, strict=True):
        assert row_cut == pytest.approx(row, abs=1e-4)


@every_choice
@pytest.mark.parametrize("n_real", [(12, 8, 12, 8), (8, 8, 8, 8)])
def test_padding_counts_nowhere(choice: dict[str, str], n_real: tuple[int, ...]) -> None:
    """What stands in the padding, and how long it is, changes no gradient and no loss term."""
    quiet = _config(gumbel_scale=0.0, loss_positions=1.0)
    padded = _gradients(make_skip(**choice), _blocks(n_real), quiet)  # type: ignore[arg-type]
    _same(padded, _gradients(make_skip(**choice), _blocks(n_real, fill=33), quiet))  # type: ignore[arg-type]
    if max(n_real) == 8:
        _same(padded, _gradients(make_skip(**choice), _blocks(n_real, length=8), quiet))  # type: ignore[arg-type]


def test_a_step_on_one_part_is_plain_autograd() -> None:
    """Without the detour over the step's shares: one backward pass through the sum of all losses."""
    model, blocks, config = make_skip(), _blocks((12, 7, 12, 9)), _config(loss_positions=1.0, gumbel_scale=0.0)
    made, terms = _gradients(make_skip(), blocks, config)
    ids, real, critical = blocks.ids_NT, blocks.real_NT, blocks.critical_NT
    teacher = model.vocabulary_logits(dense_hidden(model, ids)).detach()[:, :-1]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for _, unit in model.routed:
        unit.router.requires_grad_(True)
        unit.skip_path.requires_grad_(True)
    with model.routing("train", temperature=config.temperature):
        student = model(ids, force_execute=critical, use_cache=False).logits[:, :-1]
        gates = dict(model.state.gates_BT)
    at = real[:, 1:]
    weight = torch.where(critical[:, :-1] | critical[:, 1:], 2.0, 1.0)[at]
    ce = torch.nn.functional.cross_entropy(student[at], ids[:, 1:][at], reduction="none")
    routing = routing_losses(ExecutedShares.of(gates, real, critical), torch.ones(4), 6, config)
    ramp = 1.0  # step 3 of 10 is behind the first third
    loss = distillation_loss(student[at], teacher[at], weight) + 0.3 * (ce * weight).sum() / weight.sum()
    loss = loss + ramp * config.density_weight * routing["density"] + routing["floor"]
    loss = loss + config.critical_weight * routing["critical"]
    loss.backward()
    plain = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    assert plain.keys() == made.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(made[name], gradient, atol=1e-6, rtol=1e-4)
    assert terms["loss"] == pytest.approx(float(loss.detach()), abs=1e-5)
    assert min(float(routing[name].detach()) for name in ("density", "floor")) > 0


def test_the_density_loss_is_ramped_up() -> None:
    """Over the first third of the steps it grows to its full weight."""
    config = _config(steps=9, kl_weight=0.0, ce_weight=0.0, floor=0.0, critical_weight=0.0, gumbel_scale=0.0)
    norms = [
        float(_gradients(make_skip(), _blocks(), config, step)[0]["lm.model.layers.2.router.weight"].norm())
        for step in range(5)
    ]

    assert [norm / norms[-1] for norm in norms] == pytest.approx([1 / 3, 2 / 3, 1.0, 1.0, 1.0], rel=1e-4)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "gpt_neox", "opt"])
@pytest.mark.parametrize("choice", [*CHOICES[:2], {"unit": "attention", "kv": "drop"}, {"kv": "drop"}])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_recomputed_activations_give_the_same_gradient(family: str, choice: dict[str, str], lora_rank: int) -> None:
    """With noise on and in two parts; recomputation takes mode, noise and guards of its own pass."""
    blocks = _blocks((12, 7, 12, 12))
    config = {"lora_rank": lora_rank, "accumulate": 2}
    kept = _gradients(make_skip(family, **choice), blocks, _config(**config))  # type: ignore[arg-type]
    again = _config(**config, gradient_checkpointing=True)
    _same(kept, _gradients(make_skip(family, **choice), blocks, again))  # type: ignore[arg-type]


def test_recomputation_saves_activations_and_ends_with_the_training() -> None:
    """Fewer tensors wait for the backward pass; afterwards no layer is in training mode."""
    counts = []
    for on in (False, True):
        model, n_saved = make_skip(), 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal n_saved
            n_saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            skip_tune(model, _blocks(), _config(steps=1, gradient_checkpointing=on), 0, force_critical=False)
        counts.append(n_saved)
        assert not any(module.training for module in model.modules())

    assert counts[1] < 0.7 * counts[0]


@pytest.mark.parametrize("choice", [*CHOICES[:3], {"unit": "attention"}])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_bfloat16_model_trains(choice: dict[str, str], lora_rank: int) -> None:
    """Two steps: finite losses, routers float32 all along, everything else bfloat16 at the end and moved."""
    model = make_skip(**choice)  # type: ignore[arg-type]
    routers = {id(p) for _, unit in model.routed for p in unit.router.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in routers:
            parameter.data = parameter.data.bfloat16()
    paths = [p for _, unit in model.routed for p in unit.skip_path.parameters()]
    before = [p.clone() for p in paths]
    log = skip_tune(model, _blocks(), _config(steps=2, lora_rank=lora_rank, learning_rate_path=1e-2), 0,
                    force_critical=True)  # fmt: skip

    assert all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in log.rows)
    assert all(row["kl"] > 0 for row in log.rows)
    for parameter in model.parameters():
        assert parameter.dtype == (torch.float32 if id(parameter) in routers else torch.bfloat16)
    assert not any(torch.equal(old, new) for old, new in zip(before, paths, strict=True))
    with torch.no_grad():
        assert bool(model(_blocks().ids_NT).logits.isfinite().all())


def test_a_bfloat16_base_is_tuned() -> None:
    """The dense tune of a bfloat16 base gives a bfloat16 base with other weights."""
    base = make_base().bfloat16()
    before = {name: p.clone() for name, p in base.named_parameters()}
    tuned, log = dense_tune(base, _blocks(), DenseTuneConfig(steps=3, lora_rank=4, learning_rate=1e-2), 0)

    assert all(row["loss"] > 0 for row in log.rows)
    assert {p.dtype for p in tuned.parameters()} == {torch.bfloat16}
    assert any(not torch.equal(before[name], p) for name, p in tuned.named_parameters())


def test_padding_counts_nowhere_in_the_dense_tune() -> None:
    """Other padding, the same loss and the same tuned weights."""
    config = DenseTuneConfig(steps=3, lora_rank=2, batch_blocks=4)
    first, log = dense_tune(make_base(), _blocks((12, 7, 4, 12)), config, 0)
    second, log_again = dense_tune(make_base(), _blocks((12, 7, 4, 12), fill=33), config, 0)

    assert [row["loss"] for row in log_again.rows] == pytest.approx([row["loss"] for row in log.rows], abs=1e-6)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    assert log.n_tokens == 3 * (12 + 7 + 4 + 12)


def test_routers_alone_learn_first() -> None:
    """In the router stage paths and LoRA stay; afterwards all move."""
    for steps, moves in ((2, False), (4, True)):
        model, start = make_skip(), make_skip().state_dict()
        config = _config(steps=steps, router_share=1.0 if not moves else 0.5, lora_rank=2, learning_rate_lora=1e-2)
        skip_tune(model, _blocks(), config, 0, force_critical=True)
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}

        assert any("router" in name for name in moved)
        assert any("skip_path" in name for name in moved) == moves
        assert any("proj" in name for name in moved) == moves


def test_settings_must_divide_the_blocks() -> None:
    """Parts of unequal size are refused by the settings."""
    with pytest.raises(ConfigError, match=r"model\.skip_tune\.accumulate must be a divisor of batch_blocks 4, got 3"):
        _config(accumulate=3)
