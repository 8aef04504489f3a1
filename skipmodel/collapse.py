"""Whether trained routers still decide anything: all-skip, all-execute, or the same rate for every kind of token.

Legend: B sequences, T tokens, L routed units, C classes of tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from skipmodel.errors import TrainingError

LEAST_SKIP_RATE = 0.001
MOST_SKIP_RATE = 0.95
N_CLASSES = 64
"""Token ids are counted in so many classes; frequent ids dominate theirs, which is what the test needs."""
LEAST_PER_CLASS = 12
"""With fewer tokens per class, real differences hide behind chance and nothing is judged."""
LEAST_RATIO = 1.5
"""Variance of class rates over what independent coin flips would give; 1 when tokens do not matter."""


@dataclass
class Decisions:
    """Counts of skips by class of token, over the last steps of a training."""

    counts: dict[str, Tensor] = field(default_factory=dict)
    """`skipped` (L, C) and `seen` (C); empty before the first pass."""

    @torch.no_grad()
    def add(self, gates_BT: dict[int, Tensor], ids_BT: Tensor, free_BT: Tensor) -> None:
        """Count the gates of one pass at tokens that no guard forces."""
        classes = ids_BT[free_BT] % N_CLASSES
        seen = torch.zeros(N_CLASSES, device=ids_BT.device).index_add_(0, classes, torch.ones_like(classes).float())
        rows = [
            torch.zeros_like(seen).index_add_(0, classes, (gate[free_BT] < 0.5).float()) for gate in gates_BT.values()
        ]
        for name, made in (("seen", seen.cpu()), ("skipped", torch.stack(rows).cpu())):
            self.counts[name] = self.counts.get(name, torch.zeros_like(made)) + made

    def skip_rate(self) -> float:
        """Return the share of skips among all decisions that were free."""
        skipped_LC = self.counts["skipped"]
        return float(skipped_LC.sum() / (self.counts["seen"].sum().clamp_min(1.0) * len(skipped_LC)))

    def dispersion(self) -> float:
        """Return the largest ratio, over units that do skip, of the variance between classes to that of coin flips.

        **Formula**: per unit, sum_c n_c (p_c - p)^2 / (p (1 - p) (C - 1)), p_c the rate of class c: the chi-square of
        homogeneity over its degrees of freedom. Infinite where there are too few tokens or classes to tell.
        """
        seen_C, skipped_LC = self.counts["seen"], self.counts["skipped"]
        used = seen_C > 0
        if int(used.sum()) < 2 or float(seen_C.sum()) < LEAST_PER_CLASS * int(used.sum()):
            return math.inf
        rate_L = skipped_LC.sum(1) / seen_C.sum()
        deciding = (rate_L > 0.01) & (rate_L < 0.99)
        if not bool(deciding.any()):
            return 0.0
        rate_LC = skipped_LC[deciding][:, used] / seen_C[used]
        p_L = rate_L[deciding]
        chi = (seen_C[used] * (rate_LC - p_L[:, None]).square()).sum(1) / (p_L * (1 - p_L))
        return float((chi / (int(used.sum()) - 1)).max())


def check_routers(decisions: Decisions) -> None:
    """Refuse routers that no longer decide anything.

    Raises:
        TrainingError: Nearly everything executes, nearly everything skips, or which token it is makes no difference.
    """
    if not decisions.counts or not bool(decisions.counts["seen"].any()):
        return
    rate = decisions.skip_rate()
    advice = "lower model.skip_tune.density_weight or learning_rate_router, or start from another seed"
    if rate <= LEAST_SKIP_RATE:
        raise TrainingError(f"skip tune: the routers collapsed to all-execute, skip rate {rate:.4f} over the last "
                            "steps; raise model.skip_tune.target_skip_rate or density_weight")  # fmt: skip
    if rate >= MOST_SKIP_RATE:
        raise TrainingError(f"skip tune: the routers collapsed to all-skip, skip rate {rate:.3f} over the last steps; "
                            f"{advice}")  # fmt: skip
    ratio = decisions.dispersion()
    if ratio < LEAST_RATIO:
        raise TrainingError(
            f"skip tune: the routers collapsed to the same rate for every class of token (dispersion {ratio:.2f}, "
            f"coin flips have 1, expected at least {LEAST_RATIO}); {advice}"
        )
