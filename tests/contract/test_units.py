"""Oracles of every routed unit, router, skip path and K/V policy, on tiny random models in float32."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from skipmodel.config import SkipConfig
from skipmodel.engine.executor import Engine, Routing
from skipmodel.engine.masked import MaskedEngine, open_engine
from skipmodel.errors import ConfigError
from skipmodel.model import SkipLayerForCausalLM
from tests.tiny import ENGINE_FAMILIES, FAMILIES, N_LAYERS, VOCAB, make_base, make_skip

TOLERANCE = {"atol": 2e-5, "rtol": 1e-5}
WIDER = {"atol": 1e-4, "rtol": 1e-5}
"""For logits of families whose embeddings are scaled up."""
PATHS = ("linear", "adapter", "identity")
ROUTERS = ("calibrated", "bottleneck", "linear")
UNITS = ("layer", "attention", "ffn", "sublayers")
POLICIES = [(unit, kv) for unit in UNITS for kv in ("project", "drop") if (unit, kv) != ("ffn", "drop")]


def _choices() -> Iterator[tuple[str, dict[str, str]]]:
    """Every combination on Llama; every unit and policy of every other family, paths and routers in turn."""
    for (unit, kv), path, router in itertools.product(POLICIES, PATHS, ROUTERS):
        yield "llama", {"unit": unit, "kv": kv, "path": path, "router": router}
    turn = itertools.cycle(itertools.product(PATHS, ROUTERS))
    for family, (unit, kv) in itertools.product(FAMILIES, POLICIES):
        if family != "llama" and not (family == "opt" and unit in {"ffn", "sublayers"}):
            path, router = next(turn)
            yield family, {"unit": unit, "kv": kv, "path": path, "router": router}


CHOICES = list(_choices())
one_per_policy = pytest.mark.parametrize(
    ("family", "choice"),
    [*((family, choice) for family, choice in CHOICES if family != "llama"),
     *(("llama", {"unit": unit, "kv": kv, "path": "adapter", "router": "bottleneck"}) for unit, kv in POLICIES)],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)  # fmt: skip
every_choice = pytest.mark.parametrize(
    ("family", "choice"), CHOICES, ids=lambda value: value if isinstance(value, str) else "-".join(value.values())
)


def tokens(batch: int = 3, length: int = 9, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (batch, length), generator=generator)


def routed(family: str, choice: dict[str, str]) -> SkipLayerForCausalLM:
    """Return a copy of `_routed`, which is made once."""
    return copy.deepcopy(_routed(family, tuple(choice.items())))


@functools.cache
def _routed(family: str, choice: tuple[tuple[str, str], ...]) -> SkipLayerForCausalLM:
    """Return a routed model of which every unit skips about half of the free tokens of `tokens()`.

    Thresholds lie in the middle between two router logits, so that no rounding decides.
    """
    model = make_skip(family, **dict(choice))
    offsets = [0.0] * len(model.units)
    for index, _ in model.routed:  # in order of execution: what earlier units skip changes later logits
        model.config.threshold_offsets = offsets
        model.set_threshold_logit(0.0)
        model(tokens())
        lower, upper = model.state.logits_BT[index][:, 2:].flatten().sort().values[10:12].tolist()
        offsets[index] = (lower + upper) / 2
    model.config.threshold_offsets = offsets
    model.set_threshold(0.5)
    return model


def mask_of(model: SkipLayerForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """Return the decisions of the last pass, all units, (L, B, T)."""
    ran = torch.ones_like(ids, dtype=torch.bool)
    return torch.stack([model.state.gates_BT.get(index, ran) for index in range(len(model.units))])


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@every_choice
def test_threshold_zero_is_the_base_model(family: str, choice: dict[str, str]) -> None:
    """With threshold 0 every unit runs and the logits are the base model's, bit for bit, keys dropped or not."""
    ids = tokens()
    expected = make_base(family)(ids).logits
    model = make_skip(family, **choice)
    model.set_threshold(0.0)

    assert torch.equal(expected, model(ids).logits)
    assert set(model.state.gates_BT) == set(model.config.routed_units)


@every_choice
def test_decisions_from_outside_are_followed_as_those_of_the_routers(family: str, choice: dict[str, str]) -> None:
    """Some tokens skip and some do not; the same decisions given as a mask give the same logits, bit for bit."""
    ids = tokens()
    model = routed(family, choice)
    hard = model(ids).logits
    mask_LBT = mask_of(model, ids)
    skipped = float((~mask_LBT[model.config.routed_units]).float().mean())
    with model.routing("hard", override_mask_LBT=mask_LBT):
        given = model(ids).logits
    with model.routing("hard", override_mask_LBT=torch.ones_like(mask_LBT)):
        everything = model(ids).logits

    assert 0.05 < skipped < 0.9
    assert torch.equal(hard, given)
    assert float((hard - everything).abs().max()) > 1e-3


