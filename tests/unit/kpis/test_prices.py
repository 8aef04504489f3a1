import copy
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpis.errors import PriceError
from kpis.prices import DEFAULT_PATH, load_prices, parse_prices, price_fields, stale_state

ON = date(2026, 11, 24)


@pytest.fixture
def raw() -> dict[str, Any]:
    """The parsed content of the shipped price file."""
    loaded: dict[str, Any] = yaml.safe_load(DEFAULT_PATH.read_text(encoding="utf-8"))
    return copy.deepcopy(loaded)


def test_shipped_file_is_complete() -> None:
    """The shipped file loads, has a Tokyo and a yen offer, and a dated exchange rate with its source."""
    book = load_prices()

    assert any(row.region == "ap-northeast-1" for row in book.gpus)
    assert any(row.currency == "JPY" and row.tax_included for row in book.gpus)
    assert not book.fx.is_placeholder
    assert book.fx.jpy_per_usd == pytest.approx(175.68 / 1.1172, abs=5e-3)
    assert (book.fx.as_of, "175.68 yen and 1.1172 dollars" in book.fx.source) == (date(2026, 10, 30), True)
    assert stale_state(book.fx.as_of, ON) == "ok"


def test_shipped_offers() -> None:
    """Ten to twenty machines: Tokyo, Japanese, spot and on demand; every row dated, sourced and with a confidence."""
    book = load_prices()

    assert 10 <= len(book.gpus) <= 20
    assert {"on_demand", "spot"} <= {row.market for row in book.gpus if row.region == "ap-northeast-1"}
    assert {row.provider for row in book.gpus if row.currency == "JPY"} == {"Sakura internet"}
    for row in (*book.gpus, *book.apis):
        assert row.source
        assert row.as_of <= ON
        assert stale_state(row.as_of, ON) in ("ok", "warning")
    for row in book.gpus:
        assert row.n_gpus == int(row.device.split("x")[0])
        assert (row.market == "spot") == row.name.endswith("spot")


def test_a_source_without_a_date_is_at_least_a_warning() -> None:
    """Read yesterday is not valid yesterday: the true age is unknown, however fresh the day looks."""
    book = load_prices().with_fx(150.0, ON, "finance department")
    undated, dated = book.gpu("aws-g6e-xlarge-tokyo"), book.gpu("aws-g6-xlarge-us-east-1")

    assert not undated.is_dated
    assert price_fields(book, undated, ON)["stale"] == "warning"
    assert price_fields(book, dated, ON)["stale"] == "ok"
    assert price_fields(book, replace(dated, confidence="C"), ON)["stale"] == "warning"


def test_spot_twin_is_the_same_machine() -> None:
    """Provider, device and region must match; a spot row is not its own twin."""
    book = load_prices()

    twin = book.spot_twin(book.gpu("azure-h100-eastus"))
    assert twin is not None
    assert twin.id == "azure-h100-eastus-spot"
    assert book.spot_twin(book.gpu("azure-h100-eastus-spot")) is None
    assert book.spot_twin(book.gpu("aws-g6-xlarge-us-east-1")) is None


def test_a_machine_without_gpu_slot_is_refused(raw: dict[str, Any]) -> None:
    """Zero GPUs per machine would divide by nothing."""
    raw["gpu"][0]["n_gpus"] = 0

    with pytest.raises(PriceError, match="n_gpus must be 1 or more"):
        parse_prices(raw, "prices.yaml")


@pytest.mark.parametrize("value", [None, 0, -1.0, "12", True])
def test_a_missing_price_is_an_error(raw: dict[str, Any], value: object) -> None:
    """Nothing, 0, a negative number, a text or a truth value is never taken as a price."""
    raw["gpu"][0]["per_hour"] = value

    with pytest.raises(PriceError, match=r"gpu\[0\].*per_hour"):
        parse_prices(raw, "prices.yaml")


def test_a_missing_field_is_an_error(raw: dict[str, Any]) -> None:
    """A row without its date or price names the field."""
    del raw["api"][1]["per_mtok_output"]

    with pytest.raises(PriceError, match=r"api\[1\].*per_mtok_output"):
        parse_prices(raw, "prices.yaml")


def test_unknown_keys_and_double_ids_are_errors(raw: dict[str, Any]) -> None:
    """A typo and a repeated id are refused."""
    typo = copy.deepcopy(raw)
    typo["gpu"][0]["perhour"] = 1.0
    with pytest.raises(PriceError, match="perhour"):
        parse_prices(typo, "prices.yaml")

    raw["gpu"].append(raw["gpu"][0])
    with pytest.raises(PriceError, match="every id once"):
        parse_prices(raw, "prices.yaml")


def test_a_date_with_time_is_refused(raw: dict[str, Any]) -> None:
    """Price dates are days; a text is not a date."""
    raw["fx"]["as_of"] = "2026/11/23"

    with pytest.raises(PriceError, match="as_of"):
        parse_prices(raw, "prices.yaml")


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that is not there ends in a message with its path."""
    with pytest.raises(PriceError, match=r"missing\.yaml"):
        load_prices(tmp_path / "missing.yaml")


def test_unknown_id_lists_the_known_ones() -> None:
    """The message for a wrong id helps to find the right one."""
    with pytest.raises(PriceError, match="sakura-dok-h100"):
        load_prices().gpu("h100")


@pytest.mark.parametrize(
    ("day", "state"),
    [
        (date(2026, 9, 6), "ok"),
        (date(2026, 8, 26), "ok"),
        (date(2026, 8, 25), "warning"),
        (date(2026, 5, 28), "warning"),
        (date(2026, 5, 27), "block"),
        (date(2026, 12, 1), "warning"),
    ],
)
def test_age_of_prices(day: date, state: str) -> None:
    """Up to 90 days fresh, up to 180 a warning, then blocked; a date in the future is suspicious."""
    assert stale_state(day, ON) == state


def test_yen_without_tax() -> None:
    """1,008 yen with 10 % tax are 916.36 without; a dollar price goes through the exchange rate."""
    book = load_prices().with_fx(100.0, date(2026, 11, 20), "finance department")

    yen = price_fields(book, book.gpu("sakura-dok-h100"), ON)
    dollar = price_fields(book, book.gpu("aws-g6-xlarge-us-east-1"), ON)
    assert yen["jpy_per_hour"] == pytest.approx(1008 / 1.1)
    assert yen["usd_per_hour"] is None
    assert dollar["jpy_per_hour"] == pytest.approx(80.48)
    assert (dollar["fx_date"], dollar["stale"], dollar["age_days"]) == ("2026-11-20", "ok", 79)


def test_placeholder_rate_is_a_warning_for_dollar_prices_only() -> None:
    """An exchange rate nobody entered cannot be fresh."""
    shipped = load_prices()
    book = replace(shipped, fx=replace(shipped.fx, is_placeholder=True))

    assert price_fields(book, book.gpu("aws-g6-xlarge-us-east-1"), ON)["stale"] == "warning"
    assert price_fields(book, book.gpu("sakura-dok-h100"), ON)["stale"] == "ok"
