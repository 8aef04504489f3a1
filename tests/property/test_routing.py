"""Properties of routing that hold for every pattern."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipmodel.engine.executor import Engine, Routing
from skipmodel.engine.masked import MaskedEngine
from skipmodel.gate import execute_mask, level_to_logit, logit_to_threshold, threshold_to_logit, top_k_gate
from tests.tiny import N_LAYERS, VOCAB, make_skip

MODEL = make_skip()
ENGINE = Engine(MODEL)
BY_POLICY = {
    (unit, kv): make_skip(unit=unit, kv=kv, router="linear")
    for unit, kv in (("layer", "drop"), ("attention", "project"), ("attention", "drop"), ("ffn", "project"),
                     ("sublayers", "project"), ("sublayers", "drop"))
}  # fmt: skip


@st.composite
def patterns(draw: st.DrawFn, n_units: int = N_LAYERS) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, T) and an arbitrary execute mask (L, B, T): all, none, alternating, single, random."""
    batch, length = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (batch, length), generator=generator)
    shape = (n_units, batch, length)
    kind = draw(st.sampled_from(["all", "none", "alternating", "one token", "one layer", "random"]))
    mask = torch.zeros(shape, dtype=torch.bool)
    if kind == "all":
        mask[:] = True
    elif kind == "alternating":
        mask[:, :, ::2] = True
    elif kind == "one token":
        mask[:, batch - 1, length // 2] = True
    elif kind == "one layer":
        mask[n_units // 2] = True
    elif kind == "random":
        mask = torch.rand(shape, generator=generator) < draw(st.floats(0.05, 0.95))
    return ids, mask


@given(patterns())
@settings(max_examples=150, deadline=None)
def test_gathered_equals_masked_for_any_pattern(case: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Whatever is skipped where, gathering gives the logits of the masked reference."""
    ids, mask = case
    with torch.no_grad(), MODEL.routing("hard", override_mask_LBT=mask):
        expected = MODEL(ids).logits
    out = ENGINE.hidden(ids, Routing(force_first_positions=2, override_mask_LBT=mask))

    torch.testing.assert_close(ENGINE.logits(out.hidden_BTD), expected, atol=5e-5, rtol=0)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_threshold_never_executes_more(logits: list[float], first: float, second: float) -> None:
    """For one router on fixed inputs, what runs at the higher threshold runs at the lower one."""
    low, high = sorted((first, second))
    values = torch.tensor([logits])
    at_low = execute_mask(values, threshold_to_logit(low))
    at_high = execute_mask(values, threshold_to_logit(high))

    assert bool((at_high <= at_low).all())


@given(st.floats(0.001, 0.999))
def test_threshold_and_logit_are_inverse(threshold: float) -> None:
    """A threshold survives the way through its logit."""
    assert abs(logit_to_threshold(threshold_to_logit(threshold)) - threshold) < 1e-9


@given(st.sampled_from(sorted(BY_POLICY)), st.data())
@settings(max_examples=80, deadline=None)
def test_any_pattern_through_a_growing_cache_is_one_pass(policy: tuple[str, str], data: st.DataObject) -> None:
    """Whatever skips, keys dropped or kept: cut anywhere, the pieces of a text give the logits of the whole."""
    model = BY_POLICY[policy]
    engine = MaskedEngine(model)
    ids, mask = data.draw(patterns(len(model.units)))
    cut = data.draw(st.integers(0, ids.shape[1]))
    with torch.no_grad(), model.routing("hard", override_mask_LBT=mask):
        expected = model(ids).logits
    cache = engine.new_cache(*ids.shape)
    parts = []
    for part in (slice(0, cut), slice(cut, None)):
        if ids[:, part].shape[1]:
            routing = Routing(force_first_positions=2, override_mask_LBT=mask[:, :, part])
            parts.append(engine.hidden(ids[:, part], routing, cache=cache).hidden_BTD)

    torch.testing.assert_close(engine.logits(torch.cat(parts, 1)), expected, atol=5e-5, rtol=1e-5)


@given(st.sampled_from(sorted(BY_POLICY)), st.floats(-8, 8), st.floats(-8, 8), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_a_margin_is_a_shift_of_the_threshold(
    policy: tuple[str, str], threshold: float, margin: float, seed: int
) -> None:
    """The same margin for every token decides as a threshold lower by as much, up to rounding at the cut."""
    model = BY_POLICY[policy]
    engine = MaskedEngine(model)
    ids = torch.randint(3, VOCAB, (2, 6), generator=torch.Generator().manual_seed(seed))
    given = engine.hidden(ids, engine.routing(threshold), margin_BT=torch.full(ids.shape, margin))
    shifted = engine.hidden(ids, engine.routing(threshold - margin))
    near = (given.router_logit_LBT - (threshold - margin)).abs().min() < 1e-4

    assert bool(near) or torch.equal(given.execute_mask_LBT, shifted.execute_mask_LBT)


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=30, unique=True), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_capacity_executes_all_that_a_smaller_one_does(
    logits: list[float], first: float, second: float
) -> None:
    """Top-k sets are nested, hold the rounded share of the tokens, and never nothing."""
    low, high = sorted((first, second))
    values = torch.tensor([logits], dtype=torch.float64)
    small, large = top_k_gate(values, low) > 0.5, top_k_gate(values, high) > 0.5

    assert bool((small <= large).all())
    assert int(small.sum()) == max(1, round(low * len(logits)))


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_higher_level_never_has_a_lower_threshold(cuts: list[float], first: float, second: float) -> None:
    """Levels are nested: the threshold rises with the level, through the calibrated cuts and at both ends."""
    low, high = sorted((first, second))

    assert level_to_logit(sorted(cuts), low) <= level_to_logit(sorted(cuts), high) + 1e-9
