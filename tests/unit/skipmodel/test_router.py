"""Routers: what they compute, how they start, and that they stay float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from skipmodel.router import START_LOGIT, BottleneckRouter, PaperRouter, TokenRouter, make_router, normalise

WIDTH = 16
KINDS = ("calibrated", "bottleneck", "linear")


def test_normalised_inputs_have_root_mean_square_one() -> None:
    """Whatever the scale of the input, the dtype is kept; zeros stay zeros."""
    x = torch.randn(2, 3, WIDTH) * torch.tensor([0.1, 1.0, 100.0])[None, :, None]

    torch.testing.assert_close(normalise(x).square().mean(-1).sqrt(), torch.ones(2, 3), atol=1e-3, rtol=0)
    assert normalise(x.bfloat16()).dtype == torch.bfloat16
    assert not bool(normalise(torch.zeros(1, 1, WIDTH)).any())


def test_each_kind_by_hand() -> None:
    """A dot product with bias; an MLP with SiLU; the difference of two logits without bias."""
    x = torch.randn(2, 5, WIDTH)
    calibrated: Any = make_router("calibrated", WIDTH, 8)
    bottleneck: Any = make_router("bottleneck", WIDTH, 8)
    paper: Any = make_router("linear", WIDTH, 8)
    for router in (calibrated, bottleneck, paper):
        for parameter in router.parameters():
            torch.nn.init.normal_(parameter)
    inner = x @ bottleneck.inner.weight.T + bottleneck.inner.bias
    skip, execute = x @ paper.weight[0], x @ paper.weight[1]

    assert (type(calibrated), type(bottleneck), type(paper)) == (TokenRouter, BottleneckRouter, PaperRouter)
    torch.testing.assert_close(calibrated(x), (x * calibrated.weight).sum(-1) + calibrated.bias)
    torch.testing.assert_close(
        bottleneck(x), (inner * torch.sigmoid(inner) * bottleneck.weight).sum(-1) + bottleneck.bias
    )
    torch.testing.assert_close(torch.sigmoid(paper(x)), torch.stack([skip, execute]).softmax(0)[1])


@pytest.mark.parametrize("kind", ["calibrated", "bottleneck"])
def test_they_start_by_executing(kind: str) -> None:
    """Before any fit, every token executes with probability 0.95."""
    logit = make_router(kind, WIDTH, 8)(torch.randn(3, 7, WIDTH))

    torch.testing.assert_close(logit, torch.full((3, 7), START_LOGIT))
    torch.testing.assert_close(torch.sigmoid(logit), torch.full((3, 7), 0.9526), atol=1e-4, rtol=0)


def test_the_papers_router_starts_from_about_one_half() -> None:
    """Small random weights and no bias: execute probabilities near 0.5 on both sides."""
    with torch.no_grad():
        prob = torch.sigmoid(make_router("linear", 256, 8)(normalise(torch.randn(1, 500, 256))))

    assert abs(float(prob.mean()) - 0.5) < 0.05
    assert 0.05 < float(prob.std()) < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_float32_whatever_the_model_is(kind: str) -> None:
    """Half-precision inputs, and half-precision weights should a caller cast them, give float32 logits."""
    router = make_router(kind, WIDTH, 8)
    x = torch.randn(2, 5, WIDTH).bfloat16()

    assert router(x).dtype == torch.float32
    torch.testing.assert_close(router(x), router(x.float()))
    assert router.bfloat16()(x).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind: str) -> None:
    """Once away from its start, the logit's gradient reaches every parameter."""
    router = make_router(kind, WIDTH, 8)
    for parameter in router.parameters():
        torch.nn.init.normal_(parameter)
    router(torch.randn(2, 5, WIDTH)).square().sum().backward()

    assert all(p.grad is not None and float(p.grad.abs().max()) > 0 for p in router.parameters())


def test_a_bottleneck_can_carry_a_linear_router() -> None:
    """After `set_linear` both kinds give the same logits, and hidden units beyond the first two stay free."""
    x, weight, bias = torch.randn(2, 5, WIDTH), torch.randn(WIDTH), torch.tensor(-0.7)
    linear: Any = make_router("calibrated", WIDTH, 8)
    bottleneck: Any = make_router("bottleneck", WIDTH, 8)
    for router in (linear, bottleneck):
        router.set_linear(weight, bias)

    torch.testing.assert_close(bottleneck(x), linear(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(linear(x), x @ weight + bias)
    assert not bool(bottleneck.weight[2:].any())
    assert bool(bottleneck.inner.weight[2:].any())
