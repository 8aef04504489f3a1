"""Routing of the controls: starts, exits, thresholds that reach their rates, healing, int8 rounding."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skipmodel.calibrate import unit_damage
from skipmodel.config_compare import DROPPED, OWN, RIVALS
from skipmodel.control_routing import (
    build,
    cumulative_cut,
    exit_damage,
    open_routed,
    random_routing,
    routing_at,
    start_exits,
    unit_cuts,
)
from skipmodel.controls import NestedDrop, fixed_routing
from skipmodel.engine.masked import MaskedEngine
from skipmodel.evaluate import score_blocks, skip_rate_per_unit
from skipmodel.int8 import quantise, round_to_int8
from skipmodel.train import skip_tune
from tests.control_cases import CONFIG, SKIP, TUNE, blocks, calibrated, made, rates_of
from tests.tiny import N_LAYERS, make_base, make_skip


def test_who_leaves_stays_out() -> None:
    """Early exit is cumulative: a token that skips a unit skips all later ones, in training too; guards stay inside."""
    found = made("early_exit")
    model = build(make_base(), found, [], None, 0)
    for _, unit in model.routed:
        nn.init.normal_(unit.router.weight, std=0.5)
        unit.router.bias.data.fill_(1.0)
    fixed_routing(model, found, CONFIG, None)
    text = blocks(4)
    forced = text.critical_NT
    engine = open_routed(model, found)
    hard = engine.hidden(text.ids_NT, engine.routing(0.0), forced_BT=forced).execute_mask_LBT
    with model.routing("train", gumbel_scale=0.5):
        model(text.ids_NT, force_execute=forced)
        trained = torch.stack(list(model.state.gates_BT.values())) > 0.5

    assert hard is not None
    for mask in (hard[model.config.routed_units], trained):
        ran = mask.int()
        assert bool((ran.diff(dim=0) <= 0).all())
        assert 0.05 < 1 - float(ran.float().mean()) < 0.95
        assert bool(mask[:, forced].all())
        assert bool(mask[:, :, :2].all())


def test_random_decisions_keep_the_rates_and_the_first_positions() -> None:
    """Each unit skips at its own rate over the whole text though first positions never do."""
    text = blocks(64, seed=4)
    routing = random_routing([0.0, 0.2, 0.5, 1.0], text, 2, seed=1)
    mask = routing.override_mask_LBT
    assert mask is not None
    forced = torch.arange(text.ids_NT.shape[1]) < 2
    skipped = (~(mask | forced)).float().mean((1, 2)).tolist()

    assert routing.force_first_positions == 2
    assert skipped == pytest.approx([0.0, 0.2, 0.5, 30 / 32], abs=0.03)


# --- starts and thresholds ------------------------------------------------------------------------------------


def test_a_start_is_taken_over_as_far_as_it_fits(tmp_path: Any) -> None:
    """Paths always, the calibrated router also by a bottleneck, its direction for top-k; closed units are closed."""
    source = calibrated(dataclasses.replace(SKIP, path="linear"))
    source.save_routing(tmp_path / "routing.safetensors")
    kept = source.config.routed_units[1:]
    own = build(make_base(), made(OWN), kept, tmp_path / "routing.safetensors", 0)
    other = build(make_base(), made("router_bottleneck"), kept, tmp_path / "routing.safetensors", 0)
    ranked = dataclasses.replace(made("mixture_of_depths"), skip=dataclasses.replace(SKIP, router="linear"))
    top_k = build(make_base(), ranked, kept, tmp_path / "routing.safetensors", 0)

    for model in (own, other, top_k):
        assert model.config.routed_units == kept
    for unit in kept:
        for model in (own, other, top_k):
            assert torch.equal(model.units[unit].skip_path.down, source.units[unit].skip_path.down)
        assert torch.equal(own.units[unit].router.bias, source.units[unit].router.bias)
        x = torch.randn(3, 32)
        torch.testing.assert_close(other.units[unit].router(x), source.units[unit].router(x), atol=1e-4, rtol=1e-4)
        assert torch.equal(top_k.units[unit].router.weight[1], source.units[unit].router.weight)
        assert not top_k.units[unit].router.weight[0].any()


def test_seeds_change_routers_that_start_from_noise() -> None:
    """The same seed builds the same paper router, another seed another one."""
    weights = [build(make_base(), made("linear_router"), [1, 2], None, seed).routed[0][1].router.weight
               for seed in (0, 0, 1)]  # fmt: skip

    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_exit_damage_is_that_of_skipping_everything_later() -> None:
    """Leaving at the last routed unit costs what skipping it alone does."""
    model = make_skip(path="identity")
    last = model.config.routed_units[-1]

    damage = exit_damage(model, blocks(4), batch_blocks=3)
    assert damage[last] == pytest.approx(unit_damage(model, blocks(4), 3)[last], rel=0.2)
    assert set(damage) == set(model.config.routed_units)


def test_exits_start_at_the_target_rate() -> None:
    """After the closed-form start, leaving at the first logit below 0 skips the target share of the text it saw."""
    model = calibrated(dataclasses.replace(SKIP, path="identity"))
    damage = unit_damage(model, blocks(4), 4)
    before = [unit.router.bias.item() for _, unit in model.routed]
    start_exits(model, blocks(), damage, 0.3)
    engine = open_routed(model, made("early_exit"))

    assert engine.work.skip_rate(rates_of(engine, blocks(), engine.routing(0.0))) == pytest.approx(0.3, abs=0.05)
    assert before != [unit.router.bias.item() for _, unit in model.routed]


@pytest.mark.parametrize("method", ["early_exit", "mixture_of_depths", "linear_router", OWN])
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_thresholds_reach_their_rate(method: str, rate: float) -> None:
    """On the text they are read off, causal thresholds skip about what was asked for."""
    found = made(method)
    model = build(make_base(), found, list(range(N_LAYERS)), None, 0)
    for _, unit in model.routed:
        for name, parameter in unit.router.named_parameters():
            nn.init.normal_(parameter, std=0.5) if name == "weight" else parameter.data.zero_()
    engine = open_routed(model, found)
    text = blocks(32, seed=2)
    routing = routing_at(engine, model, found, text, rate, {})

    assert routing is not None
    assert routing.override_mask_LBT is None
    scores = score_blocks(engine, text, routing, force_critical=found.force_critical)
    per_unit = skip_rate_per_unit(text, scores)
    assert engine.work.skip_rate(per_unit) == pytest.approx(rate, abs=0.03)
    if method == "mixture_of_depths":
        routed = [per_unit[unit] for unit in model.config.routed_units]
        assert routed == pytest.approx([rate * N_LAYERS / len(routed)] * len(routed), abs=0.06)


@pytest.mark.parametrize("method", ["early_exit", "mixture_of_depths", OWN])
def test_rates_that_guards_forbid_are_left_out(method: str) -> None:
    """No routing is given for a rate that the layers which always run make impossible."""
    found = made(method)
    model = build(make_base(), found, list(range(N_LAYERS)), None, 0)

    assert routing_at(open_routed(model, found), model, found, blocks(), 0.95, {}) is None


def test_cuts_of_a_given_text_are_quantiles() -> None:
    """The lowest running minima leave first; every unit of top-k routing gets a cut of its own."""
    model = make_skip(path="identity")
    model.state.is_cumulative = True
    engine, text = MaskedEngine(model), blocks(8)
    cuts = [cumulative_cut(engine, text, rate) for rate in (0.1, 0.2, 0.4)]
    model.state.is_cumulative = False
    offsets = unit_cuts(engine, model, text, 0.25)

    assert all(cut is not None and math.isfinite(cut) for cut in cuts)
    assert cuts == sorted(cuts)  # type: ignore[type-var]
    assert offsets is not None
    assert len({offsets[unit] for unit in model.config.routed_units}) == len(model.config.routed_units)
    assert offsets[0] == offsets[-1] == 0.0


# --- healing --------------------------------------------------------------------------------------------------


def _weights(model: Any, part: str) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if part in name}


def test_healing_dropped_layers_trains_their_paths_alone() -> None:
    """With the base frozen, paths of dropped layers move; routers, other paths and the base do not."""
    found = made("static_path")
    model = calibrated(dataclasses.replace(found.skip, force_first_positions=0))
    before, routers, base = _weights(model, ".skip_path."), _weights(model, ".router."), _weights(model, "mlp")
    drop = NestedDrop([2, 3], [1, 2], N_LAYERS, seed=0)
    skip_tune(model, blocks(), dataclasses.replace(found.tune, steps=4), 0, force_critical=False,
              fixed=fixed_routing(model, found, CONFIG, drop))  # fmt: skip

    moved = {name.split(".")[3] for name, value in _weights(model, ".skip_path.").items()
             if not torch.equal(value, before[name])}  # fmt: skip
    assert moved == {"2", "3"}
    for part, kept in ((".router.", routers), ("mlp", base)):
        assert all(torch.equal(value, kept[name]) for name, value in _weights(model, part).items())


@pytest.mark.parametrize("method", [*DROPPED[1:], *RIVALS])
def test_every_rival_learns(method: str) -> None:
    """Healing changes the base through LoRA, and the routers of those that route, without touching the teacher."""
    found = made(method)
    model = build(make_base(), found, list(range(N_LAYERS)), None, 0)
    drop = NestedDrop([2, 3], [1, 2], N_LAYERS, 0) if found.routing == "dropped" else None
    base, routers = _weights(model, "mlp"), _weights(model, ".router.")
    if found.routing == "cumulative":
        for _, unit in model.routed:
            nn.init.normal_(unit.router.weight, std=0.3)
    log = skip_tune(model, blocks(), found.tune, 0, force_critical=False,
                    fixed=fixed_routing(model, found, CONFIG, drop))  # fmt: skip

    assert len(log.rows) == TUNE.steps
    assert any(not torch.equal(value, base[name]) for name, value in _weights(model, "mlp").items())
    changed = any(not torch.equal(value, routers[name]) for name, value in _weights(model, ".router.").items())
    assert changed == (drop is None)


# --- int8 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_int8_moves_no_weight_by_more_than_half_a_step(seed: int) -> None:
    """Codes fill -127..127 per output channel, and code times scale is within half a step of the weight."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 40, generator=generator) * torch.logspace(-4, 3, 5)[:, None]
    weight[2] = 0.0
    codes, scale = round_to_int8(weight)

    assert codes.dtype == torch.int8
    assert bool(((codes.float() * scale - weight).abs() <= scale * 0.5001).all())
    assert codes.abs().amax(1).tolist() == [127, 127, 0, 127, 127]


@pytest.mark.parametrize(("family", "n_per_layer"), [("llama", 7), ("gpt2", 4)])
def test_int8_rounds_the_decoder_alone_by_output_channel(family: str, n_per_layer: int) -> None:
    """Every linear map of every layer is rounded per output channel; embeddings and norms keep their values."""
    base = make_base(family)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    assert quantise(base) == n_per_layer * N_LAYERS

    changed = {name for name, value in base.state_dict().items() if not torch.equal(value, before[name])}
    assert len(changed) == n_per_layer * N_LAYERS
    for name in changed:
        old, new = before[name], base.state_dict()[name]
        if family == "gpt2":
            old, new = old.T, new.T
        assert bool(((old - new).abs() <= old.abs().amax(1, keepdim=True) / 127 * 0.5001).all()), name
        assert int(max(len(row.unique()) for row in new)) <= 255
