"""The shared training loop: schedule, clipping, watching, and checkpoints to go on from bit for bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipmodel.config import DenseTuneConfig, SkipTuneConfig
from skipmodel.data import Blocks
from skipmodel.errors import CheckpointError, TrainingError
from skipmodel.optimise import Trainer, TrainingLog, schedule
from skipmodel.train import Fixed, dense_tune, skip_tune
from tests.tiny import VOCAB, make_base, make_skip


class StoppedError(Exception):
    """The machine went away."""


def _blocks(n: int = 12, length: int = 16, seed: int = 0) -> Blocks:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (n, length), generator=generator)
    kinds = (torch.rand(n, length, generator=generator) < 0.1).long()
    names = tuple(f"d{i}" for i in range(n))
    return Blocks(ids, torch.full((n,), length), kinds, torch.ones(n, length).long(), names, ("other", "glossary"))


def _stop_after(n_steps: int) -> Any:
    def progress(done: int, total: int) -> None:
        if done == n_steps:
            raise StoppedError

    return progress


def _trainer(folder: Path | None, identity: str = "", steps: int = 20, **more: Any) -> tuple[Trainer, nn.Parameter]:
    weight = nn.Parameter(torch.ones(3))
    return Trainer({"weights": ([weight], 0.1)}, steps, "test", folder, 2, identity, **more), weight


def _run(trainer: Trainer, weight: nn.Parameter, last: int, generator: torch.Generator) -> None:
    for step in range(trainer.resume(generator), last):
        (weight * torch.rand(3, generator=generator) * torch.rand(3)).sum().backward()
        trainer.log.rows.append({"step": step, "loss": float(weight.detach().sum())})
        trainer.step(step)
        trainer.save(step + 1, generator)


def test_the_schedule_warms_up_and_cools_down() -> None:
    """A rising first tenth up to the peak, a cosine down to a tenth; a short training warms up in one step."""
    rates = [schedule(step, 40) for step in range(40)]

    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4] == pytest.approx(1.0)
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert 0.1 <= rates[-1] < 0.11
    assert schedule(0, 1) == 1.0


def test_groups_are_clipped_and_idled_by_name() -> None:
    """Each group's gradient has norm 1 at most, and an idle group stays while the others move."""
    big, small, still = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    trainer = Trainer(
        {"big": ([big], 0.1), "small": ([small], 0.1), "still": ([still], 0.1), "none": ([], 0.1)}, 1, "t"
    )
    big.grad, small.grad, still.grad = torch.tensor([30.0, 40.0]), torch.tensor([0.3, 0.4]), torch.ones(2)
    seen: list[Tensor] = []
    trainer.optimiser.register_step_pre_hook(lambda *_: seen.extend([big.grad.clone(), small.grad.clone()]))  # type: ignore[union-attr, func-returns-value]
    trainer.step(0, idle=("still",))

    torch.testing.assert_close(seen[0], torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(seen[1], torch.tensor([0.3, 0.4]))
    assert bool(big.any())
    assert not bool(still.any())
    assert big.grad is None


def test_a_gradient_that_is_none_is_named() -> None:
    """The message says which group, which step, and what to do; parameters stay as they were."""
    trainer, weight = _trainer(None)
    weight.grad = torch.tensor([0.0, math.nan, 0.0])

    with pytest.raises(TrainingError, match=r"test, step 3: the gradient of the weights is not a number; lower its"):
        trainer.step(3)
    assert weight.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_named_with_the_checkpoint_kept(value: float, tmp_path: Path) -> None:
    """Step, value and the newest checkpoint are in the message, and the checkpoint is still there."""
    trainer, weight = _trainer(tmp_path)
    _run(trainer, weight, 5, torch.Generator().manual_seed(0))
    trainer.log.rows.append({"step": 5, "loss": value})

    with pytest.raises(TrainingError, match=r"step 5: the loss became .*step-000004\.safetensors, is kept"):
        trainer.watch(5, "loss", 1.0)
    assert (tmp_path / "step-000004.safetensors").is_file()


def test_divergence_is_told_from_noise_and_from_a_bad_start() -> None:
    """Far above both the limit and three times its own best, as a mean of five steps; spikes and high starts pass."""
    trainer, _ = _trainer(None)

    def watched(values: list[float]) -> None:
        trainer.log = TrainingLog()
        for step, value in enumerate(values):
            trainer.log.rows.append({"step": step, "kl": value})
            trainer.watch(step, "kl", 2.0)

    watched([9.0] * 20 + [1.0] * 5)  # a bad start that recovers
    watched([0.1] * 20 + [9.0] + [0.1] * 10)  # one spike: a mean of 1.9
    watched([0.1] * 15 + [1.5] * 10)  # fifteen times its best, but below the limit
    watched([1.0] * 15 + [2.9] * 10)  # above the limit, not three times its best
    with pytest.raises(TrainingError, match=r"step 18: training diverges, kl rose from 0\.500 to 2\.100"):
        watched([0.5] * 15 + [1.0, 2.0, 3.0, 4.0, 4.4])


def test_a_checkpoint_brings_everything_back(tmp_path: Path) -> None:
    """Parameters, moments, generators and log: going on after step 4 gives the last bit of an undisturbed run."""
    torch.manual_seed(5)
    whole, expected = _trainer(None)
    _run(whole, expected, 9, torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    first, weight = _trainer(tmp_path, counts={"seen": torch.zeros(2)})
    first.counts["seen"] = torch.tensor([3.0, 4.0])
    _run(first, weight, 5, torch.Generator().manual_seed(1))
    torch.manual_seed(77)
    second, weight = _trainer(tmp_path)
    _run(second, weight, 9, torch.Generator().manual_seed(99))

    assert torch.equal(weight, expected)
    assert second.log.rows == whole.log.rows
    assert second.counts["seen"].tolist() == [3.0, 4.0]


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    """The newest and the one before it; the last step leaves none, since the result itself follows."""
    trainer, weight = _trainer(tmp_path, steps=8)
    _run(trainer, weight, 8, torch.Generator())

    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000004.safetensors", "step-000006.safetensors"]


def test_checkpoints_of_another_training_are_neither_taken_nor_in_the_way(tmp_path: Path) -> None:
    """A longer run of other settings left later checkpoints behind: ours start at 0, are kept, and are gone on from."""
    other, weight = _trainer(tmp_path, "other")
    _run(other, weight, 12, torch.Generator())
    ours, weight = _trainer(tmp_path, "ours")
    generator = torch.Generator()

    assert ours.resume(generator) == 0
    assert weight.tolist() == [1.0, 1.0, 1.0]
    _run(ours, weight, 5, generator)
    again, _ = _trainer(tmp_path, "ours")
    assert again.resume(generator) == 4
    back, _ = _trainer(tmp_path, "other")
    assert back.resume(generator) == 12


def test_one_device_writes(tmp_path: Path) -> None:
    """The others read the same checkpoints and write none."""
    trainer, weight = _trainer(tmp_path, writes=False)
    _run(trainer, weight, 6, torch.Generator())

    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Same settings, other tensors: named, with what to do."""
    trainer, weight = _trainer(tmp_path)
    _run(trainer, weight, 3, torch.Generator())
    wide = Trainer({"weights": ([nn.Parameter(torch.ones(4))], 0.1)}, 20, "test", tmp_path)

    with pytest.raises(CheckpointError, match=r"step-000002\.safetensors has no tensor weights\.0 of shape \(4,\)"):
        wide.resume(torch.Generator())


@pytest.mark.parametrize("stop", [1, 3, 5])
@pytest.mark.parametrize("choice", [{}, {"unit": "sublayers", "router": "bottleneck", "path": "adapter"}])
@pytest.mark.parametrize("lora_rank", [0, 2])
def test_an_interrupted_skip_tune_ends_bit_for_bit_the_same(
    stop: int, choice: dict[str, str], lora_rank: int, tmp_path: Path
) -> None:
    """Stopped after some steps and gone on with a fresh model: every parameter equal, LoRA merged into the base."""
    config = SkipTuneConfig(steps=6, lora_rank=lora_rank, checkpoint_steps=2, accumulate=2, batch_blocks=2,
                            router_share=0.4, ce_weight=0.1)  # fmt: skip
    options: dict[str, Any] = {"force_critical": True}
    whole = make_skip(**choice)  # type: ignore[arg-type]
    log = skip_tune(whole, _blocks(), config, 3, **options)
    stopped = make_skip(**choice)  # type: ignore[arg-type]
    with pytest.raises(StoppedError):
        skip_tune(stopped, _blocks(), config, 3, progress=_stop_after(stop), checkpoints=tmp_path, **options)
    torch.manual_seed(123)  # whatever ran in between
    resumed, seen = make_skip(**choice), []  # type: ignore[arg-type, var-annotated]
    log_again = skip_tune(resumed, _blocks(), config, 3, checkpoints=tmp_path,
                          progress=lambda done, total: seen.append(done), **options)  # fmt: skip

    assert seen[0] == stop // 2 * 2 + 1
    assert log_again.rows == log.rows
    assert log_again.n_tokens == log.n_tokens
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())
    start = make_skip(**choice).state_dict()  # type: ignore[arg-type]
    moved = [name for name in expected if not torch.equal(expected[name], start[name])]
    assert any("q_proj" in name for name in moved) == bool(lora_rank)
    assert any("router" in name for name in moved)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_an_interrupted_dense_tune_ends_bit_for_bit_the_same(stop: int, tmp_path: Path) -> None:
    """Adam's moments and the matrices come back, and the merged base is the same to the last bit."""
    config = DenseTuneConfig(steps=5, lora_rank=2, checkpoint_steps=1)
    whole, log = dense_tune(make_base(), _blocks(), config, 3)
    with pytest.raises(StoppedError):
        dense_tune(make_base(), _blocks(), config, 3, _stop_after(stop), checkpoints=tmp_path)
    resumed, log_again = dense_tune(make_base(), _blocks(), config, 3, checkpoints=tmp_path)

    assert log_again.rows == log.rows
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [
        {"config": SkipTuneConfig(steps=4, checkpoint_steps=1, batch_blocks=2, density_weight=4.0)},
        {"seed": 4},
        {"blocks": _blocks(seed=1)},
        {"blocks": _blocks().take([1, 0, *range(2, 12)])},
        {"force_critical": False},
        {"model": lambda: make_skip(seed=1)},
        {"model": lambda: make_skip(unit="attention")},
        {"fixed": Fixed(fields={"capacity": 0.5})},
    ],
    ids=["config", "seed", "text", "order of the text", "guards", "weights", "unit", "control"],
)
def test_a_checkpoint_of_another_training_is_not_taken(change: dict[str, Any], tmp_path: Path) -> None:
    """Whatever decides the result is part of a checkpoint's identity; with a change, training starts at step 0."""
    given: dict[str, Any] = {
        "model": make_skip, "blocks": _blocks(), "seed": 3, "force_critical": True,
        "config": SkipTuneConfig(steps=4, checkpoint_steps=1, batch_blocks=2),
    }  # fmt: skip

    def first_step(options: dict[str, Any]) -> int:
        seen: list[int] = []
        model = options["model"]()
        rest = {name: value for name, value in options.items() if name != "model"}
        with pytest.raises(StoppedError):
            skip_tune(model, **rest, checkpoints=tmp_path,
                      progress=lambda done, total: (seen.append(done), _stop_after(3)(done, total)))  # fmt: skip
        return seen[0]

    assert first_step(given) == 1
    assert first_step(given | change) == 1


def test_the_second_training_takes_its_own_checkpoint(tmp_path: Path) -> None:
    """The same call twice, interrupted once: the second starts behind the first's newest checkpoint."""
    config, seen = SkipTuneConfig(steps=4, checkpoint_steps=1, batch_blocks=2), []  # type: ignore[var-annotated]
    with pytest.raises(StoppedError):
        skip_tune(make_skip(), _blocks(), config, 3, force_critical=True, checkpoints=tmp_path, progress=_stop_after(3))
    skip_tune(make_skip(), _blocks(), config, 3, force_critical=True, checkpoints=tmp_path,
              progress=lambda done, total: seen.append(done))  # fmt: skip

    assert seen == [4]
