"""Oracles: what must hold whatever the weights are, for every family, in float32 and bfloat16."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.cache_utils import DynamicCache

from skipmodel.engine.executor import Engine, Routing
from skipmodel.families import FAMILIES as TABLE
from skipmodel.families import decoder_layers, sublayer
from skipmodel.model import SkipLayerForCausalLM
from skipmodel.router import normalise
from tests.tiny import ENGINE_FAMILIES, FAMILIES, VOCAB, make_base, make_skip

TOLERANCE = 2e-5
"""Largest difference between engine and reference in float32, as a share of the spread of the logits or of 1."""


def assert_near(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Hold logits against the reference."""
    torch.testing.assert_close(got, expected, atol=TOLERANCE * max(1.0, float(expected.std())), rtol=0)


@dataclass(frozen=True)
class Limit:
    """How far apart two ways to compute the same may lie, as shares of the standard deviation of the values.

    Decisions are fixed from outside where values are compared, since one that falls otherwise changes all that
    comes after it. What the routers would have decided is compared by their logits and by the count of flips.
    """

    worst: float
    """Of the largest difference of logits and router logits."""
    rms: float
    """Of the root mean square difference."""
    flips: float
    """Share of decisions that would fall otherwise; by `worst` only those next to the threshold can."""


LIMITS = {torch.float32: Limit(5e-5, 1e-5, 0.0), torch.bfloat16: Limit(0.15, 0.02, 0.02)}
"""bfloat16 has 8 bits: its rounding is 0.4 % of a value, and six layers of it add up. Measured: 8.5e-6, 1.1e-6, 0 and
0.07, 0.01, 0.01. One wrong decision in a text is beyond them, in either format."""
FOLDED = Limit(0.3, 0.04, 0.02)
"""The engine in bfloat16 folds norms into matrices, so all weights are rounded anew. Measured: 0.16, 0.025, 0.01."""

VARIANTS: dict[str, tuple[torch.dtype, dict[str, str]]] = {
    "float32": (torch.float32, {}),
    "bfloat16": (torch.bfloat16, {}),
    "bfloat16-sublayers": (torch.bfloat16, {"unit": "sublayers"}),
    "bfloat16-drop": (torch.bfloat16, {"kv": "drop"}),
}
"""More units and policies, in float32: test_units.py."""


def tokens(batch: int = 3, length: int = 9, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCAB, (batch, length), generator=generator)


@dataclass(frozen=True)
class Outcome:
    """What a pass computed: vocabulary logits, router logits of routed units, decisions of all units."""

    logits: torch.Tensor
    """(B, T, V)."""
    router: torch.Tensor
    """(L, B, T)."""
    mask: torch.Tensor
    """(L, B, T)."""

    def tail(self, n_left_out: int) -> Outcome:
        """Leave out the first positions."""
        return Outcome(self.logits[:, n_left_out:], self.router[:, :, n_left_out:],
                       self.mask[:, :, n_left_out:])  # fmt: skip


def run(
    model: SkipLayerForCausalLM, ids: torch.Tensor, mask_LBT: torch.Tensor | None = None, **options: Any
) -> Outcome:
    """Pass over the tokens with the routers' decisions, or with those of `mask_LBT`."""
    with model.routing("hard", override_mask_LBT=mask_LBT):
        logits_BTV = model(ids, **options).logits
    ran_BT = torch.ones_like(ids, dtype=torch.bool)
    masks = [model.state.gates_BT.get(index, ran_BT) for index in range(len(model.units))]
    router = [model.state.logits_BT[index] for index, _ in model.routed]
    return Outcome(logits_BTV, torch.stack(router), torch.stack(masks))


def join(parts: list[Outcome], dim: int) -> Outcome:
    """Put outcomes together along batch (0) or time (1)."""
    return Outcome(
        torch.cat([part.logits for part in parts], dim),
        torch.cat([part.router for part in parts], dim + 1),
        torch.cat([part.mask for part in parts], dim + 1),
    )