@one_per_policy
def test_cached_generation_is_uncached_generation(family: str, choice: dict[str, str]) -> None:
    """Greedy search and beams write the same with the K/V cache and without, in a left-padded batch."""
    ids = tokens(2, 7)
    attention_mask = torch.ones_like(ids)
    ids[0, :2], attention_mask[0, :2] = 0, 0
    model = routed(family, choice)
    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False,
                               "attention_mask": attention_mask}  # fmt: skip
    for beams in (1, 3):
        cached = model.generate(ids, use_cache=True, num_beams=beams, **options)

        assert torch.equal(cached, model.generate(ids, use_cache=False, num_beams=beams, **options))
        model(cached[1:])
        assert not bool(mask_of(model, cached[1:]).all())


@one_per_policy
def test_padded_equals_single(family: str, choice: dict[str, str]) -> None:
    """Left padding changes neither decisions nor logits of a text."""
    ids = tokens(2)
    padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], 1)
    attention_mask = torch.ones_like(padded)
    attention_mask[:, :3] = 0
    model = routed(family, choice)
    expected = model(ids).logits
    mask_LBT = mask_of(model, ids)
    logits = model(padded, attention_mask=attention_mask).logits

    assert torch.equal(mask_of(model, padded)[:, :, 3:], mask_LBT)
    torch.testing.assert_close(logits[:, 3:], expected, **TOLERANCE)


@one_per_policy
def test_saved_equals_loaded(family: str, choice: dict[str, str], tmp_path: Path) -> None:
    """A checkpoint brings unit, router, path, policy, offsets and weights back: the same logits, bit for bit."""
    ids = tokens()
    model = routed(family, choice)
    model.set_threshold(0.4)
    model.save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path).eval()

    assert torch.equal(model(ids).logits, loaded(ids).logits)
    assert {name: getattr(loaded.config, name) for name in choice} == choice
    assert loaded.state.threshold_logits == pytest.approx(model.state.threshold_logits)


@one_per_policy
def test_masked_engine_is_the_model(family: str, choice: dict[str, str]) -> None:
    """One pass, two chunks through its cache and single steps all give the logits of `model.forward`."""
    ids, forced = tokens(1, 9), torch.rand(1, 9) > 0.8
    model = routed(family, choice)
    expected = model(ids, force_execute=forced).logits
    mask_LBT = mask_of(model, ids)
    engine = MaskedEngine(model)
    routing = engine.routing(0.0)
    whole = engine.hidden(ids, routing, forced_BT=forced)
    cache = engine.new_cache(1, 9)
    chunks = [engine.hidden(ids[:, part], routing, cache=cache, forced_BT=forced[:, part])
              for part in (slice(0, 4), slice(4, 9))]  # fmt: skip
    cache.rewind(3)
    steps = [engine.step(ids[:, [t]], cache, routing, forced=bool(forced[0, t])) for t in range(3, 9)]

    assert torch.equal(engine.logits(whole.hidden_BTD), expected)
    assert torch.equal(whole.execute_mask_LBT, mask_LBT)
    assert whole.router_logit_LBT.shape == (len(engine.routed_units), 1, 9)
    assert torch.equal(torch.cat([chunk.execute_mask_LBT for chunk in chunks], 2), mask_LBT)
    parts = torch.cat([engine.logits(chunk.hidden_BTD) for chunk in chunks], 1)
    torch.testing.assert_close(parts, expected, **TOLERANCE)
    torch.testing.assert_close(torch.cat([s for s, _ in steps]), expected[0, 3:], **TOLERANCE)
    assert sum(n for _, n in steps) == int((~mask_LBT[:, :, 3:]).sum())


@one_per_policy
def test_masked_engine_runs_dense(family: str, choice: dict[str, str]) -> None:
    """Without routing it is the base model, bit for bit; afterwards the model routes as before."""
    ids = tokens()
    model = routed(family, choice)
    before = model(ids).logits
    engine = MaskedEngine(model)
    dense = engine.hidden(ids)
    nothing = engine.hidden(ids, Routing(float("inf"))).execute_mask_LBT

    assert torch.equal(engine.logits(dense.hidden_BTD), make_base(family)(ids).logits)
    assert dense.execute_mask_LBT is None
    assert nothing is not None
    assert not bool(nothing[model.config.routed_units].any())
    assert torch.equal(model(ids).logits, before)


@one_per_policy
def test_offsets_and_margins_move_the_threshold(family: str, choice: dict[str, str]) -> None:
    """A unit executes iff logit + margin >= threshold + its own offset, in the model and in its engine."""
    ids = tokens()
    model = routed(family, choice)
    model.set_threshold_logit(0.2)
    margin_BT = 3 * torch.randn(ids.shape)
    expected = model(ids, execute_margin=margin_BT).logits
    mask_LBT = mask_of(model, ids)
    logits_BT = dict(model.state.logits_BT)
    engine = open_engine(model)
    out = engine.hidden(ids, engine.routing(0.2), margin_BT=margin_BT)

    for index in model.config.routed_units:
        by_hand = logits_BT[index] + margin_BT >= 0.2 + model.config.threshold_offsets[index]
        by_hand[:, :2] = True
        assert torch.equal(mask_LBT[index], by_hand)
    assert torch.equal(out.execute_mask_LBT, mask_LBT)
    torch.testing.assert_close(engine.logits(out.hidden_BTD), expected, **TOLERANCE)
    assert not torch.equal(mask_LBT, engine.hidden(ids, engine.routing(0.2)).execute_mask_LBT)


