"""Dense decoding or reading in two number formats of the weights, timed in turn: what int8 alone would gain.

The arms have engines of their own but the same texts, and both run densely: the ratio is one of weights and kernels.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from skipmodel.bench.loads import Load
from skipmodel.bench.pairs import interleave
from skipmodel.bench.statistics import log_ratio_interval
from skipmodel.engine.engagement import Phase
from skipmodel.errors import MeasurementError


@dataclass(frozen=True)
class WeightsRow:
    """One comparison of two number formats.

    Attributes:
        prompt: Tokens read before decoding, or by the prefill.
        output_tokens: Decoded tokens; 1 for prefill.
        dtype: Of the dense arm, and of the activations of both.
        speedup, low, high: Of the other format over dense, from the log ratios of pairs, with a 95 % interval.
        dense_s, other_s: Seconds per decode step or per prefill call. [s]
    """

    phase: Phase
    batch: int
    prompt: int
    output_tokens: int
    dtype: str
    speedup: float
    low: float | None
    high: float | None
    n_pairs: int
    dense_s: tuple[float, ...]
    other_s: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """The row as plain values."""
        return asdict(self)


def time_weights(dense: Load, other: Load, *, n_pairs: int, budget_s: float = float("inf")) -> WeightsRow:
    """Warm both arms up, time them in turn, densely, and return the row.

    Args:
        dense: What is run with the model's own weights.
        other: The same texts on an engine with other weights.
        n_pairs: Pairs, fewer where the budget ends.
        budget_s: Seconds for the timed runs. [s]

    Raises:
        MeasurementError: The two loads are not the same work.
    """
    sizes = [(load.phase, load.batch, load.prompt_tokens, load.n_steps, load.n_texts) for load in (dense, other)]
    if sizes[0] != sizes[1]:
        raise MeasurementError(
            f"expected the same phase, batch, prompt, steps and texts on both sides, got {sizes[0]} and {sizes[1]}; "
            "make both loads of one list of texts"
        )
    dense.run(0, None), other.run(0, None)
    runs = interleave(
        [lambda index: dense.run(index, None), lambda index: other.run(index, None)], dense.n_texts, n_pairs, budget_s
    )
    dense_s, other_s = (tuple(run.seconds for run in arm) for arm in runs)
    speedup, low, high = log_ratio_interval(dense_s, other_s)
    return WeightsRow(
        phase=dense.phase, batch=dense.batch, prompt=dense.prompt_tokens, output_tokens=dense.n_steps,
        dtype=str(dense.engine.dtype).removeprefix("torch."), speedup=speedup, low=low, high=high,
        n_pairs=len(dense_s), dense_s=dense_s, other_s=other_s,
    )  # fmt: skip
