import math

import torch

from skipmodel.gate import execute_mask, logit_to_threshold, straight_through_gumbel, threshold_to_logit


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
    generator = torch.Generator().manual_seed(0)
    logit = torch.full((1, 40_000), math.log(0.8 / 0.2))
    share = straight_through_gumbel(logit, scale=1.0, temperature=1.0, generator=generator).mean()

    assert abs(float(share) - 0.8) < 0.01


def test_the_generator_decides_the_noise() -> None:
    """The same seed gives the same gates."""
    logit = torch.zeros(1, 64)
    first, second = (
        straight_through_gumbel(logit, scale=1.0, temperature=1.0, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )

    assert torch.equal(first, second)
