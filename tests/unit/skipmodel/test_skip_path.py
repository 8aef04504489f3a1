"""Skip paths: what they compute, and that every kind starts as the same linear map."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skipmodel.skip_path import AdapterSkipPath, IdentitySkipPath, LinearSkipPath, make_path, set_linear

WIDTH, RANK = 16, 3


def _linear_map() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(RANK, WIDTH), torch.randn(WIDTH, RANK), torch.randn(WIDTH)


@pytest.mark.parametrize(("kind", "cls"), [("linear", LinearSkipPath), ("adapter", AdapterSkipPath),
                                           ("identity", IdentitySkipPath)])  # fmt: skip
def test_every_kind_starts_without_an_update(kind: str, cls: type) -> None:
    """Until it is fitted, a skipped token leaves as it came."""
    path = make_path(kind, WIDTH, RANK)
    x = torch.randn(2, 5, WIDTH)

    assert type(path) is cls
    assert torch.equal(path(x), torch.zeros_like(x))


def test_the_linear_path_is_the_map_it_is_given() -> None:
    """The input times both matrices, plus the bias."""
    down, up, bias = _linear_map()
    path = make_path("linear", WIDTH, RANK)
    set_linear(path, down, up, bias)
    x = torch.randn(2, 5, WIDTH)

    torch.testing.assert_close(path(x), x @ down.T @ up.T + bias)


def test_the_adapter_starts_as_the_linear_path() -> None:
    """Pairs of opposite hidden units make the network linear, also far out, where SiLU alone is not."""
    down, up, bias = _linear_map()
    linear, adapter = make_path("linear", WIDTH, RANK), make_path("adapter", WIDTH, RANK)
    for path in (linear, adapter):
        set_linear(path, down, up, bias)
    x = torch.randn(4, 50, WIDTH) * torch.tensor([0.01, 1.0, 3.0, 30.0])[:, None, None]

    torch.testing.assert_close(adapter(x), linear(x), atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(adapter(x[:2]), linear(x[:2]), atol=2e-6, rtol=1e-5)


def test_the_adapter_can_leave_the_linear_maps() -> None:
    """One step down its gradient, and it is no longer odd around its bias, as every linear map is."""
    adapter = make_path("adapter", WIDTH, RANK)
    set_linear(adapter, *_linear_map())
    x = torch.randn(64, WIDTH)

    def bend() -> float:
        return float((adapter(x) + adapter(-x) - 2 * adapter.bias).detach().abs().max())

    before = bend()
    loss = (adapter(x) - x.abs()).square().mean()
    loss.backward()
    with torch.no_grad():
        for parameter in adapter.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.1 * parameter.grad)

    assert before < 1e-4
    assert bend() > 1e-2


def test_identity_takes_no_fit() -> None:
    """Fitting leaves it what it is: no parameter, no update."""
    path = make_path("identity", WIDTH, RANK)
    set_linear(path, *_linear_map())

    assert list(path.parameters()) == []
    assert not bool(path(torch.randn(1, 2, WIDTH)).any())


@pytest.mark.parametrize(("kind", "count"), [("linear", 2 * RANK * WIDTH + WIDTH),
                                             ("adapter", 4 * RANK * WIDTH + WIDTH)])  # fmt: skip
def test_parameters_by_hand(kind: str, count: int) -> None:
    """Two matrices of the rank, twice the rank for the adapter, and a bias; the rank never exceeds the width."""
    assert sum(p.numel() for p in make_path(kind, WIDTH, RANK).parameters()) == count
    assert make_path(kind, WIDTH, 99).down.shape[0] == (2 if kind == "adapter" else 1) * WIDTH


@pytest.mark.parametrize("kind", ["linear", "adapter"])
def test_float32_weights_serve_a_bfloat16_model(kind: str) -> None:
    """In training the weights are float32 and the activations are not; the update has the activations' format."""
    path = make_path(kind, WIDTH, RANK)
    set_linear(path, *_linear_map())
    x = torch.randn(2, 5, WIDTH).bfloat16()
    update = path(x)
    update.float().square().sum().backward()

    assert update.dtype == torch.bfloat16
    assert {p.grad.dtype for p in path.parameters() if p.grad is not None} == {torch.float32}
    assert torch.equal(update, path.bfloat16()(x))
