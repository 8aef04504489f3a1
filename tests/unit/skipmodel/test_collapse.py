"""Collapsed routers are told apart from working ones, and each kind of collapse by its name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from skipmodel.collapse import LEAST_RATIO, Decisions, check_routers
from skipmodel.errors import TrainingError

N_TOKENS = 4000


def _decisions(skip_prob_LV: Tensor, n_tokens: int = N_TOKENS, free: bool = True) -> Decisions:
    """Sample decisions: probability per unit and token id; ids follow Zipf's law, as in text."""
    generator = torch.Generator().manual_seed(0)
    n_ids = skip_prob_LV.shape[1]
    frequency = 1.0 / torch.arange(1, n_ids + 1)
    ids_BT = frequency.multinomial(n_tokens, replacement=True, generator=generator).view(1, -1)
    draw_LBT = torch.rand(len(skip_prob_LV), *ids_BT.shape, generator=generator)
    decisions = Decisions()
    gates = {2 * i: (draw >= p[ids_BT]).float() for i, (draw, p) in enumerate(zip(draw_LBT, skip_prob_LV, strict=True))}
    half = n_tokens // 2
    for part in (slice(0, half), slice(half, n_tokens)):
        free_BT = torch.full_like(ids_BT[:, part], free, dtype=torch.bool)
        decisions.add({i: gate[:, part] for i, gate in gates.items()}, ids_BT[:, part], free_BT)
    return decisions


def _flat(rate: float, n_units: int = 6) -> Tensor:
    return torch.full((n_units, 300), rate)


def test_routers_that_look_at_the_token_pass() -> None:
    """One unit of six that skips some tokens more than others is enough."""
    skip_prob = _flat(0.3)
    skip_prob[4] = torch.linspace(0.1, 0.9, 300)
    check_routers(_decisions(skip_prob))

    assert _decisions(skip_prob).dispersion() > 3.0


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (0.0, r"collapsed to all-execute, skip rate 0\.0000.*raise model\.skip_tune\.target_skip_rate"),
        (1.0, r"collapsed to all-skip, skip rate 1\.000.*lower model\.skip_tune\.density_weight"),
        (0.3, r"collapsed to the same rate for every class of token \(dispersion .*coin flips have 1"),
    ],
)
def test_every_kind_of_collapse_has_a_name(rate: float, message: str) -> None:
    """Nothing skips, everything skips, or coins are flipped; the message says what to change."""
    with pytest.raises(TrainingError, match=message):
        check_routers(_decisions(_flat(rate)))


def test_units_that_are_either_on_or_off_decide_nothing() -> None:
    """Half of the units skip every token and half none: a static drop, not routing."""
    skip_prob = _flat(0.0)
    skip_prob[:3] = 1.0

    with pytest.raises(TrainingError, match="same rate for every class"):
        check_routers(_decisions(skip_prob))


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
def test_coin_flips_have_dispersion_one(rate: float) -> None:
    """The largest of 30 units stays under the limit; single units are near 1 on average."""
    single = [_decisions(_flat(rate, 1), n).dispersion() for n in (3000, 5000, 9000)]

    assert _decisions(_flat(rate, 30)).dispersion() < LEAST_RATIO
    assert sum(single) / 3 == pytest.approx(1.0, abs=0.35)


def test_the_rate_is_that_of_free_tokens() -> None:
    """Tokens that a guard forces are left out; with no free token there is nothing to judge."""
    ids = torch.arange(8)[None]
    free = ids < 4
    decisions = Decisions()
    decisions.add({0: torch.tensor([[0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]])}, ids, free)

    assert decisions.skip_rate() == pytest.approx(0.5)
    assert int(decisions.counts["seen"].sum()) == 4
    check_routers(_decisions(_flat(1.0), free=False))
    check_routers(Decisions())


def test_a_handful_of_tokens_is_not_judged() -> None:
    """Below ten tokens per class chance hides what routers do, so that a very short training is not refused."""
    check_routers(_decisions(_flat(0.3), 150))

    assert _decisions(_flat(0.3), 150).dispersion() == math.inf
    assert _decisions(_flat(0.3), 800).dispersion() < LEAST_RATIO


def test_one_class_of_tokens_cannot_be_judged() -> None:
    """Without a second class there is no difference to find, and none is claimed to be missing."""
    ids = torch.full((1, 50), 7)
    decisions = Decisions()
    decisions.add({0: (torch.arange(50)[None] % 2).float()}, ids, torch.ones_like(ids, dtype=torch.bool))

    assert decisions.dispersion() == math.inf
    check_routers(decisions)
