"""Dated prices: strict reading of the price file, yen without tax, and age.

The only file of this package that reads from disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from kpis.errors import PriceError, RecordError
from kpis.records import Record

DEFAULT_PATH = Path(__file__).with_name("prices.yaml")
Stale = Literal["ok", "warning", "block"]
R = TypeVar("R", bound=Record)
P = TypeVar("P", "GpuPrice", "ApiPrice")


@dataclass(frozen=True)
class GpuPrice(Record):
    """Hourly price of one machine."""

    id: str
    provider: str
    name: str
    device: str
    currency: Literal["JPY", "USD"]
    per_hour: float
    as_of: date
    source: str
    region: str
    tax_included: bool
    confidence: Literal["A", "B", "C"]
    market: Literal["on_demand", "spot", "average"] = "on_demand"
    """`spot` may be taken away at any time; `average` is what a tracker saw, not an offer."""
    n_gpus: int = 1
    """GPUs of one machine. A replica needs one of them, but the machine is rented whole."""
    is_dated: bool = True
    """False: the source names no day, so `as_of` is the day it was read and the true age is unknown."""

    def __post_init__(self) -> None:
        """Refuse a machine without a GPU slot: it would serve nothing."""
        if self.n_gpus < 1:
            raise RecordError(f"GpuPrice.n_gpus must be 1 or more, got {self.n_gpus}; a CPU machine counts as 1")


@dataclass(frozen=True)
class ApiPrice(Record):
    """Price of a hosted model per million tokens."""

    id: str
    provider: str
    name: str
    currency: Literal["JPY", "USD"]
    per_mtok_input: float
    per_mtok_output: float
    as_of: date
    source: str
    tax_included: bool
    confidence: Literal["A", "B", "C"]


@dataclass(frozen=True)
class ExchangeRate(Record):
    """Yen per US dollar: an input of the user, never fetched."""

    jpy_per_usd: float
    as_of: date
    source: str
    is_placeholder: bool


@dataclass(frozen=True)
class PriceBook:
    """All rows of one price file."""

    tax_rate: float
    fx: ExchangeRate
    gpus: tuple[GpuPrice, ...]
    apis: tuple[ApiPrice, ...]

    def gpu(self, price_id: str) -> GpuPrice:
        """Row of a machine.

        Raises:
            PriceError: when the id is unknown; the message lists the known ones.
        """
        return _find(self.gpus, price_id, "gpu")

    def api(self, price_id: str) -> ApiPrice:
        """Row of a hosted model.

        Raises:
            PriceError: when the id is unknown; the message lists the known ones.
        """
        return _find(self.apis, price_id, "api")

    def spot_twin(self, price: GpuPrice) -> GpuPrice | None:
        """The spot row of the same provider, device and region, or None when the file has none."""
        for row in self.gpus:
            same = (row.provider, row.device, row.region) == (price.provider, price.device, price.region)
            if same and row.market == "spot" and row.id != price.id:
                return row
        return None

    def with_fx(self, jpy_per_usd: float, as_of: date, source: str) -> PriceBook:
        """The same book with the user's own exchange rate."""
        rate = ExchangeRate(jpy_per_usd, as_of, source, is_placeholder=False)
        _check_amounts({"jpy_per_usd": jpy_per_usd}, "fx")
        return replace(self, fx=rate)


