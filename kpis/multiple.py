"""Several tests at once: the chance of any false alarm stays at the registered error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kpis.errors import StatisticsError


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted by Holm's step-down procedure, in the order given; reject where at most alpha.

    **Formula**: sorted upwards, `p*_i = max over j <= i of min(1, (m - j + 1) p_j)`.
    **Source**: Holm 1979; scipy has only the procedures for false discovery rates.
    **Direction**: lower is stronger evidence.
    **Undefined when**: without tests the list is empty.

    Raises:
        StatisticsError: when a p-value is not within [0, 1].

    Example:
        >>> [round(p, 6) for p in holm([0.01, 0.04, 0.03, 0.005])]
        [0.03, 0.06, 0.06, 0.02]
    """
    p = np.asarray(p_values, dtype=float)
    if p.size == 0:
        return []
    if not ((p >= 0.0) & (p <= 1.0)).all():
        raise StatisticsError(f"holm: expected p-values within [0, 1], got {list(p_values)}")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(p.size, 0, -1)))
    adjusted = np.empty_like(stepped)
    adjusted[order] = stepped
    return [float(value) for value in adjusted]