def assert_same(model: SkipLayerForCausalLM, got: Outcome, expected: Outcome, limit: Limit | None = None) -> None:
    """Hold two outcomes against the limits of the model's number format, or others."""
    limit = limit or LIMITS[model.dtype]
    for values, reference in ((got.logits, expected.logits), (got.router, expected.router)):
        difference, spread = (values.float() - reference.float()), float(reference.float().std())
        assert float(difference.abs().max()) <= limit.worst * spread
        assert float(difference.square().mean().sqrt()) <= limit.rms * spread
    threshold = model.state.threshold_logits[0]
    flips = (got.router >= threshold) != (expected.router >= threshold)
    assert float(flips.float().mean()) <= limit.flips


def cast_to(dtype: torch.dtype, model: Any) -> Any:
    """Turn the parameters into a number format as `from_pretrained` does: neither routers nor rotary tables."""
    for name, parameter in model.named_parameters():
        if ".router." not in name:
            parameter.data = parameter.data.to(dtype)
    return model


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def model(family: str, variant: str) -> SkipLayerForCausalLM:
    """A routed model of which about half of the free tokens of `tokens()` skip a unit."""
    dtype, choice = VARIANTS[variant]
    if family == "opt" and choice.get("unit") == "sublayers":
        choice = {"unit": "attention"}  # it has no feed-forward module
    model = cast_to(dtype, make_skip(family, **choice))
    free = run(model, tokens()).router[:, :, 2:].flatten().sort().values
    model.set_threshold_logit(float(free[len(free) // 2 - 1 : len(free) // 2 + 1].mean()))
    return model


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("family", FAMILIES)
class TestEveryFamily:
    """The masked reference, for every supported family."""

    def test_threshold_zero_is_the_base_model(self, model: SkipLayerForCausalLM, family: str) -> None:
        """With threshold 0 every unit runs and the logits are the base model's, bit for bit."""
        expected = cast_to(model.dtype, make_base(family))(tokens()).logits
        model.set_threshold(0.0)
        outcome = run(model, tokens())

        assert bool(outcome.mask.all())
        assert torch.equal(expected, outcome.logits)

    def test_cached_equals_uncached(self, model: SkipLayerForCausalLM) -> None:
        """A few tokens, then one at a time through the K/V cache, give what one pass over the text gives."""
        ids = tokens()
        whole = run(model, ids)
        cache = DynamicCache(config=model.config)
        bounds = [0, 4, *range(5, ids.shape[1] + 1)]
        parts = [
            run(model, ids[:, start:end], whole.mask[:, :, start:end], past_key_values=cache, use_cache=True)
            for start, end in itertools.pairwise(bounds)
        ]

        assert_same(model, join(parts, 1), whole)

    def test_padded_equals_single(self, model: SkipLayerForCausalLM) -> None:
        """Left padding changes neither routing nor logits of a text."""
        ids = tokens(2)
        whole = run(model, ids)
        padded = torch.cat([torch.zeros(2, 3, dtype=torch.long), ids], 1)
        attention_mask = torch.ones_like(padded)
        attention_mask[:, :3] = 0
        mask_LBT = torch.cat([torch.zeros_like(whole.mask[:, :, :3]), whole.mask], 2)

        assert_same(model, run(model, padded, mask_LBT, attention_mask=attention_mask).tail(3), whole)

    def test_batched_equals_single(self, model: SkipLayerForCausalLM) -> None:
        """A text is routed as if it were alone, whatever stands beside it in the batch."""
        ids = tokens()
        whole = run(model, ids)
        single = [run(model, ids[[row]], whole.mask[:, [row]]) for row in range(len(ids))]

        assert_same(model, join(single, 0), whole)

    def test_saved_equals_loaded(self, model: SkipLayerForCausalLM, tmp_path: Path) -> None:
        """A checkpoint loads in its number format, routers in float32: the same decisions and logits, bit for bit."""
        model.save_pretrained(tmp_path)
        loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").eval()
        loaded.set_threshold_logit(model.state.threshold_logits[0])
        before, after = run(model, tokens()), run(loaded, tokens())

        assert loaded.dtype == model.dtype
        assert {p.dtype for _, unit in loaded.routed for p in unit.router.parameters()} == {torch.float32}
        assert torch.equal(before.mask, after.mask)
        assert torch.equal(before.logits, after.logits)
        torch.testing.assert_close(before.router, after.router, atol=2e-6, rtol=0)  # sums depend on alignment


def masked_by_hand(model: SkipLayerForCausalLM, base: nn.Module, ids: torch.Tensor, mask_LBT: torch.Tensor) -> Any:
    """Logits of the plain base model when hooks put the skip path's output in the place of skipped rows."""
    parts: dict[str, tuple[str, ...]] = {"layer": (), "sublayers": ("attention", "ffn"), "attention": ("attention",)}
    names = parts[model.config.unit]
    layers = decoder_layers(base)
    units = [sublayer(base, layer, name) for layer in layers for name in names] if names else list(layers)

    def hook_of(index: int, path: nn.Module) -> Any:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            input_BTD = args[0] if args else kwargs["hidden_states"]
            skipped_BTD = path(normalise(input_BTD)) + (0.0 if names else input_BTD)
            run_BTD = output if isinstance(output, torch.Tensor) else output[0]
            mixed_BTD = torch.where(mask_LBT[index][..., None], run_BTD, skipped_BTD)
            return mixed_BTD if isinstance(output, torch.Tensor) else (mixed_BTD, *output[1:])

        return hook

    for index, unit in model.routed:
        units[index].register_forward_hook(hook_of(index, unit.skip_path), with_kwargs=True)
    return base(ids).logits


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "drop" not in name])
@pytest.mark.parametrize("family", FAMILIES)
def test_hard_skipping_equals_masked_execution(model: SkipLayerForCausalLM, family: str) -> None:
    """Decisions by threshold give what the base gives with skipped rows replaced by hand, bit for bit."""
    base = cast_to(model.dtype, make_base(family))
    everything = base(tokens()).logits
    hard = run(model, tokens())
    skipped = float((~hard.mask[model.config.routed_units]).float().mean())

    assert 0.2 < skipped < 0.6
    assert float((hard.logits - everything).abs().max()) > 0.1
    assert torch.equal(hard.logits, masked_by_hand(model, base, tokens(), hard.mask))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_named_parts_are_attention_and_feed_forward(family: str) -> None:
    """The table's names lead to modules of every layer: one holds all that attends, the other makes no cache."""
    base, facts = make_base(family), TABLE[family]
    for layer in decoder_layers(base):
        parts = dict(layer.named_children())

        assert hasattr(parts[facts.attention], "layer_idx")
        assert facts.ffn is None or (facts.ffn in parts and not hasattr(parts[facts.ffn], "layer_idx"))
        assert sublayer(base, layer, "attention") is parts[facts.attention]
        assert (facts.ffn is None) == ({"fc1", "fc2"} <= set(parts))
    assert set(TABLE) == set(FAMILIES)


@pytest.mark.parametrize("family", ENGINE_FAMILIES)
@pytest.mark.parametrize("path", ["linear", "adapter", "identity"])
class TestEngineInBfloat16:
    """The engine, which folds norms into matrices and so rounds elsewhere, within the limits of bfloat16."""

    @pytest.fixture
    def model(self, family: str, path: str) -> SkipLayerForCausalLM:
        """A routed model in bfloat16."""
        return cast_to(torch.bfloat16, make_skip(family, path=path))

    def test_gathered_equals_masked(self, model: SkipLayerForCausalLM) -> None:
        """For given decisions logits and router logits are those of the masked reference; few would flip."""
        expected = run(model, tokens())
        engine = Engine(model)
        out = engine.hidden(tokens(), Routing(force_first_positions=2, override_mask_LBT=expected.mask))
        mask_LBT = out.execute_mask_LBT

        assert mask_LBT is not None
        assert torch.equal(mask_LBT, expected.mask)
        assert_same(model, Outcome(engine.logits(out.hidden_BTD), out.router_logit_LBT, mask_LBT), expected, FOLDED)

    def test_branch_equals_gathered(self, model: SkipLayerForCausalLM) -> None:
        """Token by token with given decisions, whole layers left out, the logits are those of one pass."""
        ids = tokens(1)
        expected = run(model, ids)
        engine = Engine(model)
        cache = engine.new_cache(1, ids.shape[1])
        steps = [
            engine.step(ids[:, [t]], cache, engine.routing(0.0), execute_L=expected.mask[:, 0, t].tolist())
            for t in range(ids.shape[1])
        ]
        logits_BTV = torch.cat([logits for logits, _ in steps])[None]

        assert_same(model, Outcome(logits_BTV, expected.router, expected.mask), expected, FOLDED)
        assert sum(n for _, n in steps) == int((~expected.mask).sum()) > 0


@pytest.mark.parametrize("family", ENGINE_FAMILIES)
@pytest.mark.parametrize("path", ["linear", "identity"])
class TestEngine:
    """The engine computes what the masked reference computes."""

    def test_dense(self, family: str, path: str) -> None:
        """Without routing the engine is the base model."""
        ids = tokens()
        engine = Engine(make_skip(family, path=path))

        assert_near(engine.logits(engine.hidden(ids).hidden_BTD), make_base(family)(ids).logits)

    def test_gathered_equals_masked(self, family: str, path: str) -> None:
        """Computing executed rows only gives the logits and decisions of computing everything."""
        ids, forced = tokens(), torch.rand(3, 9) > 0.8
        model = make_skip(family, path=path)
        expected = model(ids, force_execute=forced).logits
        masks = {index: gate.clone() for index, gate in model.state.gates_BT.items()}
        engine = Engine(model)
        out = engine.hidden(ids, engine.routing(0.0), forced_BT=forced)

        assert_near(engine.logits(out.hidden_BTD), expected)
        assert out.execute_mask_LBT is not None
        for index, mask in masks.items():
            assert torch.equal(mask, out.execute_mask_LBT[index])

    def test_branch_equals_masked(self, family: str, path: str) -> None:
        """Decoding token by token, skipping whole layers, gives the same logits as one masked pass."""
        ids = tokens(1)
        model = make_skip(family, path=path)
        engine = Engine(model)
        cache = engine.new_cache(1, ids.shape[1])
        steps = [engine.step(ids[:, t : t + 1], cache, engine.routing(0.0)) for t in range(ids.shape[1])]

        assert_near(torch.cat([logits for logits, _ in steps]), model(ids).logits[0])
        assert sum(n for _, n in steps) > 0

    def test_chunked_equals_whole(self, family: str, path: str) -> None:
        """A text read in two chunks through the cache gives what one pass gives, batches included."""
        ids = tokens()
        engine = Engine(make_skip(family, path=path))
        whole = engine.hidden(ids, engine.routing(0.0)).hidden_BTD
        cache = engine.new_cache(3, 9)
        parts = [engine.hidden(part, engine.routing(0.0), cache=cache).hidden_BTD for part in (ids[:, :4], ids[:, 4:])]

        assert_near(torch.cat(parts, 1), whole)


def test_infinite_thresholds_are_the_ends() -> None:
    """-inf executes everything, +inf nothing but the guarded first positions."""
    engine = Engine(make_skip())
    everything = engine.hidden(tokens(), engine.routing(float("-inf"))).execute_mask_LBT
    nothing = engine.hidden(tokens(), engine.routing(float("inf"))).execute_mask_LBT

    assert everything is not None
    assert nothing is not None
    assert bool(everything.all())
    assert not bool(nothing[engine.routed_units][:, :, engine.force_first_positions :].any())
    assert bool(nothing[:, :, : engine.force_first_positions].all())


def test_all_executed_through_gathering_is_dense() -> None:
    """Routing that skips nothing gives the dense result: gathering itself changes nothing."""
    engine, ids = Engine(make_skip()), tokens()

    assert_near(engine.hidden(ids, Routing()).hidden_BTD, engine.hidden(ids).hidden_BTD)


def test_many_rows_are_rounded_up_and_change_nothing() -> None:
    """Where rows are repeated to a round number, in one sequence and in several, the result is the masked one."""
    for batch in (1, 2):
        ids, model = tokens(batch, 150), make_skip()
        mask_LBT = torch.rand(6, batch, 150, generator=torch.Generator().manual_seed(8)) > 0.3
        mask_LBT[:, :, :2] = True
        expected = run(model, ids, mask_LBT)
        engine = Engine(model)
        n_rows = {int(mask_LBT[index].sum()) % 16 for index in engine.routed_units}
        out = engine.hidden(ids, Routing(force_first_positions=2, override_mask_LBT=mask_LBT))

        assert n_rows != {0}
        assert_near(engine.logits(out.hidden_BTD), expected.logits)
