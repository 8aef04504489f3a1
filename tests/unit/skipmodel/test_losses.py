import torch

from skipmodel.losses import critical_loss, density_loss, distillation_loss, floor_loss, skip_rate


def gates(*shares: float) -> dict[int, torch.Tensor]:
    return {i: (torch.arange(10).float() < 10 * share).float()[None] for i, share in enumerate(shares, start=2)}


def test_skip_rate_counts_all_layers() -> None:
    """Two of ten layers routed, half and a fifth skipped: (0.5 + 0.2) / 10."""
    torch.testing.assert_close(skip_rate(gates(0.5, 0.8), 10), torch.tensor(0.07))


def test_density_loss_is_the_distance_to_the_target() -> None:
    """One global rate: layers may differ as long as the whole meets the target."""
    torch.testing.assert_close(density_loss(gates(0.0, 1.0), 4, 0.25), torch.tensor(0.0))
    torch.testing.assert_close(density_loss(gates(1.0, 1.0), 4, 0.25), torch.tensor(0.25))


def test_distillation_is_zero_for_equal_logits_and_positive_otherwise() -> None:
    """KL(teacher || student) in nats, by hand for two classes."""
    teacher = torch.log(torch.tensor([[0.75, 0.25]]))
    student = torch.log(torch.tensor([[0.5, 0.5]]))
    by_hand = 0.75 * torch.log(torch.tensor(1.5)) + 0.25 * torch.log(torch.tensor(0.5))

    torch.testing.assert_close(distillation_loss(teacher, teacher), torch.tensor(0.0))
    torch.testing.assert_close(distillation_loss(student, teacher), by_hand)


def test_floor_only_counts_what_is_missing() -> None:
    """A layer at 0 misses the whole floor, one at 0.8 none of it."""
    torch.testing.assert_close(floor_loss(gates(0.0, 0.8), 0.1), torch.tensor(0.1))


def test_critical_hinge_looks_at_critical_tokens_only() -> None:
    """Critical tokens executed at 0.5 against a floor of 0.95 cost 0.45; without any it costs nothing."""
    critical = torch.zeros(1, 10, dtype=torch.bool)
    critical[0, 4:6] = True

    torch.testing.assert_close(critical_loss(gates(0.5), critical, 0.95), torch.tensor(0.45))
    torch.testing.assert_close(critical_loss(gates(0.5), critical & False, 0.95), torch.tensor(0.0))
