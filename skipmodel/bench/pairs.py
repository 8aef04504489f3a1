"""Interleaving: the arms of a comparison are timed in turn, so that what the machine does meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MIN_PAIRS = 2
"""Fewer have no interval."""


@dataclass(frozen=True)
class Run:
    """One timed run of one arm.

    Attributes:
        seconds: Seconds per decode step, or per prefill call. [s]
        steps_s: Seconds of each decode step; empty for prefill. [s]
        joules: Energy of the run, None where the device does not report it. [J]
    """

    seconds: float
    steps_s: tuple[float, ...] = ()
    joules: float | None = None


def interleave(
    arms: Sequence[Callable[[int], Run]],
    n_texts: int,
    n_pairs: int,
    budget_s: float = float("inf"),
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> list[list[Run]]:
    """Run all arms on one text after the other, the order of the arms rotating, and return the runs of each arm.

    The arms must be warm. With two arms the order is A B, B A, A B, ...; rounds end with `n_pairs` or when the next
    one would overrun the budget, but not before two.

    Args:
        arms: Each takes the number of a text and times one run.
        n_texts: Texts are taken in turn.
        n_pairs: Rounds at most.
        budget_s: Seconds for all rounds together. [s]
        clock: Tells seconds.
    """
    runs: list[list[Run]] = [[] for _ in arms]
    started = clock()
    for done in range(n_pairs):
        if done >= MIN_PAIRS and (clock() - started) * (done + 1) / done > budget_s:
            break
        for turn in range(len(arms)):
            which = (done + turn) % len(arms)
            runs[which].append(arms[which](done % n_texts))
    return runs
