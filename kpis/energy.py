"""Energy and CO2 equivalents from measured joules. Without a meter there is no figure: a rated power is no reading.

The factors of the grid are dated and meant to be replaced by the one that your electricity supplier publishes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kpis.errors import RecordError, StatisticsError
from kpis.records import Record

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class GridFactor:
    """Emission factor of an electricity grid."""

    kg_per_kwh: float
    year: int | None
    """None where the source names none."""
    source: str


GRID_FACTORS = {
    "japan": GridFactor(0.4854, 2023, "CodeCarbon 3.3.2, Japan"),
    "gcp_tokyo": GridFactor(0.459, None, "CodeCarbon 3.3.2, Google Cloud Tokyo"),
    "gcp_osaka": GridFactor(0.385, None, "CodeCarbon 3.3.2, Google Cloud Osaka"),
}
"""Companies report with the supplier's factor published for the fiscal year; these are only defaults."""


@dataclass(frozen=True)
class EnergyPairs(Record):
    """Joules of interleaved runs, `dense_j[i]` and `skip_j[i]` back to back, each over `tokens` output tokens."""

    dense_j: tuple[float, ...]
    skip_j: tuple[float, ...]
    tokens: int
    meter: str
    """What was read, such as "NVML total energy of GPU 0"."""

    def __post_init__(self) -> None:
        """Refuse unpaired or impossible readings."""
        if len(self.dense_j) != len(self.skip_j) or not self.dense_j or self.tokens < 1:
            raise RecordError(
                f"EnergyPairs: expected as many skip as dense readings, at least one, and tokens >= 1, got "
                f"{len(self.skip_j)}, {len(self.dense_j)} and {self.tokens}; measure both models in turn"
            )
        if min(*self.dense_j, *self.skip_j) <= 0:
            raise RecordError("EnergyPairs: every reading must be above 0 J; a meter that shows 0 has not counted")


def joule_per_token(joules: float, tokens: int) -> float:
    """Energy per output token.

    **Formula**: `joules / output tokens`.
    **Source**: as in vLLM's benchmark and Zeus; readings of the device, not its rated power.
    **Direction**: lower is better.

    Example:
        >>> joule_per_token(250.0, 100)
        2.5
    """
    if not (joules > 0 and tokens > 0):
        raise StatisticsError(f"expected joules and tokens above 0, got {joules} and {tokens}; 0 J means no reading")
    return joules / tokens


def monthly_kwh(joules_per_token: float, tokens_per_month: float, pue: float = 1.0) -> float:
    """Electricity of a month.

    **Formula**: `J/token x tokens x PUE / 3.6e6`; PUE = power of the site / power of its machines.
    **Direction**: lower is better.

    Example:
        >>> monthly_kwh(3.6, 1e6)
        1.0
    """
    if not (joules_per_token > 0 and tokens_per_month > 0 and pue >= 1.0):
        raise StatisticsError(
            f"expected joules and tokens above 0 and a PUE of 1 or more, got {joules_per_token}, "
            f"{tokens_per_month} and {pue}"
        )
    return joules_per_token * tokens_per_month * pue / JOULES_PER_KWH


def kg_co2e(kwh: float, kg_per_kwh: float = GRID_FACTORS["japan"].kg_per_kwh) -> float:
    """Emissions of that electricity.

    **Formula**: `kWh x factor of the grid`.
    **Source**: `GRID_FACTORS`, or the factor of your supplier.
    **Direction**: lower is better.

    Example:
        >>> kg_co2e(100.0, 0.45)
        45.0
    """
    if kwh < 0 or kg_per_kwh < 0:
        raise StatisticsError(f"expected kWh and factor of 0 or more, got {kwh} and {kg_per_kwh}")
    return kwh * kg_per_kwh


def energy(
    pairs: EnergyPairs | None, tokens_per_month: float, *, grid: str = "japan", pue: float = 1.0
) -> dict[str, Any]:
    """Energy of both models: joules per token, kWh and kg CO2e per month, and whose factor was used.

    **Undefined when**: nothing was metered; every figure is then None with the reason.

    Example:
        >>> energy(None, 1e6)["reason"]
        'energy_not_measured'
    """
    factor = GRID_FACTORS[grid]
    shown: dict[str, Any] = {
        "grid": grid, "kg_per_kwh": factor.kg_per_kwh, "factor_year": factor.year, "factor_source": factor.source,
        "pue": pue, "meter": None if pairs is None else pairs.meter,
    }  # fmt: skip
    if pairs is None:
        nothing = dict.fromkeys(("dense", "skip"))
        return {**shown, "reason": "energy_not_measured", "joule_per_token": nothing, "kwh_per_month": nothing,
                "kg_co2e_per_month": nothing}  # fmt: skip
    per_token = {
        side: joule_per_token(sum(readings), pairs.tokens * len(readings))
        for side, readings in (("dense", pairs.dense_j), ("skip", pairs.skip_j))
    }
    kwh = {side: monthly_kwh(value, tokens_per_month, pue) for side, value in per_token.items()}
    return {**shown, "reason": None, "joule_per_token": per_token, "kwh_per_month": kwh,
            "kg_co2e_per_month": {side: kg_co2e(value, factor.kg_per_kwh) for side, value in kwh.items()}}  # fmt: skip