@pytest.mark.parametrize("family", ENGINE_FAMILIES)
@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("path", PATHS)
class TestEngine:
    """The gathered and branching engine, for every router and path."""

    def test_gathered_equals_masked(self, family: str, router: str, path: str) -> None:
        """With guards, offsets and margins, gathering gives the reference's decisions, router logits and logits."""
        ids, forced, margin_BT = tokens(), torch.rand(3, 9) > 0.8, torch.randn(3, 9)
        model = make_skip(family, router=router, path=path)
        model.config.threshold_offsets = torch.linspace(-0.5, 0.5, N_LAYERS).tolist()
        model.set_threshold_logit(0.1)
        expected = model(ids, force_execute=forced, execute_margin=margin_BT).logits
        mask_LBT, logits_BT = mask_of(model, ids), dict(model.state.logits_BT)
        engine = open_engine(model)
        out = engine.hidden(ids, engine.routing(0.1), forced_BT=forced, margin_BT=margin_BT)

        assert isinstance(engine, Engine)
        assert torch.equal(out.execute_mask_LBT, mask_LBT)
        torch.testing.assert_close(engine.logits(out.hidden_BTD), expected, **WIDER)
        for row, index in enumerate(engine.routed_units):
            torch.testing.assert_close(out.router_logit_LBT[row], logits_BT[index], **TOLERANCE)

    def test_branch_equals_masked(self, family: str, router: str, path: str) -> None:
        """Token by token, with a margin and a guard of its own for each, the branches give one masked pass."""
        ids, forced, margin_BT = tokens(1), torch.rand(1, 9) > 0.8, torch.randn(1, 9)
        model = make_skip(family, router=router, path=path)
        model.config.threshold_offsets = torch.linspace(-0.5, 0.5, N_LAYERS).tolist()
        model.set_threshold_logit(0.1)
        expected = model(ids, force_execute=forced, execute_margin=margin_BT).logits[0]
        mask_LBT = mask_of(model, ids)
        engine = Engine(model)
        cache = engine.new_cache(1, 9)
        steps = [
            engine.step(ids[:, [t]], cache, engine.routing(0.1), forced=bool(forced[0, t]),
                        margin=float(margin_BT[0, t]))
            for t in range(9)
        ]  # fmt: skip

        torch.testing.assert_close(torch.cat([logits for logits, _ in steps]), expected, **TOLERANCE)
        assert sum(n for _, n in steps) == int((~mask_LBT).sum()) > 0


@pytest.mark.parametrize("unit", ["ffn", "sublayers"])
def test_opt_has_no_feed_forward_part_to_skip(unit: Any) -> None:
    """OPT keeps its two matrices in the layer itself; the message names the family and what works."""
    skip = SkipConfig(unit=unit, always_run_first=1)

    with pytest.raises(ConfigError, match=r"family 'opt' has no ffn module.*unit: layer or attention"):
        SkipLayerForCausalLM.from_base(make_base("opt"), skip)


def test_feed_forward_units_cannot_drop_keys() -> None:
    """Settings and saved configurations alike are refused: with unit ffn every token attends."""
    with pytest.raises(ConfigError, match=r"model\.skip\.kv must be project with model\.skip\.unit: ffn"):
        SkipConfig(unit="ffn", kv="drop")
    config = make_skip(unit="ffn").config
    config.kv = "drop"
    with pytest.raises(ConfigError, match="unit ffn always attends"):
        SkipLayerForCausalLM(config)


def test_only_whole_projecting_layers_have_the_fast_engine() -> None:
    """Everything else opens the masked backend; asking for the fast one says why not."""
    kinds = {(unit, kv): type(open_engine(make_skip(unit=unit, kv=kv))) for unit, kv in POLICIES}

    assert kinds == {policy: Engine if policy == ("layer", "project") else MaskedEngine for policy in POLICIES}
    assert {type(open_engine(make_skip(family))) for family in FAMILIES} == {Engine}
    with pytest.raises(ConfigError, match="unit 'attention' with kv 'drop' has no gathered"):
        Engine(make_skip(unit="attention", kv="drop"))


@pytest.mark.parametrize("unit", UNITS)
def test_a_model_whose_units_are_all_closed_is_dense(unit: str) -> None:
    """With every unit closed both engines run, skip nothing at any threshold, and give the base model's logits."""
    model, ids = make_skip(unit=unit), tokens()
    model.close_units(list(model.config.routed_units))
    expected = make_base()(ids).logits
    engines = [MaskedEngine(model)] + ([Engine(model)] if unit == "layer" else [])

    assert torch.equal(model(ids).logits, expected)
    assert model.n_added_parameters == 0
    for engine in engines:
        out = engine.hidden(ids, engine.routing(float("inf")))
        assert out.router_logit_LBT.shape == (0, *ids.shape)
        assert bool(out.execute_mask_LBT.all())
        torch.testing.assert_close(engine.logits(out.hidden_BTD), expected, **TOLERANCE)
