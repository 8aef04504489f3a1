"""Calibration and both training loops on a tiny model: they must do what they say, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from skipmodel import train
from skipmodel.calibrate import calibrate
from skipmodel.config import CalibrateConfig, DenseTuneConfig, SkipConfig, SkipTuneConfig
from skipmodel.data import Blocks
from skipmodel.engine.executor import Engine
from skipmodel.engine.masked import open_engine
from skipmodel.errors import CheckpointError, ConfigError, DataError, TrainingError
from skipmodel.evaluate import score_blocks, skip_rate_per_unit
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.thresholds import thresholds_for
from skipmodel.train import dense_tune, skip_tune
from tests.tiny import VOCAB, make_base


def blocks(n: int = 24, length: int = 32, seed: int = 0, critical_share: float = 0.1) -> Blocks:
    """Text with structure to learn: every token tells the next one, with some noise."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (n, length), generator=generator)
    for t in range(1, length):
        known = torch.rand(n, generator=generator) < 0.9
        ids[:, t] = torch.where(known, (ids[:, t - 1] * 7 + 5) % (VOCAB - 3) + 3, ids[:, t])
    kinds = (torch.rand(n, length, generator=generator) < critical_share).long()
    names = tuple(f"d{i % 8}" for i in range(n))
    return Blocks(ids, torch.full((n,), length), kinds, torch.ones(n, length).long(), names, ("other", "glossary"))


def fresh(path: str = "linear", **choice: Any) -> SkipLayerForCausalLM:
    skip = SkipConfig(path=path, path_rank=8, always_run_first=1, always_run_last=1, **choice)  # type: ignore[arg-type]
    return SkipLayerForCausalLM.from_base(make_base(), skip)


def calibrated(target: float = 0.3) -> SkipLayerForCausalLM:
    model = fresh()
    calibrate(model, blocks(), CalibrateConfig(n_tokens=256, damage_tokens=128), max_layer_damage_nats=1e9,
              target_skip_rate=target)  # fmt: skip
    return model


def test_closed_form_path_beats_identity() -> None:
    """Skipping a whole layer through the fitted path costs less loss than leaving the token unchanged."""
    options = {"max_layer_damage_nats": 1e9, "target_skip_rate": 0.3}
    config = CalibrateConfig(n_tokens=256, damage_tokens=256)
    identity = calibrate(fresh("identity"), blocks(), config, **options)  # type: ignore[arg-type]
    for path in ("linear", "adapter"):
        fitted = calibrate(fresh(path), blocks(), config, **options)  # type: ignore[arg-type]

        assert sum(fitted.damage_nats) < sum(identity.damage_nats)


@pytest.mark.parametrize("choice", [{"unit": "sublayers"}, {"unit": "attention", "kv": "drop"}, {"unit": "ffn"}])
def test_sublayers_are_calibrated_too(choice: dict[str, str]) -> None:
    """Fitted paths cost less than identity, threshold 0.5 meets the target, and routers see the residual coming."""
    options: dict[str, Any] = {"max_layer_damage_nats": 1e9, "target_skip_rate": 0.15}
    config = CalibrateConfig(n_tokens=256, damage_tokens=256)
    identity = calibrate(fresh("identity", **choice), blocks(), config, **options)
    model = fresh(**choice)
    report = calibrate(model, blocks(), config, **options)
    engine = open_engine(model)
    scores = score_blocks(engine, blocks(), engine.routing(0.0), force_critical=False)

    assert report.units == model.config.routed_units
    assert sum(report.damage_nats) < sum(identity.damage_nats)
    assert min(report.router_correlation) > 0.2
    assert model.work.skip_rate(skip_rate_per_unit(blocks(), scores)) == pytest.approx(0.15, abs=0.05)


def test_calibrated_router_meets_its_target() -> None:
    """On the calibration text, threshold 0.5 skips about the target share of all layer executions."""
    model = calibrated(target=0.3)
    model.set_threshold(0.5)
    engine = Engine(model)
    rates = skip_rate_per_unit(blocks(), score_blocks(engine, blocks(), engine.routing(0.0), force_critical=False))

    assert sum(rates) / len(rates) == pytest.approx(0.3, abs=0.06)


def test_damaging_layers_are_closed() -> None:
    """Layers above the limit lose router and path; when none is left the message says what to do."""
    report = calibrate(fresh(), blocks(), CalibrateConfig(n_tokens=256, damage_tokens=128),
                       max_layer_damage_nats=1e9, target_skip_rate=0.2)  # fmt: skip
    limit = sorted(report.damage_nats)[2]
    model = fresh()
    second = calibrate(model, blocks(), CalibrateConfig(n_tokens=256, damage_tokens=128),
                       max_layer_damage_nats=limit + 1e-9, target_skip_rate=0.2)  # fmt: skip

    assert len(second.closed_units) == 1
    assert "router" not in model.layers[second.closed_units[0]]._modules
    if min(report.damage_nats) > 1e-6:
        with pytest.raises(ConfigError, match="max_layer_damage_nats"):
            calibrate(fresh(), blocks(), CalibrateConfig(n_tokens=256, damage_tokens=128),
                      max_layer_damage_nats=1e-6, target_skip_rate=0.2)  # fmt: skip


