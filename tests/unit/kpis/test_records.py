from collections.abc import Callable
from typing import Any

import pytest

from kpis.cost_inputs import CostInputs
from kpis.errors import RecordError
from kpis.limits import GateLimits
from kpis.records import DocumentPair, Evidence, ItemPair, TimingPairs

Make = Callable[..., Any]


def test_records_survive_json(make_document: Make, make_items: Make, make_cost_inputs: Make) -> None:
    """Writing and reading gives the same record, nested ones included."""
    timing = TimingPairs("decode", 1, (1.0, 2.0), (0.5, 1.0))

    assert DocumentPair.from_json(make_document().to_json()) == make_document()
    assert ItemPair.from_json(make_items(1)[0].to_json()) == make_items(1)[0]
    assert TimingPairs.from_json(timing.to_json()) == timing
    assert CostInputs.from_json(make_cost_inputs().to_json()) == make_cost_inputs()


def test_unknown_and_missing_keys_are_refused(make_document: Make) -> None:
    """A field that this version does not know, or one that is not there, stops the run by name."""
    data = make_document().to_json()

    with pytest.raises(RecordError, match="n_critcal"):
        DocumentPair.from_json({**data, "n_critcal": 3})
    del data["n_bytes"]
    with pytest.raises(RecordError, match="n_bytes"):
        DocumentPair.from_json(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [("n_tokens", 1.5), ("n_tokens", True), ("nll_skip", "2"), ("nll_skip", float("nan")), ("document_id", 3)],
)
def test_wrong_types_are_refused(make_document: Make, field: str, value: object) -> None:
    """Nothing but an integer standing for a float is converted."""
    with pytest.raises(RecordError, match=field):
        DocumentPair.from_json({**make_document().to_json(), field: value})


@pytest.mark.parametrize(
    "change", [{"n_tokens": 0}, {"n_over_skipped": 21}, {"n_same_top1": 101}, {"n_other_executed": 801}]
)
def test_impossible_counts_are_refused(make_document: Make, change: dict[str, int]) -> None:
    """A part larger than its whole is a broken measurement."""
    with pytest.raises(RecordError, match="d0"):
        make_document(**change)


def test_unpaired_times_are_refused() -> None:
    """Times must come in pairs and be above 0; the phase must be known."""
    with pytest.raises(RecordError, match="as many skip as dense"):
        TimingPairs("decode", 1, (1.0, 2.0), (1.0,))
    with pytest.raises(RecordError, match="above 0"):
        TimingPairs("decode", 1, (0.0,), (1.0,))
    with pytest.raises(RecordError, match="phase"):
        TimingPairs.from_json({"phase": "warmup", "batch": 1, "dense_s": [1.0], "skip_s": [1.0]})


def test_nested_and_optional_fields() -> None:
    """Bounds may be absent; a wrong nested record is refused with its path."""
    facts = {"bounds": None, "functional_check": True, "hardware_matches_target": False, "test_openings": 0}

    assert Evidence.from_json(facts).bounds is None
    with pytest.raises(RecordError, match="QualityBounds"):
        Evidence.from_json({**facts, "bounds": {"delta_low": 0.0}})


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": 0.5},
        {"quality_margin": 0.0},
        {"max_flip_rate": 1.5},
        {"min_pairs": 1},
        {"price_warning_days": 200},
        {"min_speedup": 0.0},
    ],
)
def test_limits_out_of_range_are_refused(change: dict[str, Any]) -> None:
    """A limit no measurement could be held against is refused by name."""
    with pytest.raises(RecordError, match=next(iter(change))):
        GateLimits.from_json(change)