def load_prices(path: Path = DEFAULT_PATH) -> PriceBook:
    """Read and check a price file.

    Raises:
        PriceError: when the file cannot be read, a key is unknown or missing, a price is not above 0, a date is
            not a date, or an id appears twice.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PriceError(f"cannot read the price file {path}: {error}") from error
    return parse_prices(raw, str(path))


def parse_prices(raw: Any, where: str) -> PriceBook:
    """Check the parsed content of a price file; `where` names it in messages."""
    keys = {"schema_version", "tax_rate", "fx", "gpu", "api"}
    if not isinstance(raw, dict) or set(raw) != keys:
        got = sorted(raw) if isinstance(raw, dict) else type(raw).__name__
        raise PriceError(f"{where}: expected exactly the keys {sorted(keys)}, got {got}")
    if raw["schema_version"] != 1:
        raise PriceError(f"{where}: expected schema_version 1, got {raw['schema_version']!r}")
    tax_rate = raw["tax_rate"]
    if isinstance(tax_rate, bool) or not isinstance(tax_rate, int | float) or not 0.0 <= tax_rate < 1.0:
        raise PriceError(f"{where}: tax_rate must be within [0, 1), got {tax_rate!r}")
    fx = _row(ExchangeRate, raw["fx"], f"{where}: fx")
    gpus = tuple(_row(GpuPrice, row, f"{where}: gpu[{i}]") for i, row in enumerate(_rows(raw["gpu"], where)))
    apis = tuple(_row(ApiPrice, row, f"{where}: api[{i}]") for i, row in enumerate(_rows(raw["api"], where)))
    ids = [row.id for row in gpus] + [row.id for row in apis]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise PriceError(f"{where}: expected every id once, got {twice} more often")
    return PriceBook(float(tax_rate), fx, gpus, apis)


def to_jpy(amount: float, currency: str, tax_included: bool, tax_rate: float, jpy_per_usd: float) -> float:
    """Yen without tax.

    **Formula**: `amount x rate / (1 + tax)`; rate 1 for yen, the division only if tax is included.

    Example:
        >>> round(to_jpy(1008.0, "JPY", True, 0.10, 150.0), 2)
        916.36
    """
    yen = amount * (jpy_per_usd if currency == "USD" else 1.0)
    return yen / (1.0 + tax_rate) if tax_included else yen


def age_days(as_of: date, on: date) -> int:
    """Days between a price date and a given day; a price from the future counts as 0 days old."""
    return max(0, (on - as_of).days)


def stale_state(as_of: date, on: date, warning_days: int = 90, block_days: int = 180) -> Stale:
    """Whether a price is fresh, old (warning) or too old to support a Go (block).

    A date in the future is a mistake in the file or in the clock, so it counts as a warning.

    Example:
        >>> stale_state(date(2026, 9, 6), date(2026, 12, 31))
        'warning'
    """
    age = (on - as_of).days
    if age > block_days:
        return "block"
    return "warning" if age > warning_days or age < 0 else "ok"


def worst_state(states: Sequence[Stale]) -> Stale:
    """The worst of several age states.

    Example:
        >>> worst_state(["ok", "block", "warning"])
        'block'
    """
    order: tuple[Stale, ...] = ("ok", "warning", "block")
    return max(states, key=order.index)


def price_fields(
    book: PriceBook, price: GpuPrice, on: date, warning_days: int = 90, block_days: int = 180
) -> dict[str, Any]:
    """The `cost.price` object of result.json.

    `stale` and `age_days` are the worse of the hourly price and, for a dollar price, the exchange rate. A
    placeholder exchange rate, a source without a date and a price of confidence C are at least a warning.
    """
    in_dollars = price.currency == "USD"
    dates = [price.as_of] + ([book.fx.as_of] if in_dollars else [])
    states = [stale_state(day, on, warning_days, block_days) for day in dates]
    if (in_dollars and book.fx.is_placeholder) or not price.is_dated or price.confidence == "C":
        states.append("warning")
    return {
        "name": f"{price.name} ({price.device}, {price.region})",
        "provider": price.provider,
        "jpy_per_hour": jpy_per_hour(book, price),
        "usd_per_hour": price.per_hour if price.currency == "USD" else None,
        "fx_jpy_per_usd": book.fx.jpy_per_usd,
        "fx_date": book.fx.as_of.isoformat(),
        "as_of": price.as_of.isoformat(),
        "source": price.source,
        "age_days": max(age_days(day, on) for day in dates),
        "tax_rate": book.tax_rate,
        "tax_included": price.tax_included,
        "stale": worst_state(states),
    }


def jpy_per_hour(book: PriceBook, price: GpuPrice) -> float:
    """Hourly price in yen without tax."""
    return to_jpy(price.per_hour, price.currency, price.tax_included, book.tax_rate, book.fx.jpy_per_usd)


def _rows(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise PriceError(f"{where}: expected a list with at least one price row, got {value!r}")
    return value


def _row(kind: type[R], raw: Any, where: str) -> R:
    if not isinstance(raw, dict):
        raise PriceError(f"{where}: expected a mapping of fields, got {raw!r}")
    try:
        row = kind.from_json(raw)
    except RecordError as error:
        raise PriceError(f"{where}: {error}") from error
    _check_amounts({key: value for key, value in raw.items() if key.startswith(("per_", "jpy_per_"))}, where)
    return row


def _check_amounts(amounts: dict[str, float], where: str) -> None:
    for key, value in amounts.items():
        if not value > 0:
            raise PriceError(f"{where}: {key} must be above 0, got {value}; leave out a row whose price is unknown")


def _find(rows: tuple[P, ...], price_id: str, kind: str) -> P:
    for row in rows:
        if row.id == price_id:
            return row
    raise PriceError(f"unknown {kind} price {price_id!r}; expected one of {[row.id for row in rows]}")
