"""Errors of this package.

    KpiError             anything a caller may want to catch
    ├── RecordError      a record has an unknown, missing or impossible field
    ├── PriceError       the price file is incomplete or a price id is unknown
    └── StatisticsError  a statistic was asked for values it is not defined on

Every message says what was expected, what was found, where, and what to do next.
"""

from __future__ import annotations


class KpiError(ValueError):
    """Base of every error raised by this package."""


class RecordError(KpiError):
    """A record has an unknown, missing or impossible field."""


class PriceError(KpiError):
    """The price file is incomplete, or a price id is unknown."""


class StatisticsError(KpiError):
    """A statistic was asked for values on which it is not defined."""
