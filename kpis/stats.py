"""The statistics of this package under one name, and two that fit nowhere else."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from scipy.stats import t as student_t

from kpis.bootstrap import Interval, cluster_bootstrap_bca, cluster_sums
from kpis.errors import StatisticsError
from kpis.multiple import holm
from kpis.paired import (
    mcnemar_exact_one_sided,
    mde,
    required_n,
    tango_interval,
    tango_lower_bound,
    tango_statistic,
    tango_upper_bound,
)
from kpis.permutation import paired_permutation
from kpis.planning import design_effect, detectable_margin, items_for_power, non_inferiority_power
from kpis.proportions import clopper_pearson, required_n_rate, wilson

__all__ = [
    "Interval",
    "clopper_pearson",
    "cluster_bootstrap_bca",
    "cluster_sums",
    "design_effect",
    "detectable_margin",
    "fixed_sequence",
    "holm",
    "items_for_power",
    "log_ratio_interval",
    "log_ratio_moments",
    "mcnemar_exact_one_sided",
    "mde",
    "non_inferiority_power",
    "paired_permutation",
    "required_n",
    "required_n_rate",
    "tango_interval",
    "tango_lower_bound",
    "tango_statistic",
    "tango_upper_bound",
    "wilson",
]

Row = TypeVar("Row")


def log_ratio_moments(dense_s: Sequence[float], skip_s: Sequence[float]) -> tuple[float, float | None]:
    """Mean and standard error of `log(dense / skip)` over pairs; no standard error for a single pair.

    Raises:
        StatisticsError: when the lengths differ, nothing was measured or a time is not above 0.
    """
    if len(dense_s) != len(skip_s) or not dense_s or min(*dense_s, *skip_s) <= 0:
        raise StatisticsError(f"expected pairs of times above 0, got {len(dense_s)} dense and {len(skip_s)} skip times")
    logs = np.log(np.asarray(dense_s, dtype=float) / np.asarray(skip_s, dtype=float))
    error = float(logs.std(ddof=1) / math.sqrt(len(logs))) if len(logs) > 1 else None
    return float(logs.mean()), error


def log_ratio_interval(
    dense_s: Sequence[float], skip_s: Sequence[float], confidence: float = 0.95
) -> tuple[float, float | None, float | None]:
    """Speed-up with its interval from interleaved pairs.

    **Formula**: `exp(m)`, `exp(m -+ t_{n-1} s / sqrt(n))`, m and s mean and standard deviation of
    `log(dense_s[i] / skip_s[i])`.
    **Source**: paired t-interval on log ratios; pairs measured back to back share the state of the machine.
    **Direction**: above 1 the skip model is faster.
    **Undefined when**: a single pair has no interval (both ends None).

    Returns:
        (ratio, low, high).

    Example:
        >>> log_ratio_interval([2.0, 2.0], [1.0, 1.0])
        (2.0, 2.0, 2.0)
    """
    mean, error = log_ratio_moments(dense_s, skip_s)
    if error is None:
        return math.exp(mean), None, None
    reach = float(student_t.ppf(0.5 + confidence / 2.0, len(dense_s) - 1)) * error
    return math.exp(mean), math.exp(mean - reach), math.exp(mean + reach)


def fixed_sequence(rows: Sequence[Row], passes: Callable[[Row], bool]) -> int | None:
    """Index of the last row before the first that fails; None when the first row fails.

    Testing in an order fixed beforehand and stopping at the first failure keeps the error of the whole search
    at that of one test. **Source**: fixed-sequence procedure, as in arXiv 2405.20915.

    Args:
        rows: ordered from the most conservative to the most aggressive setting.
        passes: the test of one row.

    Example:
        >>> fixed_sequence([1, 2, 9, 3], lambda row: row < 5)
        1
    """
    for index, row in enumerate(rows):
        if not passes(row):
            return index - 1 if index else None
    return len(rows) - 1 if rows else None
