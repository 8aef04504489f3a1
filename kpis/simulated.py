"""Simulated PoCs whose truth is known: drawing the records that a run would have measured.

Items of one source repeat each other with probability `repeat`: then all of them share one outcome, otherwise each
has its own. The shares of the outcomes stay exactly those of the truth, and the correlation within a source is
`repeat`. Over-skips of one document depend on each other through a beta-distributed rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kpis.bootstrap import Integers
from kpis.records import DocumentPair, ItemPair, TimingPairs

_DENSE_ACCURACY = 0.80
_N_MUST_PASS = 20
_LAYERS = 24


@dataclass(frozen=True)
class Truth:
    """What is really so in one simulated PoC; every share is a probability, every loss is skip minus dense."""

    n_items: int = 1200
    cluster_sizes: tuple[int, ...] = (1, 2, 3)
    """Items per source, in turn."""
    repeat: float = 0.3
    harmful: float = 0.010
    helpful: float = 0.010
    reworded: float = 0.02
    """Answers that change without turning right or wrong."""
    n_documents: int = 60
    tokens_per_document: int = 500
    critical_per_document: int = 60
    over_skip: float = 0.001
    over_skip_spread: float = 0.005
    """Correlation of over-skips within a document."""
    loss_nats: float = 0.010
    """Mean extra loss per token."""
    loss_spread: float = 0.020
    """Standard deviation of the extra loss between documents."""
    skip_rate: float = 0.30
    speedup: float = 1.30
    speed_noise: float = 0.02
    """Standard deviation of the log ratio of one pair of runs."""
    n_pairs: int = 8

    @property
    def difference(self) -> float:
        """True difference of accuracy."""
        return self.helpful - self.harmful

    @property
    def ppl_rise(self) -> float:
        """True relative rise of perplexity."""
        return float(np.expm1(self.loss_nats))

    @property
    def agreement(self) -> float:
        """True share of identical answers."""
        return 1.0 - self.harmful - self.helpful - self.reworded

    @property
    def design_effect(self) -> float:
        """True factor by which repeats raise the variance of a mean over items."""
        sizes = np.array(self.cluster_sizes, dtype=float)
        return 1.0 + self.repeat * float((sizes**2).sum() / sizes.sum() - 1.0)


def clusters(truth: Truth) -> Integers:
    """Source of each item: sizes in turn until the items are used up."""
    n = truth.n_items
    return np.repeat(np.arange(n), np.resize(truth.cluster_sizes, n))[:n]


def draw_items(truth: Truth, generator: np.random.Generator) -> list[ItemPair]:
    """Paired answers with the true shares of outcomes."""
    cluster = clusters(truth)
    # outcomes: both right, harmful, helpful, both wrong; the last two of each half with another wording
    right, wrong = _DENSE_ACCURACY - truth.harmful, 1.0 - _DENSE_ACCURACY - truth.helpful
    shares = np.array([right, truth.harmful, truth.helpful, wrong - truth.reworded, truth.reworded])
    edges = np.cumsum(shares)[:-1]
    own = np.searchsorted(edges, generator.random(truth.n_items), side="right")
    shared = np.searchsorted(edges, generator.random(truth.n_items), side="right")[cluster]
    repeats = (generator.random(truth.n_items) < truth.repeat)[cluster]
    outcome = np.where(repeats, shared, own)
    must_pass = set(np.flatnonzero(outcome == 0)[:_N_MUST_PASS].tolist())
    return [
        ItemPair(
            item_id=f"i{index}",
            cluster=f"c{source}",
            slice=("en", "ja")[source % 2],
            dense_correct=kind <= 1,
            skip_correct=kind in (0, 2),
            same_answer=kind in (0, 3),
            must_pass=index in must_pass,
            language=("en", "ja")[source % 2],
        )
        for index, (source, kind) in enumerate(zip(cluster.tolist(), outcome.tolist(), strict=True))
    ]


def draw_documents(truth: Truth, generator: np.random.Generator) -> list[DocumentPair]:
    """Scored documents: nats, next-token agreement, and over-skipped critical tokens."""
    n, critical = truth.n_documents, truth.critical_per_document
    tokens = generator.integers(truth.tokens_per_document // 2, truth.tokens_per_document * 3 // 2, n, endpoint=True)
    dense = tokens * generator.normal(2.5, 0.3, n).clip(1.0, 4.0)
    skip = dense + tokens * generator.normal(truth.loss_nats, truth.loss_spread, n)
    rate = np.full(n, truth.over_skip)
    if 0.0 < truth.over_skip < 1.0 and truth.over_skip_spread > 0.0:
        strength = 1.0 / truth.over_skip_spread - 1.0
        rate = generator.beta(truth.over_skip * strength, (1.0 - truth.over_skip) * strength, n)
    over = generator.binomial(critical, rate)
    same = generator.binomial(tokens, 0.97 if truth.skip_rate else 1.0)
    executed = 1.0 - truth.skip_rate
    return [
        DocumentPair(
            document_id=f"d{i}",
            n_tokens=int(tokens[i]),
            n_bytes=int(tokens[i]) * 4,
            nll_dense=float(dense[i]),
            nll_skip=float(skip[i]),
            n_same_top1=int(same[i]),
            n_critical=critical,
            n_over_skipped=int(over[i]),
            n_critical_executed=critical * _LAYERS - int(critical * _LAYERS * truth.skip_rate / 3),
            n_critical_positions=critical * _LAYERS,
            n_other_executed=int((int(tokens[i]) - critical) * _LAYERS * executed),
            n_other_positions=(int(tokens[i]) - critical) * _LAYERS,
        )
        for i in range(n)
    ]


def draw_pairs(truth: Truth, generator: np.random.Generator) -> TimingPairs:
    """Interleaved timing pairs whose geometric mean ratio is the true speed-up."""
    dense = 0.05 * np.exp(generator.normal(0.0, 0.05, truth.n_pairs))
    ratio = truth.speedup * np.exp(generator.normal(0.0, truth.speed_noise, truth.n_pairs))
    return TimingPairs("decode", 1, tuple(dense.tolist()), tuple((dense / ratio).tolist()))


def draw_waits(truth: Truth, generator: np.random.Generator, n: int = 1000) -> dict[str, list[float]]:
    """Response times of requests at the target load, well within the usual promises."""
    scale = {"ttft_dense_s": 0.4, "tpot_dense_s": 0.03}
    scale |= {"ttft_skip_s": 0.4 / truth.speedup, "tpot_skip_s": 0.03 / truth.speedup}
    return {name: (value * np.exp(generator.normal(0.0, 0.2, n))).tolist() for name, value in scale.items()}
