"""Choosing the next token, and choosing it from a draft without changing its distribution.

Legend: V vocabulary, K drafted tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

LEAST_TEMPERATURE = 1e-3
"""Below this the likeliest token is taken: dividing by less says nothing else and leaves the range of numbers."""


@dataclass
class Sampler:
    """Draws the tokens of one request; its draws come from its own seed, so that neighbours change nothing."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Start the generator, from the system's randomness without a seed."""
        self._random = random.Random(self.seed)

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < LEAST_TEMPERATURE or self.top_p <= 0.0

    def uniform(self) -> float:
        """Draw from [0, 1)."""
        return self._random.random()

    def choose(self, logits_V: Tensor) -> int:
        """Return the next token."""
        if self.is_greedy:
            return int(logits_V.argmax())
        return draw(probabilities(logits_V, self.temperature, self.top_p), self.uniform())


def probabilities(logits_V: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return the distribution that is sampled, (V,), float64.

    **Formula**: softmax(logits / temperature); with top_p below 1 the fewest likeliest tokens that together reach
    top_p, scaled to sum to 1.
    """
    probs_V = (logits_V.double() / temperature).softmax(-1)
    if top_p >= 1.0:
        return probs_V
    ordered, index = probs_V.sort(descending=True, stable=True)
    dropped = ordered.cumsum(-1) - ordered >= top_p
    dropped[0] = False
    probs_V = probs_V.index_fill(0, index[dropped], 0.0)
    return probs_V / probs_V.sum()


def draw(probs_V: Tensor, uniform: float) -> int:
    """Return the token whose stretch of the cumulated distribution holds a number from [0, 1)."""
    cumulated = probs_V.cumsum(-1)
    at = int(torch.searchsorted(cumulated, uniform * float(cumulated[-1]), right=True))
    return min(at, int(probs_V.nonzero()[-1]))


def verify_greedy(draft_K: list[int], logits_KV: Tensor) -> list[int]:
    """Return the tokens of the dense model that a draft makes known, K + 1 at most.

    Args:
        draft_K: Drafted tokens.
        logits_KV: Dense logits at the K + 1 positions, the first one predicting the first drafted token.
    """
    best = logits_KV.argmax(-1).tolist()
    n_right = next((i for i, token in enumerate(draft_K) if token != best[i]), len(draft_K))
    return best[: n_right + 1]


def verify_sampled(
    draft_K: list[int], draft_probs: list[Tensor], logits_KV: Tensor, sampler: Sampler
) -> list[int]:  # fmt: skip
    """Return tokens that are distributed as the dense model's own samples, K + 1 at most.

    **Formula**: a drafted token x is kept with probability min(1, p(x) / q(x)); the first one that is not is replaced
    by a draw from max(0, p - q), scaled to sum to 1; if all are kept, one more is drawn from p.
    **Source**: speculative sampling, arXiv 2211.17192 and 2302.01318.

    Args:
        draft_K: Tokens drawn from the distributions below.
        draft_probs: Distributions of the draft, (V,) each.
        logits_KV: Dense logits at the K + 1 positions.
        sampler: Temperature, top_p and draws of the request.
    """
    out: list[int] = []
    for i, token in enumerate(draft_K):
        dense_V = probabilities(logits_KV[i], sampler.temperature, sampler.top_p)
        ratio = float(dense_V[token]) / float(draft_probs[i][token])
        if sampler.uniform() < ratio:
            out.append(token)
            continue
        rest_V = (dense_V - draft_probs[i]).clamp_min(0.0)
        # all zero only where both are equal up to rounding, and a rejection is rounding too
        out.append(draw(rest_V if float(rest_V.sum()) > 0 else dense_V, sampler.uniform()))
        return out
    last_V = probabilities(logits_KV[-1], sampler.temperature, sampler.top_p)
    return [*out, draw(last_V, sampler.uniform())]
