"""The rough estimate of time and disk."""

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save_file

from flows.estimate import GPU_FLOPS, estimate, machine_flops, n_parameters, token_passes
from flows.settings import read_profiles
from skipmodel.config import BaseConfig, ModelConfig
from skipmodel.config_json import from_json

SAMPLE_PARAMETERS = 134_515_008
MEASURED_FLOPS = 1.3e11


def test_the_sample_is_estimated_within_a_factor_of_two():
    """The committed benchmark of the sample took 633 s in the stages that run the model."""
    hours = estimate(ModelConfig(), SAMPLE_PARAMETERS, MEASURED_FLOPS, 1.4e6).hours

    assert 633 / 2 < hours * 3600 < 633 * 2


@pytest.mark.parametrize(("profile", "low", "high"), [("standard", 0.4, 2.0), ("full", 4.0, 14.0)])
def test_profiles_take_what_they_promise_on_a_gpu(profile, low, high):
    """Standard is an hour or two, full a night."""
    config = from_json(read_profiles()[profile])

    assert low < estimate(config, SAMPLE_PARAMETERS, GPU_FLOPS, 0).hours < high


def test_more_of_anything_takes_longer():
    """Every budget counts."""
    config = ModelConfig()
    larger = [
        replace(config, dense_tune=replace(config.dense_tune, steps=100)),
        replace(config, skip_tune=replace(config.skip_tune, steps=100)),
        replace(config, calibrate=replace(config.calibrate, n_tokens=10**6)),
        replace(config, sweep=replace(config.sweep, test_items=10**4)),
        replace(config, sweep=replace(config.sweep, validation_tokens=10**6)),
        replace(config, insight=replace(config.insight, blocks=100)),
    ]

    assert all(token_passes(other) > token_passes(config) for other in larger)


def test_disk_counts_models_and_text():
    """Three models in the format of the settings, and three times the text."""
    small = estimate(ModelConfig(base=BaseConfig(dtype="bfloat16")), 10**9, 1e12, 0).disk_gb
    large = estimate(ModelConfig(base=BaseConfig(dtype="float32")), 10**9, 1e12, 1e9).disk_gb

    assert small == pytest.approx(6.5)
    assert large == pytest.approx(15.5)


def test_weights_are_counted_without_loading(tmp_path):
    """All files of a folder count; of a hub id nothing is known, and then nothing is told."""
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float32)}, tmp_path / "m1.safetensors")
    save_file({"c": np.zeros((2, 2), np.float32)}, tmp_path / "m2.safetensors")

    assert n_parameters(str(tmp_path)) == 21
    assert n_parameters("someone/model") is None
    assert n_parameters("package:no-such-package") is None
    assert estimate(ModelConfig(), None, 1e12, 1e9).hours is None


def test_speed_of_a_cpu_is_measured():
    """A machine that runs at all does a million operations a second."""
    assert machine_flops(cuda=False) > 1e6
    assert machine_flops(cuda=True) == GPU_FLOPS