def test_dense_tune_learns_and_merges() -> None:
    """The loss falls, and the result is a plain model without LoRA modules."""
    tuned, log = dense_tune(make_base(), blocks(), DenseTuneConfig(steps=25, learning_rate=1e-2), seed=0)

    assert log.mean_of("loss", slice(-5, None)) < log.mean_of("loss", slice(0, 5)) - 0.1
    assert not [name for name, _ in tuned.named_parameters() if "lora" in name]
    assert log.n_tokens == 25 * 2 * 32


def test_skip_tune_improves_agreement_and_leaves_the_base_alone() -> None:
    """KL to the teacher falls, the skip rate nears the target, and threshold 0 is still the dense model."""
    model = calibrated()
    ids = blocks().ids_NT[:4]
    before = model(ids).logits
    config = SkipTuneConfig(steps=30, target_skip_rate=0.3, learning_rate_router=5e-3, learning_rate_path=5e-3)
    log = skip_tune(model, blocks(48, seed=1), config, 0, force_critical=True)

    assert log.mean_of("kl", slice(-6, None)) < log.mean_of("kl", slice(0, 6))
    assert log.mean_of("skip_rate", slice(-6, None)) == pytest.approx(0.3, abs=0.1)
    model.set_threshold(0.0)
    assert torch.equal(before, model(ids).logits)


def test_a_number_that_is_none_stops_training() -> None:
    """A loss that is not finite ends in an error that names the step."""
    model = calibrated()
    with torch.no_grad():
        model.routed[0][1].skip_path.bias.fill_(float("nan"))

    with pytest.raises(TrainingError, match="step 0"):
        skip_tune(model, blocks(), SkipTuneConfig(steps=2), 0, force_critical=False)


def test_a_diverging_training_keeps_its_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A learning rate that tears the paths apart in its first steps is named with step and checkpoint."""
    monkeypatch.setattr(train, "DIVERGED_KL_NATS", 0.5)  # the random model's outputs are too flat for more
    losses = {"density_weight": 0.0, "floor": 0.0, "critical_weight": 0.0}
    config = SkipTuneConfig(steps=40, learning_rate_path=1e3, checkpoint_steps=1, **losses)  # type: ignore[arg-type]
    with pytest.raises(
        TrainingError, match=r"step 14: training diverges, loss rose from 0\.2.* checkpoint, step-000014\.safe"
    ):
        skip_tune(calibrated(), blocks(48, seed=1), config, 0, force_critical=True, checkpoints=tmp_path)

    assert max(path.name for path in tmp_path.iterdir()) == "step-000014.safetensors"


@pytest.mark.parametrize(
    ("bias", "options", "message"),
    [
        (50.0, {}, "collapsed to all-execute"),
        (-50.0, {}, "collapsed to all-skip"),
        (0.0, {"gumbel_scale": 1.0, "noise_share": 1.0}, "collapsed to the same rate for every class of token"),
    ],
)
def test_collapsed_routers_are_named(bias: float, options: dict[str, float], message: str) -> None:
    """Routers that skip nothing, everything, or by coin flips at the end are refused, not reported as a result."""
    model = calibrated()
    with torch.no_grad():
        for _, layer in model.routed:
            layer.router.weight.zero_()
            layer.router.bias.fill_(bias)
    config = SkipTuneConfig(steps=3, batch_blocks=40, learning_rate_router=1e-9, **options)  # type: ignore[arg-type]

    with pytest.raises(TrainingError, match=message):
        skip_tune(model, blocks(40), config, 0, force_critical=False)


def test_thresholds_reach_their_targets_on_held_out_text() -> None:
    """Each threshold skips about what it is named after, guards included, and they rise."""
    model, held_out = calibrated(), blocks(16, seed=5)
    engine = Engine(model)
    logits = thresholds_for(engine, held_out, (0.05, 0.15, 0.25), force_critical=True)
    measured = []
    for logit in logits:
        scores = score_blocks(engine, held_out, engine.routing(logit), force_critical=True)
        rates = skip_rate_per_unit(held_out, scores)
        measured.append(sum(rates) / len(rates))

    assert logits == sorted(logits)
    assert measured == pytest.approx([0.05, 0.15, 0.25], abs=0.04)


def test_unreachable_targets_are_left_out_or_refused() -> None:
    """A target beyond what guards leave is dropped; when no target is left, the message says the bound."""
    engine, held_out = Engine(calibrated()), blocks(16, seed=5)

    assert len(thresholds_for(engine, held_out, (0.1, 0.99), force_critical=True)) == 1
    with pytest.raises(DataError, match="cannot be reached"):
        thresholds_for(engine, held_out, (0.99,), force_critical=True)


def test_routing_checkpoint_fits_only_its_model(tmp_path: Path) -> None:
    """Routers and paths go through their own small file; another routed range is refused by name."""
    model = calibrated()
    model.save_routing(tmp_path / "r.safetensors")
    other = fresh()
    other.load_routing(tmp_path / "r.safetensors")
    other.set_threshold(0.5)
    model.set_threshold(0.5)
    ids = blocks().ids_NT[:2]

    assert torch.equal(model(ids).logits, other(ids).logits)
    other.close_units([2])
    with pytest.raises(CheckpointError, match="does not fit"):
        other.load_routing(tmp_path / "r.safetensors")
