"""Calibration and both training loops on a tiny model: they must do what they say, in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from skipmodel.calibrate import calibrate
from skipmodel.config import CalibrateConfig, DenseTuneConfig, SkipConfig, SkipTuneConfig
from skipmodel.data import Blocks
from skipmodel.engine.executor import Engine
from skipmodel.errors import CheckpointError, ConfigError, DataError, TrainingError
from skipmodel.evaluate import score_blocks, skip_rate_per_layer
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


def fresh(path: str = "linear") -> SkipLayerForCausalLM:
    skip = SkipConfig(path=path, path_rank=8, always_run_first=1, always_run_last=1)  # type: ignore[arg-type]
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
    linear = calibrate(fresh("linear"), blocks(), config, **options)  # type: ignore[arg-type]
    identity = calibrate(fresh("identity"), blocks(), config, **options)  # type: ignore[arg-type]

    assert sum(linear.damage_nats) < sum(identity.damage_nats)


def test_calibrated_router_meets_its_target() -> None:
    """On the calibration text, threshold 0.5 skips about the target share of all layer executions."""
    model = calibrated(target=0.3)
    model.set_threshold(0.5)
    engine = Engine(model)
    rates = skip_rate_per_layer(blocks(), score_blocks(engine, blocks(), engine.routing(0.0), force_critical=False))

    assert sum(rates) / len(rates) == pytest.approx(0.3, abs=0.06)


def test_damaging_layers_are_closed() -> None:
    """Layers above the limit lose router and path; when none is left the message says what to do."""
    report = calibrate(fresh(), blocks(), CalibrateConfig(n_tokens=256, damage_tokens=128),
                       max_layer_damage_nats=1e9, target_skip_rate=0.2)  # fmt: skip
    limit = sorted(report.damage_nats)[2]
    model = fresh()
    second = calibrate(model, blocks(), CalibrateConfig(n_tokens=256, damage_tokens=128),
                       max_layer_damage_nats=limit + 1e-9, target_skip_rate=0.2)  # fmt: skip

    assert len(second.closed_layers) == 1
    assert "router" not in model.layers[second.closed_layers[0]]._modules
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


def test_collapsed_routers_are_named() -> None:
    """Routers that skip nothing at the end of training are refused, not reported as a result."""
    model = calibrated()
    with torch.no_grad():
        for _, layer in model.routed:
            layer.router.bias.fill_(50.0)

    with pytest.raises(TrainingError, match="collapsed"):
        skip_tune(model, blocks(), SkipTuneConfig(steps=3), 0, force_critical=False)


def test_thresholds_reach_their_targets_on_held_out_text() -> None:
    """Each threshold skips about what it is named after, guards included, and they rise."""
    model, held_out = calibrated(), blocks(16, seed=5)
    engine = Engine(model)
    logits = thresholds_for(engine, held_out, (0.05, 0.15, 0.25), force_critical=True)
    measured = []
    for logit in logits:
        scores = score_blocks(engine, held_out, engine.routing(logit), force_critical=True)
        rates = skip_rate_per_layer(held_out, scores)
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
    other.close_layers([2])
    with pytest.raises(CheckpointError, match="does not fit"):
        other.load_routing(tmp_path / "r.safetensors")
