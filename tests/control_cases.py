"""Settings, text and models that the tests of the controls share."""

from __future__ import annotations

from typing import Any

import torch

from skipmodel.calibrate import calibrate
from skipmodel.config import CalibrateConfig, SkipConfig, SkipTuneConfig
from skipmodel.config_compare import DERIVED, METHODS, REFERENCES, CompareConfig
from skipmodel.controls import Recipe, recipe
from skipmodel.data import Blocks
from skipmodel.evaluate import score_blocks, skip_rate_per_unit
from skipmodel.model import SkipLayerForCausalLM
from tests.tiny import VOCAB, make_base

SKIP = SkipConfig(path_rank=4, always_run_first=1, always_run_last=1, max_layer_damage_nats=1e9)
TUNE = SkipTuneConfig(steps=3, batch_blocks=2, target_skip_rate=0.3)
CONFIG = CompareConfig(skip_rates=(0.1, 0.2, 0.3))
TRAINED = [method for method in METHODS if method not in (*REFERENCES, *DERIVED)]


def blocks(n: int = 16, length: int = 32, seed: int = 0) -> Blocks:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (n, length), generator=generator)
    kinds = (torch.rand(n, length, generator=generator) < 0.1).long()
    names = tuple(f"d{i % 8}" for i in range(n))
    return Blocks(ids, torch.full((n,), length), kinds, torch.ones(n, length).long(), names, ("other", "glossary"))


def made(method: str, skip: SkipConfig = SKIP, tune: SkipTuneConfig = TUNE, config: CompareConfig = CONFIG) -> Recipe:
    found = recipe(method, skip, tune, config)
    assert found is not None
    return found


def calibrated(skip: SkipConfig) -> SkipLayerForCausalLM:
    model = SkipLayerForCausalLM.from_base(make_base(), skip)
    calibrate(model, blocks(), CalibrateConfig(n_tokens=256, damage_tokens=128),
              max_layer_damage_nats=skip.max_layer_damage_nats, target_skip_rate=0.3)  # fmt: skip
    return model


def rates_of(engine: Any, text: Blocks, routing: Any) -> list[float]:
    return skip_rate_per_unit(text, score_blocks(engine, text, routing, force_critical=False))


# --- what each method changes ---------------------------------------------------------------------------------
