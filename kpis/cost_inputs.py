"""What the cost model is told: volume, spending, uncertainty. Every amount is yen without tax."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from kpis.errors import RecordError
from kpis.records import Record
from kpis.speed import SpeedEstimate


@dataclass(frozen=True)
class Volume(Record):
    """Demand that the service must carry."""

    requests_per_month: float
    input_tokens: int
    """Tokens of one prompt."""
    output_tokens: int
    """Tokens of one answer."""
    peak_requests_per_s: float
    hours_per_month: float = 730.0
    """Hours per month during which the machines are paid for."""

    def __post_init__(self) -> None:
        """Refuse a service without demand: its cost per answer would be undefined."""
        for name in ("requests_per_month", "input_tokens", "output_tokens", "peak_requests_per_s", "hours_per_month"):
            if not getattr(self, name) > 0:
                raise RecordError(f"Volume.{name} must be above 0, got {getattr(self, name)}; enter your own demand")


@dataclass(frozen=True)
class Spending(Record):
    """Money that only the skip model costs: once (investment) and every month (upkeep)."""

    engineer_day_jpy: float
    investment_engineer_days: float
    investment_gpu_hours: float = 0.0
    """GPU hours of tuning and sweeping, as measured by the run."""
    investment_other_jpy: float = 0.0
    upkeep_engineer_days_per_month: float = 0.0
    upkeep_gpu_hours_per_month: float = 0.0
    upkeep_other_jpy_per_month: float = 0.0
    retuning_months: int | None = None
    """The measured GPU hours are spent again every so many months; None plans no re-tuning."""

    def __post_init__(self) -> None:
        """Refuse negative amounts, and a cadence shorter than a month."""
        for name in self.__dataclass_fields__:
            if name != "retuning_months" and getattr(self, name) < 0:
                raise RecordError(f"Spending.{name} must be 0 or more, got {getattr(self, name)}")
        if self.retuning_months is not None and self.retuning_months < 1:
            raise RecordError(f"Spending.retuning_months must be 1 or more, or None, got {self.retuning_months}")

    @property
    def upkeep_gpu_hours(self) -> float:
        """GPU hours per month: the planned ones, and re-tuning at its cadence."""
        again = 0.0 if self.retuning_months is None else self.investment_gpu_hours / self.retuning_months
        return self.upkeep_gpu_hours_per_month + again

    def investment_jpy(self, jpy_per_hour: float) -> float:
        """Engineer days, GPU hours and the rest, once."""
        days = self.investment_engineer_days * self.engineer_day_jpy
        return days + self.investment_gpu_hours * jpy_per_hour + self.investment_other_jpy

    def upkeep_jpy(self, jpy_per_hour: float) -> float:
        """Engineer days, GPU hours and the rest, per month."""
        days = self.upkeep_engineer_days_per_month * self.engineer_day_jpy
        return days + self.upkeep_gpu_hours * jpy_per_hour + self.upkeep_other_jpy_per_month


@dataclass(frozen=True)
class Spread(Record):
    """How far an input may be off, relative to its value.

    Triangular from `1 - x` to `1 + x` (upkeep and investment to `1 + 2x`, they rarely turn out cheaper); the
    exchange rate is log-normal with sigma `fx`; `target_load` is absolute.
    """

    price: float = 0.15
    fx: float = 0.08
    volume: float = 0.30
    target_load: float = 0.10
    upkeep: float = 0.25
    investment: float = 0.25

    def __post_init__(self) -> None:
        """Refuse spreads that would allow a price below 0."""
        for name in self.__dataclass_fields__:
            if not 0.0 <= getattr(self, name) < 1.0:
                raise RecordError(f"Spread.{name} must be within [0, 1), got {getattr(self, name)}")


@dataclass(frozen=True)
class CostInputs(Record):
    """Everything the cost model needs beside prices."""

    dense_request_s: float
    """Seconds of one whole request of the dense model at `concurrency`, measured within the promised times."""
    speed: SpeedEstimate
    """Measured speed-up of whole requests, with its spread."""
    volume: Volume
    spending: Spending
    concurrency: int = 1
    """Requests one replica works on at the same time while keeping the promised times."""
    spread: Spread = field(default_factory=Spread)
    target_load: float = 0.70
    """Share of a replica's capacity that is planned for at the peak."""
    min_replicas: int = 1
    horizon_months: int = 36
    discount_rate: float = 0.05
    """Per year."""
    n_draws: int = 10_000
    spot_share: float = 0.0
    """Share of the paid hours on spot machines, which may be taken away at any time."""
    accuracy_dense: float | None = None
    accuracy_skip: float | None = None
    basis: Literal["measured_this_machine", "measured_target_device"] = "measured_this_machine"

    def __post_init__(self) -> None:
        """Refuse inputs on which no cost can be computed."""
        if not (self.dense_request_s > 0 and 0 < self.target_load <= 1):
            raise RecordError(
                f"CostInputs: expected dense_request_s > 0 and target_load within (0, 1], "
                f"got {self.dense_request_s} and {self.target_load}"
            )
        if not 0.0 <= self.spot_share <= 1.0:
            raise RecordError(f"CostInputs.spot_share must be within [0, 1], got {self.spot_share}")
        if min(self.concurrency, self.min_replicas, self.horizon_months) < 1 or self.n_draws < 100:
            raise RecordError(
                "CostInputs: expected concurrency, min_replicas, horizon_months >= 1 and n_draws >= 100, got "
                f"{self.concurrency}, {self.min_replicas}, {self.horizon_months}, {self.n_draws}"
            )
        if self.discount_rate <= -1:
            raise RecordError(f"CostInputs.discount_rate must be above -1 per year, got {self.discount_rate}")

    @property
    def dense_requests_per_s(self) -> float:
        """Requests per second of one dense replica within the promised times."""
        return self.concurrency / self.dense_request_s
