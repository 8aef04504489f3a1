"""Levels: one scalar from dense to everything, nested, saved with the model; damage moves skips between units."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from skipmodel.data import Blocks
from skipmodel.engine.executor import Engine
from skipmodel.engine.masked import MaskedEngine
from skipmodel.errors import ConfigError, DataError
from skipmodel.gate import level_to_logit
from skipmodel.levels import apply_levels, calibrate_levels
from tests.tiny import VOCAB, make_skip


def blocks(n: int = 12, length: int = 24, critical_share: float = 0.2) -> Blocks:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, VOCAB, (n, length), generator=generator)
    kinds = (torch.rand(n, length, generator=generator) < critical_share).long()
    names = tuple(f"d{i % 4}" for i in range(n))
    return Blocks(ids, torch.full((n,), length), kinds, torch.ones(n, length).long(), names, ("other", "glossary"))


def mask_at(engine: Engine, level_logits: tuple[float, ...], level: float) -> torch.Tensor:
    ids = blocks().ids_NT
    mask = engine.hidden(ids, engine.routing(level_to_logit(level_logits, level))).execute_mask_LBT
    assert mask is not None
    return mask


@given(
    inner=st.lists(st.floats(-20, 20), min_size=1, max_size=30).map(sorted),
    levels=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_thresholds_rise_with_the_level(inner: list[float], levels: tuple[float, float]) -> None:
    """Whatever was calibrated, a higher level never has a lower threshold, and the ends are dense and everything."""
    low, high = sorted(levels)

    assert level_to_logit(inner, low) <= level_to_logit(inner, high) + 1e-9
    assert (level_to_logit(inner, 0.0), level_to_logit(inner, 1.0)) == (-math.inf, math.inf)


def test_a_level_skips_its_share_of_what_may_skip() -> None:
    """On the calibration text, level 0.5 lets about half of the free executions of the first routed layer skip."""
    model = make_skip()
    engine = Engine(model)
    levels = calibrate_levels(engine, blocks(), force_critical=False)
    apply_levels(model, levels)
    engine = Engine(model)
    first = engine.force_first_positions
    skipped = ~mask_at(engine, levels.level_logits, 0.5)[engine.routed_units, :, first:]

    assert float(skipped.float().mean()) == pytest.approx(0.5, abs=0.15)
    assert bool(mask_at(engine, levels.level_logits, 0.0).all())
    assert not bool(mask_at(engine, levels.level_logits, 1.0)[engine.routed_units, :, first:].any())


def test_levels_are_nested_in_the_first_routed_layer() -> None:
    """On the same inputs a higher level never executes what a lower level skips."""
    model = make_skip()
    levels = calibrate_levels(Engine(model), blocks(), force_critical=True, reference_skip_rate=0.2)
    apply_levels(model, levels)
    engine = Engine(model)
    unit = engine.routed_units[0]  # the only routed layer whose inputs do not depend on the level
    masks = [mask_at(engine, levels.level_logits, level / 10)[unit] for level in range(11)]

    for lower, higher in itertools.pairwise(masks):
        assert not bool((higher & ~lower).any())


def test_damage_moves_skips_away_from_the_costly_unit() -> None:
    """A unit whose skip path ruins the output gets a lower threshold than the others."""
    model = make_skip()
    costly = model.config.routed_units[1]
    with torch.no_grad():
        for unit, module in model.routed:
            module.router.bias.zero_()
            for parameter in module.skip_path.parameters():
                parameter.mul_(40.0 if unit == costly else 0.01)
    levels = calibrate_levels(Engine(model), blocks(), force_critical=False, reference_skip_rate=0.3)
    others = [levels.offsets[unit] for unit in model.config.routed_units if unit != costly]

    assert levels.damage_nats is not None
    assert levels.offsets[costly] < min(others)
    assert all(levels.offsets[unit] == 0 for unit in range(len(model.units)) if unit not in model.config.routed_units)


def test_levels_are_saved_with_the_model_and_both_engines_follow(tmp_path: Path) -> None:
    """A loaded checkpoint has the same levels; gathered and masked execution decide alike under offsets."""
    model = make_skip()
    apply_levels(model, calibrate_levels(Engine(model), blocks(), force_critical=False, reference_skip_rate=0.2))
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    logit = level_to_logit(loaded.config.level_logits, 0.4)
    ids = blocks().ids_NT
    gathered, masked = Engine(loaded), MaskedEngine(loaded)
    expected = gathered.hidden(ids, gathered.routing(logit)).execute_mask_LBT
    got = masked.hidden(ids, masked.routing(logit)).execute_mask_LBT
    loaded.set_level(0.4)
    with torch.no_grad():
        loaded(ids)

    assert list(loaded.config.level_logits) == pytest.approx(model.config.level_logits)
    assert expected is not None
    assert got is not None
    assert torch.equal(expected, got)
    for unit, gate in loaded.state.gates_BT.items():
        assert torch.equal(gate, expected[unit])


def test_levels_that_cannot_be_are_refused() -> None:
    """A model without levels, a level outside [0, 1] and a text without free tokens each say what to do."""
    with pytest.raises(ConfigError, match="calibrate them"):
        make_skip().set_level(0.5)
    with pytest.raises(ConfigError, match="within 0"):
        level_to_logit([0.0], 1.5)
    with pytest.raises(DataError, match="free to skip"):
        calibrate_levels(Engine(make_skip()), blocks(critical_share=1.1), force_critical=True)
