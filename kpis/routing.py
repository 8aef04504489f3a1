"""Counted work: what was skipped, and what that could save at best. Nothing here is a time."""

from __future__ import annotations

from kpis.errors import StatisticsError


def skip_rate(n_executed: int, n_positions: int) -> float | None:
    """Share of (token, layer) pairs that were skipped.

    **Formula**: `1 - executed / positions`.
    **Direction**: neither; more skipping is only good if quality holds and time falls.
    **Undefined when**: no position was counted (None).

    Example:
        >>> skip_rate(75, 100)
        0.25
    """
    if not 0 <= n_executed <= n_positions:
        raise StatisticsError(f"expected 0 <= executed <= positions, got {n_executed} and {n_positions}")
    return 1.0 - n_executed / n_positions if n_positions else None


def effective_layers(skip_rate_all_layers: float, n_layers: int) -> float:
    """Mean number of layers a token runs through.

    **Formula**: `(1 - skip rate) L`, skip rate over all L layers.

    Example:
        >>> effective_layers(0.2, 30)
        24.0
    """
    if not 0.0 <= skip_rate_all_layers <= 1.0 or n_layers < 1:
        raise StatisticsError(
            f"expected a skip rate within [0, 1] and at least one layer, got {skip_rate_all_layers} and {n_layers}"
        )
    return (1.0 - skip_rate_all_layers) * n_layers


def estimated_ceiling(skipped_share: float, skippable_time_share: float) -> float:
    """Speed-up that would result if every skipped layer cost nothing at all.

    **Formula**: `1 / (1 - k f)`; k skipped share of layers, f share of time spent in layers.
    **Source**: Amdahl's law. An estimate, never shown as a measurement and never turned into yen.

    Raises:
        StatisticsError: unless both shares are within [0, 1] and their product is below 1.

    Example:
        >>> round(estimated_ceiling(0.3, 0.85), 2)
        1.34
    """
    if not (0.0 <= skipped_share <= 1.0 and 0.0 <= skippable_time_share <= 1.0):
        raise StatisticsError(f"expected shares within [0, 1], got {skipped_share} and {skippable_time_share}")
    product = skipped_share * skippable_time_share
    if product >= 1.0:
        raise StatisticsError("the ceiling is infinite: everything was skipped and nothing else takes time")
    return 1.0 / (1.0 - product)


MIN_CEILING_FOR_CONVERSION = 1.02
"""Least estimated ceiling for which a share of its gain means anything; timing noise alone is about 2 %."""


def conversion(measured_speedup: float, ceiling: float) -> float | None:
    """Share of the estimated gain that the clock really shows.

    **Formula**: `(G - 1) / (ceiling - 1)`.
    **Direction**: higher is better; negative means slower than dense, above 1 means the ceiling was estimated
    too low.
    **Undefined when**: the ceiling is below 1.02 (None). Nothing or next to nothing was skipped then, and the
    quotient of a timing error and a gain near 0 would print as thousands of per cent.

    Example:
        >>> round(conversion(1.17, 1.34), 2)
        0.5
    """
    if ceiling < MIN_CEILING_FOR_CONVERSION:
        return None
    return (measured_speedup - 1.0) / (ceiling - 1.0)
