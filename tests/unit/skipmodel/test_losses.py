"""The terms of the fine-tuning loss, by hand, and that cutting a step into parts changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from skipmodel.config import SkipTuneConfig
from skipmodel.losses import (
    ExecutedShares,
    critical_loss,
    density_loss,
    distillation_loss,
    floor_loss,
    routing_losses,
    skip_rate,
)

ONE_EACH = torch.ones(2)


def gates(*shares: float) -> dict[int, Tensor]:
    return {i: (torch.arange(10).float() < 10 * share).float()[None] for i, share in enumerate(shares, start=2)}


def counted(gates_BT: dict[int, Tensor], critical_BT: Tensor | None = None) -> ExecutedShares:
    some = next(iter(gates_BT.values()))
    real_BT = torch.ones_like(some, dtype=torch.bool)
    return ExecutedShares.of(gates_BT, real_BT, ~real_BT if critical_BT is None else critical_BT)


def test_skip_rate_counts_all_layers() -> None:
    """Two of ten layers routed, half and a fifth skipped: (0.5 + 0.2) / 10."""
    torch.testing.assert_close(skip_rate(torch.tensor([0.5, 0.8]), ONE_EACH, 10), torch.tensor(0.07))


def test_skip_rate_weighs_units_by_their_share_of_a_layer() -> None:
    """An attention part of a quarter layer skipped half the time, a feed-forward part always: (0.125 + 0.75) / 10."""
    shares = torch.tensor([0.25, 0.75])

    torch.testing.assert_close(skip_rate(torch.tensor([0.5, 0.0]), shares, 10), torch.tensor(0.0875))


def test_global_density_is_the_distance_to_the_target() -> None:
    """One rate for the whole: units may differ as long as the whole meets the target."""
    config = SkipTuneConfig(target_skip_rate=0.25)

    torch.testing.assert_close(density_loss(torch.tensor([0.0, 1.0]), ONE_EACH, 4, config), torch.tensor(0.0))
    torch.testing.assert_close(density_loss(torch.tensor([1.0, 1.0]), ONE_EACH, 4, config), torch.tensor(0.25))


def test_per_layer_density_asks_the_same_of_every_unit() -> None:
    """Two of four layers routed, a quarter of all to be skipped: each executes one half, squared distances summed."""
    config = SkipTuneConfig(target_skip_rate=0.25, density="per_layer")

    torch.testing.assert_close(density_loss(torch.tensor([0.5, 0.5]), ONE_EACH, 4, config), torch.tensor(0.0))
    torch.testing.assert_close(density_loss(torch.tensor([0.0, 0.9]), ONE_EACH, 4, config), torch.tensor(0.41))


def test_distillation_is_zero_for_equal_logits_and_positive_otherwise() -> None:
    """KL(teacher || student) in nats, by hand for two classes."""
    teacher = torch.log(torch.tensor([[0.75, 0.25]]))
    student = torch.log(torch.tensor([[0.5, 0.5]]))
    by_hand = 0.75 * torch.log(torch.tensor(1.5)) + 0.25 * torch.log(torch.tensor(0.5))

    torch.testing.assert_close(distillation_loss(teacher, teacher), torch.tensor(0.0))
    torch.testing.assert_close(distillation_loss(student, teacher), by_hand)


def test_distillation_weighs_positions() -> None:
    """A weighted mean: a position of weight 3 counts three times, one of weight 0 not at all; without any it is 0."""
    student, teacher = torch.randn(2, 5), torch.randn(2, 5)
    alone = [distillation_loss(student[[i]], teacher[[i]]) for i in (0, 1)]

    torch.testing.assert_close(
        distillation_loss(student, teacher, torch.tensor([3.0, 1.0])), (3 * alone[0] + alone[1]) / 4
    )
    torch.testing.assert_close(distillation_loss(student, teacher, torch.tensor([0.0, 2.0])), alone[1])
    assert float(distillation_loss(student[:0], teacher[:0], torch.zeros(0))) == 0.0


def test_floor_only_counts_what_is_missing() -> None:
    """A unit at 0 misses the whole floor, one at 0.8 none of it."""
    torch.testing.assert_close(floor_loss(torch.tensor([0.0, 0.8]), 0.1), torch.tensor(0.1))


def test_critical_hinge_looks_at_critical_tokens_only() -> None:
    """Critical tokens executed at 0.5 against a floor of 0.95 cost 0.45; without any it costs nothing."""
    critical = torch.zeros(1, 10, dtype=torch.bool)
    critical[0, 4:6] = True
    config = SkipTuneConfig(critical_floor=0.95)
    some = routing_losses(counted(gates(0.5), critical), torch.ones(1), 4, config)
    none = routing_losses(counted(gates(0.5)), torch.ones(1), 4, config)

    torch.testing.assert_close(some["critical"], torch.tensor(0.45))
    torch.testing.assert_close(none["critical"], torch.tensor(0.0))
    torch.testing.assert_close(critical_loss(torch.tensor(0.97), 0.95), torch.tensor(0.0))


def test_shares_leave_padding_out() -> None:
    """Gates and critical marks behind the end of a text count nowhere."""
    gate = torch.tensor([[1.0, 0.0, 1.0, 1.0]])
    real = torch.tensor([[True, True, True, False]])
    shares = ExecutedShares.of({0: gate, 3: 1 - gate}, real, torch.tensor([[False, False, True, True]]))

    assert shares.executed_L.tolist() == [2.0, 1.0]
    assert float(shares.n_tokens) == 3.0
    assert (float(shares.critical_executed), float(shares.n_critical)) == (1.0, 2.0)


@pytest.mark.parametrize("density", ["global", "per_layer"])
def test_cutting_the_blocks_changes_no_routing_loss(density: str) -> None:
    """Eight blocks of different lengths at once, or in three parts: the same density, floor and hinge."""
    config = SkipTuneConfig(density=density, target_skip_rate=0.4, floor=0.9)  # type: ignore[arg-type]
    gates_LNT = (torch.rand(3, 8, 12) < torch.tensor([0.2, 0.6, 0.95])[:, None, None]).float()
    real_NT = torch.arange(12)[None] < torch.tensor([12, 12, 3, 7, 12, 9, 5, 12])[:, None]
    critical_NT = torch.rand(8, 12) < 0.2
    share_L = torch.tensor([0.3, 0.7, 1.0])

    def of(rows: slice) -> ExecutedShares:
        return ExecutedShares.of(dict(enumerate(gates_LNT[:, rows])), real_NT[rows], critical_NT[rows])

    whole = routing_losses(of(slice(0, 8)), share_L, 5, config)
    parts = routing_losses(of(slice(0, 1)) + of(slice(1, 5)) + of(slice(5, 8)), share_L, 5, config)
    doubled = routing_losses(of(slice(0, 8)).reduced(lambda value, how: 2 * value), share_L, 5, config)

    assert {name: float(value) for name, value in parts.items()} == pytest.approx(
        {name: float(value) for name, value in whole.items()}
    )
    assert float(doubled["density"]) == pytest.approx(float(whole["density"]))
    assert min(float(whole[name]) for name in ("density", "floor", "critical")) > 0
