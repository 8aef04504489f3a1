"""Properties of routing that hold for every pattern."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipmodel.engine.executor import Engine, Routing
from skipmodel.gate import execute_mask, logit_to_threshold, threshold_to_logit
from tests.tiny import N_LAYERS, VOCAB, make_skip

MODEL = make_skip()
ENGINE = Engine(MODEL)


@st.composite
def patterns(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, T) and an arbitrary execute mask (L, B, T): all, none, alternating, single, random."""
    batch, length = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (batch, length), generator=generator)
    shape = (N_LAYERS, batch, length)
    kind = draw(st.sampled_from(["all", "none", "alternating", "one token", "one layer", "random"]))
    mask = torch.zeros(shape, dtype=torch.bool)
    if kind == "all":
        mask[:] = True
    elif kind == "alternating":
        mask[:, :, ::2] = True
    elif kind == "one token":
        mask[:, batch - 1, length // 2] = True
    elif kind == "one layer":
        mask[N_LAYERS // 2] = True
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
