"""The controls: what each changes, the masks they promise, thresholds that reach their rates, int8 rounding."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from skipmodel.config import SkipConfig
from skipmodel.config_compare import ABLATIONS, DROPPED, OWN, RIVALS, CompareConfig
from skipmodel.control_routing import (
    build,
)
from skipmodel.controls import DrawnCapacity, NestedDrop, drop_counts, drop_order, fixed_routing, recipe
from skipmodel.errors import ConfigError
from tests.control_cases import CONFIG, SKIP, TRAINED, TUNE, blocks, made
from tests.tiny import N_LAYERS, make_base


@pytest.mark.parametrize("method", TRAINED)
@pytest.mark.parametrize("rank", [0, 4])
def test_every_training_has_the_same_budget(method: str, rank: int) -> None:
    """Steps, blocks, learning rates and teacher are those of the own method; the closed form alone trains nothing."""
    same = ("steps", "batch_blocks", "learning_rate_path", "learning_rate_router", "learning_rate_lora", "kl_weight",
            "ce_weight", "loss_positions", "target_skip_rate")  # fmt: skip
    tune = dataclasses.replace(TUNE, lora_rank=rank)
    found, own = recipe(method, SKIP, tune, CONFIG), made(OWN, tune=tune)

    if found is None:
        assert method == ("lora_on" if rank else "lora_off")
        return
    differing = [name for name in same if getattr(found.tune, name) != getattr(own.tune, name)]
    assert differing == (["steps"] if method == "skiplayer_closed_form" else [])


def test_flags_override_the_budget_of_all() -> None:
    """Steps and blocks come from the comparison where it names them; parts that do not divide a step any more go."""
    config = dataclasses.replace(CONFIG, steps=7, batch_blocks=3)
    tune = dataclasses.replace(TUNE, batch_blocks=4, accumulate=2)

    for method in (OWN, "static_path", "early_exit", "kv_drop"):
        found = made(method, tune=tune, config=config).tune
        assert (found.steps, found.batch_blocks, found.accumulate) == (7, 3, 1)


def test_an_ablation_changes_one_thing() -> None:
    """Everything but the named choice is the own recipe, guards included."""
    own = made(OWN)
    changes = {}
    for method in ABLATIONS:
        found = recipe(method, SKIP, TUNE, CONFIG)
        if found is not None:
            assert found.force_critical
            changes[method] = [
                f.name for part in ("skip", "tune") for f in dataclasses.fields(getattr(own, part))
                if getattr(getattr(found, part), f.name) != getattr(getattr(own, part), f.name)
            ]  # fmt: skip

    assert changes == {
        "path_identity": ["path"], "path_adapter": ["path"], "router_bottleneck": ["router"], "kv_drop": ["kv"],
        "unit_attention": ["unit"], "unit_ffn": ["unit"], "unit_sublayers": ["unit"], "lora_on": ["lora_rank"],
    }  # fmt: skip


def test_what_changes_nothing_or_cannot_be_is_left_out() -> None:
    """A choice that the settings have made already has no row; nor has one that contradicts them."""
    dropping = dataclasses.replace(SKIP, kv="drop", path="adapter")

    assert recipe("kv_drop", dropping, TUNE, CONFIG) is None
    assert recipe("path_adapter", dropping, TUNE, CONFIG) is None
    assert recipe("unit_ffn", dropping, TUNE, CONFIG) is None
    assert recipe("lora_on", SKIP, dataclasses.replace(TUNE, lora_rank=4), CONFIG) is None


@pytest.mark.parametrize("method", [*DROPPED, *RIVALS])
def test_rivals_get_what_they_need(method: str) -> None:
    """Whole layers, none of our guards; LoRA where skipped tokens stay unchanged, and never more of it than we have."""
    found = made(method, dataclasses.replace(SKIP, unit="sublayers", class_margins={"number": 1.0}))

    assert (found.skip.unit, found.skip.class_margins, found.force_critical) == ("layer", {}, False)
    assert found.tune.lora_rank == (0 if method == "static_path" else CONFIG.rival_lora_rank)
    assert made(method, tune=dataclasses.replace(TUNE, lora_rank=4)).tune.lora_rank == 4
    assert found.skip.path == ("linear" if method == "static_path" else "identity")


def test_methods_that_start_alike_share_a_calibration() -> None:
    """One calibration serves all that differ only in router, K/V policy, training or guards."""

    def start(method: str) -> SkipConfig | None:
        return made(method).start

    assert start("static_path") == start("router_bottleneck") == start("kv_drop") == start("lora_on") == start(OWN)
    assert start("mixture_of_depths") == start("linear_router") == start("path_identity") == start("static_identity")
    assert start("truncated") is None


def test_bad_comparisons_are_refused() -> None:
    """Unknown methods are told with the known ones; rates, seeds and steps must make sense."""
    with pytest.raises(ConfigError, match=r"early_exit.*got nothing_like_it"):
        CompareConfig(methods=("skiplayer", "nothing_like_it"))
    for wrong in ({"skip_rates": (0.2, 0.1)}, {"skip_rates": ()}, {"skip_rates": (0.0, 0.1)}, {"seeds": 0},
                  {"steps": -1}, {"batch_blocks": 0}, {"methods": ()}):  # fmt: skip
        with pytest.raises(ConfigError, match=r"compare\."):
            CompareConfig(**wrong)  # type: ignore[arg-type]


def test_only_what_chance_touches_is_repeated() -> None:
    """Deterministic methods are made once, ablations by their own number, never more often than the rest."""
    config = CompareConfig(seeds=3, ablation_seeds=5)

    assert [config.seeds_of(m) for m in ("int8", "skiplayer_closed_form", "static_path", "kv_drop")] == [1, 1, 3, 3]
    assert CompareConfig(seeds=3).seeds_of("kv_drop") == 1


# --- masks ----------------------------------------------------------------------------------------------------


def test_static_drops_are_nested_and_the_same_for_every_token() -> None:
    """A larger number drops the same layers and more; the draw of a step depends on nothing but seed and step."""
    drop = NestedDrop([3, 1, 4], [1, 2, 3], N_LAYERS, seed=5)
    ids = torch.zeros(2, 7, dtype=torch.long)
    dropped = []
    for step in range(40):
        mask = drop(ids, step)
        assert bool((mask == mask[:, :1, :1]).all())
        assert torch.equal(mask, NestedDrop([3, 1, 4], [1, 2, 3], N_LAYERS, seed=5)(ids, step))
        dropped.append(frozenset((~mask[:, 0, 0]).nonzero().flatten().tolist()))

    assert set(dropped) == {frozenset({3}), frozenset({3, 1}), frozenset({3, 1, 4})}
    assert dropped != [
        frozenset((~NestedDrop([3, 1, 4], [1, 2, 3], N_LAYERS, 6)(ids, s)[:, 0, 0]).nonzero().flatten().tolist())
        for s in range(40)
    ]


def test_layers_are_dropped_by_damage_or_from_the_last_but_one() -> None:
    """Static drop takes the cheapest first; truncation keeps the final layer and goes downwards."""
    by_damage = build(make_base(), made("static_identity"), [], None, 0)
    damage = {unit: float((unit * 5) % 7) for unit in by_damage.config.routed_units}
    truncated = build(make_base(), made("truncated"), [], None, 0)

    order = drop_order("static_identity", damage, by_damage)
    assert [damage[unit] for unit in order] == sorted(damage.values())
    assert drop_order("truncated", {}, truncated) == list(range(N_LAYERS - 2, -1, -1))


def test_numbers_of_dropped_layers_surround_the_rates() -> None:
    """Both neighbours of each rate, none twice, none that cannot be dropped."""
    assert drop_counts((0.05, 0.10, 0.20), 30, 25) == [1, 2, 3, 6]
    assert drop_counts((0.05, 0.5), 6, 2) == [1]
    assert drop_counts((0.1,), 30, 0) == []


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_top_k_routing_runs_its_exact_capacity(rate: float) -> None:
    """In training every routed layer runs the same number of tokens of each sequence, guards of first positions off."""
    found = made("mixture_of_depths", dataclasses.replace(SKIP, force_first_positions=0))
    model = build(make_base(), found, [], None, 0)
    model.close_units([unit for unit in model.config.routed_units if unit == 3])
    fixed = fixed_routing(model, found, dataclasses.replace(CONFIG, skip_rates=(rate,)), None)
    assert fixed is not None
    ids = blocks(3).ids_NT
    with model.routing("train", **fixed.fields):
        model(ids)
        ran = [int(gate.sum(1).unique().item()) for gate in model.state.gates_BT.values()]

    n_routed = len(model.config.routed_units)
    assert ran == [round((1 - rate * N_LAYERS / n_routed) * ids.shape[1])] * n_routed


def test_capacity_is_drawn_anew_and_repeatably() -> None:
    """Each pass draws from the listed capacities, from the generator that checkpoints keep."""
    fields = DrawnCapacity([0.5, 0.75])
    torch.manual_seed(3)
    first = [{**fields}["capacity"] for _ in range(30)]
    torch.manual_seed(3)

    assert set(first) == {0.5, 0.75}
    assert [{**fields}["capacity"] for _ in range(30)] == first
    assert (list(fields), len(fields)) == (["capacity"], 1)
    with pytest.raises(KeyError):
        fields["mode"]


def test_rates_beyond_the_routed_units_are_refused() -> None:
    """Top-k routing of two layers cannot skip half of all executions, and says so."""
    found = made("mixture_of_depths")
    model = build(make_base(), found, [], None, 0)
    model.close_units(model.config.routed_units[2:])

    with pytest.raises(ConfigError, match="2 routed units"):
        fixed_routing(model, found, dataclasses.replace(CONFIG, skip_rates=(0.5,)), None)
