"""The registered limits of the gates, with their defaults.

Defaults are proposals. A PoC registers its own values before the first measurement; a change after that is
printed in the report as a deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

from kpis.errors import RecordError
from kpis.records import Record

_FRACTIONS = (
    "alpha",
    "power",
    "quality_margin",
    "planning_flip_rate",
    "max_flip_rate",
    "max_harmful_rate",
    "min_agreement",
    "max_over_skip",
    "slice_margin",
    "min_saving_probability",
    "refuted_probability",
    "min_npv_probability",
    "max_over_skip_validation",
)


@dataclass(frozen=True)
class GateLimits(Record):
    """Limits of all gates. Fractions are 0..1, times are seconds, ages are days.

    Raises:
        RecordError: when a value is outside its range.
    """

    alpha: float = 0.05
    """One-sided error of every statistical gate."""
    power: float = 0.80
    """Power with which a sample size is planned."""
    quality_margin: float = 0.02
    """Q1: accepted loss of accuracy (0.02 = two points)."""
    planning_flip_rate: float = 0.05
    """D1: share of flipped answers assumed when the sample size was planned."""
    max_flip_rate: float = 0.10
    """Q2: answers that may change between right and wrong."""
    max_harmful_rate: float = 0.05
    """Q2: answers that may change from right to wrong."""
    min_agreement: float = 0.90
    """Q3, and the agreement a sweep row needs on validation."""
    max_over_skip: float = 0.01
    """Q4: over-skipped critical tokens, upper bound on the test split."""
    max_selectivity: float = 0.5
    """Q5: skipped share on critical tokens divided by that on other tokens."""
    max_must_pass_failures: int = 0
    """Q6: failures among the listed must-pass cases."""
    slice_margin: float = 0.05
    """Q7: accepted loss of accuracy in the worst slice."""
    min_slice_n: int = 30
    """Q7: items a slice needs to be judged."""
    min_speedup: float = 1.10
    """S1: measured speed-up, lower bound."""
    min_pairs: int = 5
    """S1 and D1: interleaved timing pairs."""
    min_p99_samples: int = 1000
    """S3: requests below which no 99th percentile is given."""
    slo_ttft_s: float = 2.0
    """S3: time to first token promised to users."""
    slo_tpot_s: float = 0.1
    """S3: time per further output token promised to users."""
    min_saving_probability: float = 0.80
    """C3: probability that the monthly saving is positive."""
    refuted_probability: float = 0.50
    """C3 and C4: below this probability the cost case counts as refuted."""
    max_payback_months: float = 12.0
    """C4: months until the investment is recovered."""
    min_npv_probability: float = 0.80
    """C4: probability that the net present value is positive."""
    price_warning_days: int = 90
    """D1: age above which a price is old."""
    price_block_days: int = 180
    """C3 and C4: age above which a price cannot support a Go."""
    max_test_openings: int = 1
    """D1: times the test split may be opened."""
    max_ppl_rise: float = 0.05
    """Sweep: upper bound of the perplexity rise on validation."""
    max_over_skip_validation: float = 0.01
    """Sweep: share of over-skipped critical tokens on validation."""

    def __post_init__(self) -> None:
        """Refuse limits that no measurement could be held against."""
        for name in _FRACTIONS:
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise RecordError(f"limits.{name} must be within [0, 1], got {value}; correct the registered plan")
        if not (self.quality_margin < 1.0 and 0.0 < self.power < 1.0):
            raise RecordError(
                f"limits.quality_margin must be below 1 and limits.power within (0, 1), got {self.quality_margin} "
                f"and {self.power}; correct the registered plan"
            )
        if not 0.0 < self.alpha < 0.5:
            raise RecordError(f"limits.alpha must be within (0, 0.5), got {self.alpha}; 0.05 is usual")
        for name in ("quality_margin", "slice_margin", "max_over_skip", "slo_ttft_s", "slo_tpot_s"):
            if getattr(self, name) <= 0:
                raise RecordError(f"limits.{name} must be above 0, got {getattr(self, name)}")
        if self.min_speedup <= 0 or self.max_ppl_rise < 0 or self.max_selectivity < 0:
            raise RecordError("limits.min_speedup must be above 0, max_ppl_rise and max_selectivity not below 0")
        if self.min_pairs < 2 or self.min_slice_n < 1 or self.min_p99_samples < 100:
            raise RecordError("limits: expected min_pairs >= 2, min_slice_n >= 1 and min_p99_samples >= 100")
        if not 0 < self.price_warning_days <= self.price_block_days:
            raise RecordError(
                f"limits: expected 0 < price_warning_days <= price_block_days, "
                f"got {self.price_warning_days} and {self.price_block_days}"
            )
