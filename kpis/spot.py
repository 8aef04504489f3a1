"""Spot machines: cheaper hours that may be taken away, as a share of all paid hours."""

from __future__ import annotations

from kpis.errors import PriceError, StatisticsError
from kpis.prices import GpuPrice, PriceBook, jpy_per_hour

SPOT_OVERHEAD = 0.10
"""Hours paid again after interruptions, per spot hour: an assumption, to be replaced by what you observe."""


def blended_hourly(on_demand: float, spot: float, share: float, overhead: float) -> float:
    """Hourly price when a share of the hours runs on spot machines.

    **Formula**: `(1 - s) P_on_demand + s P_spot (1 + overhead)`.
    **Direction**: lower is better.

    Example:
        >>> blended_hourly(100.0, 40.0, 0.5, 0.25)
        75.0
    """
    if not (on_demand > 0 and spot > 0 and 0 <= share <= 1 and overhead >= 0):
        raise StatisticsError(
            f"expected prices above 0, a share within [0, 1] and an overhead of 0 or more, got {on_demand}, {spot}, "
            f"{share} and {overhead}"
        )
    return (1.0 - share) * on_demand + share * spot * (1.0 + overhead)


def paid_per_hour(book: PriceBook, gpu: GpuPrice, share: float) -> float:
    """Yen without tax that an hour of a machine costs under the planned spot share.

    **Formula**: `blended_hourly` of the row and of its spot row (same provider, device and region).
    **Direction**: lower is better.

    Raises:
        PriceError: when spot hours are planned and the price file has no spot row for this machine.
    """
    per_hour = jpy_per_hour(book, gpu)
    if share == 0.0:
        return per_hour
    twin = book.spot_twin(gpu)
    if twin is None:
        raise PriceError(
            f"a spot share of {share} is planned, but the price file has no spot row for {gpu.id} (same provider, "
            "device and region); add one with its date, or set cost.spot_share to 0"
        )
    return blended_hourly(per_hour, jpy_per_hour(book, twin), share, SPOT_OVERHEAD)
