"""The next token: its distribution, and that a draft does not change it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from skipmodel.serve.sampling import Sampler, draw, probabilities, verify_greedy, verify_sampled

N = 20_000


def distance(counts: list[int], probs: torch.Tensor) -> float:
    """Return Pearson's chi-square over tokens that can be drawn, as standard deviations above its mean."""
    n, kept = sum(counts), probs > 0
    assert all(count == 0 for count, is_kept in zip(counts, kept.tolist(), strict=True) if not is_kept)
    expected = probs[kept] * n
    chi2 = float(((torch.tensor(counts)[kept] - expected) ** 2 / expected).sum())
    free = int(kept.sum()) - 1
    return (chi2 - free) / math.sqrt(2 * free)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.0, 0.7), (1.5, 0.9)])
def test_a_verified_draft_has_the_dense_distribution(temperature: float, top_p: float) -> None:
    """Two tokens drafted from other distributions, 20,000 times: every position is the dense model's, none repeats."""
    generator = torch.Generator().manual_seed(3)
    dense = torch.randn(3, 12, generator=generator) * 1.5
    draft = [probabilities(torch.randn(12, generator=generator) * 1.5, temperature, top_p) for _ in range(2)]
    sampler = Sampler(temperature, top_p, seed=11)
    counts = [[0] * 12 for _ in range(3)]
    lengths = [0, 0, 0]
    for _ in range(N):
        tokens = [draw(probs, sampler.uniform()) for probs in draft]
        out = verify_sampled(tokens, draft, dense, sampler)
        lengths[len(out) - 1] += 1
        for i, token in enumerate(out):
            counts[i][token] += 1
    target = [probabilities(row, temperature, top_p) for row in dense]
    for i in range(3):
        assert distance(counts[i], target[i]) < 5, i
    accepted = float(torch.minimum(target[0], draft[0]).sum())
    assert abs(1 - lengths[0] / N - accepted) < 4 * math.sqrt(accepted * (1 - accepted) / N)


def test_the_test_of_distributions_would_notice_a_wrong_one() -> None:
    """Keeping every drafted token gives the draft's distribution, which the same statistic finds far off."""
    generator = torch.Generator().manual_seed(3)
    dense = probabilities(torch.randn(12, generator=generator) * 1.5, 1.0, 1.0)
    draft = probabilities(torch.randn(12, generator=generator) * 1.5, 1.0, 1.0)
    sampler, counts = Sampler(seed=1), [0] * 12
    for _ in range(N):
        counts[draw(draft, sampler.uniform())] += 1
    assert distance(counts, dense) > 50


def test_plain_draws_have_the_distribution() -> None:
    """Inverse transform over the cumulated distribution, top_p included."""
    probs = probabilities(torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0]), 0.8, 0.95)
    sampler, counts = Sampler(seed=5), [0] * 5
    for _ in range(N):
        counts[draw(probs, sampler.uniform())] += 1
    assert distance(counts, probs) < 5


@given(
    st.lists(st.floats(-30, 30), min_size=2, max_size=40), st.floats(0.05, 2), st.floats(0.01, 1),
    st.floats(0, 1, exclude_max=True),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_draw_can_be_drawn(logits: list[float], temperature: float, top_p: float, uniform: float) -> None:
    """Probabilities sum to 1, hold the likeliest token, reach top_p, and no draw falls on a token without any."""
    probs = probabilities(torch.tensor(logits), temperature, top_p)
    full = probabilities(torch.tensor(logits), temperature, 1.0)
    assert float(probs.sum()) == pytest.approx(1.0)
    assert float(probs[int(full.argmax())]) > 0
    assert float(full[probs > 0].sum()) >= top_p - 1e-9
    assert float(probs[draw(probs, uniform)]) > 0


def test_greedy_verification_keeps_the_right_beginning() -> None:
    """The longest right beginning and the dense model's own next token."""
    logits = torch.eye(5)[[3, 1, 4]]
    assert verify_greedy([3, 1], logits) == [3, 1, 4]
    assert verify_greedy([3, 2], logits) == [3, 1]
    assert verify_greedy([0, 1], logits) == [3]
    assert verify_greedy([], logits[:1]) == [3]


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1e-4, 1.0), (1.0, 0.0)])
def test_no_spread_takes_the_likeliest(temperature: float, top_p: float) -> None:
    """Temperature or top_p of 0, or so near that division would overflow."""
    assert Sampler(temperature, top_p).choose(torch.tensor([1.0, 3e30, 2.0])) == 1


def test_a_seed_settles_all_draws() -> None:
    """The same seed draws the same, another one another."""
    logits = torch.zeros(1000)
    first, again, other = (Sampler(seed=seed) for seed in (1, 1, 2))
    draws = [[sampler.choose(logits) for _ in range(8)] for sampler in (first, again, other)]
    assert draws[0] == draws[1] != draws[2]
