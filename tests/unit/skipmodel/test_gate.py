"""From router logits to decisions: thresholds, noise, top-k and levels."""

from __future__ import annotations

import math

import pytest
import torch

from skipmodel.errors import ConfigError
from skipmodel.gate import (
    execute_mask,
    level_to_logit,
    logistic_noise,
    logit_to_threshold,
    straight_through_gumbel,
    threshold_to_logit,
    top_k_gate,
)


def test_execute_at_or_above_the_threshold() -> None:
    """A token executes iff its logit reaches the threshold's logit; equality executes."""
    mask = execute_mask(torch.tensor([[-1.0, 0.0, 1.0]]), threshold_to_logit(0.5))

    assert mask.tolist() == [[False, True, True]]


def test_threshold_ends() -> None:
    """Threshold 0 executes everything and 1 nothing."""
    assert threshold_to_logit(0.0) == -math.inf
    assert threshold_to_logit(1.0) == math.inf
    assert logit_to_threshold(-math.inf) == 0.0


def test_gate_is_hard_forward_and_soft_backward() -> None:
    """The value is 0 or 1; the gradient is that of the sigmoid."""
    logit = torch.tensor([[-0.3, 0.7]], requires_grad=True)
    gate = straight_through_gumbel(logit, scale=0.0, temperature=2.0)
    gate.sum().backward()
    soft = torch.sigmoid(logit.detach() / 2.0)

    assert gate.tolist() == [[0.0, 1.0]]
    assert logit.grad is not None
    torch.testing.assert_close(logit.grad, soft * (1 - soft) / 2.0)


def test_noise_executes_in_proportion_to_the_probability() -> None:
    """At scale 1 the share of executed tokens is the execute probability: Gumbel-max, sampled."""
    noise = logistic_noise((1, 40_000), torch.Generator().manual_seed(0))
    logit = torch.full((1, 40_000), math.log(0.8 / 0.2))
    share = straight_through_gumbel(logit, scale=1.0, temperature=1.0, noise_BT=noise).mean()
    without = straight_through_gumbel(logit, scale=0.0, temperature=1.0, noise_BT=noise).mean()

    assert abs(float(share) - 0.8) < 0.01
    assert float(without) == pytest.approx(1.0)


def test_the_generator_decides_the_noise() -> None:
    """The same seed gives the same noise, another seed another; it is the difference of two Gumbel variables."""
    first, again, other = (logistic_noise((2, 20_000), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    uniform = torch.rand(2, 40_000, generator=torch.Generator().manual_seed(5)).clamp(1e-6, 1 - 1e-6)
    gumbel = -(-uniform.log()).log()
    share = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])

    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.testing.assert_close(
        first.flatten().quantile(share), (gumbel[0] - gumbel[1]).quantile(share), atol=0.1, rtol=0
    )


def test_top_k_runs_the_highest_share_of_each_text() -> None:
    """Half of four tokens per row, whatever their values; at least one; the gradient is that of the sigmoid."""
    logit = torch.tensor([[3.0, 1.0, 2.0, 0.0], [-1.0, -3.0, -4.0, -2.0]], requires_grad=True)
    gate = top_k_gate(logit, 0.5)
    gate.sum().backward()
    soft = torch.sigmoid(logit.detach())

    assert gate.tolist() == [[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]]
    assert top_k_gate(logit, 0.01).sum(1).tolist() == [1.0, 1.0]
    assert top_k_gate(logit, 1.0).sum(1).tolist() == [4.0, 4.0]
    assert logit.grad is not None
    torch.testing.assert_close(logit.grad, soft * (1 - soft))


def test_gates_are_exactly_0_or_1_in_value() -> None:
    """Whatever the soft value, adding and taking it away leaves the hard one to the last bit that a count needs."""
    logit = torch.linspace(-30, 30, 4001, requires_grad=True)[None]
    for gate in (straight_through_gumbel(logit, temperature=0.7), top_k_gate(logit, 0.3)):
        torch.testing.assert_close(gate, gate.round(), atol=1e-6, rtol=0)


def test_levels_lie_between_the_calibrated_ones() -> None:
    """Linear in between, infinite at the ends, never falling; none calibrated or outside 0..1 is refused."""
    logits = [-2.0, 1.0, 3.0]
    rising = [level_to_logit(logits, level / 100) for level in range(101)]

    assert [level_to_logit(logits, level) for level in (0.25, 0.5, 0.75)] == logits
    assert level_to_logit(logits, 0.375) == pytest.approx(-0.5)
    assert (level_to_logit(logits, 0.1), level_to_logit(logits, 0.9)) == (-2.0, 3.0)
    assert (rising[0], rising[-1]) == (-math.inf, math.inf)
    assert rising == sorted(rising)
    with pytest.raises(ConfigError, match="has no levels"):
        level_to_logit([], 0.5)
    with pytest.raises(ConfigError, match=r"within 0 \(dense\) and 1 .* got 1.5"):
        level_to_logit(logits, 1.5)
