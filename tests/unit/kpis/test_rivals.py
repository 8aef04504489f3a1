from collections.abc import Callable
from typing import Any

import pytest

from kpis.errors import RecordError
from kpis.rivals import Arm, better_choice, rise_over, rivals

Make = Callable[..., Any]


@pytest.fixture
def make_arm(make_document: Make) -> Make:
    """Thirty documents with a given number of nats more than the dense model's 200, and some scatter."""

    def make(extra: float, skip_rate: float = 0.2, **options: Any) -> Arm:
        documents = [
            make_document(document_id=f"d{i}", nll_skip=200.0 + extra + 0.1 * (i % 5)) for i in range(30)
        ]  # fmt: skip
        return Arm(documents, skip_rate, **options)

    return make


def row(own: Any, name: str, other: Any, speedup: float | None = None) -> dict[str, Any]:
    """The row of one rival."""
    return rivals(own, {name: other}, speedup)[0]


def test_rise_by_hand(make_arm: Make) -> None:
    """One nat more on every 100 tokens is a perplexity exp(0.01) times as high, without any scatter."""
    rise = rise_over(make_arm(0.0).documents, make_arm(1.0).documents)

    assert rise.value == pytest.approx(0.010050167)
    assert rise.low == pytest.approx(rise.value)
    assert rise.high == pytest.approx(rise.value)


def test_identical_predictions_prefer_the_simpler_model(make_arm: Make) -> None:
    """Dropped layers that predict exactly the same at the same rate make the router pointless."""
    assert row(make_arm(1.0), "static_drop", make_arm(1.0))["state"] == "better"


@pytest.mark.parametrize(
    ("extra", "rate", "reason"),
    [
        (2.0, 0.2, "rival_predicts_worse"),
        (0.0, 0.2, "no_worse_and_simpler"),
        (0.0, 0.181, "no_worse_and_simpler"),
        (0.0, 0.1, "rival_saves_less"),
    ],
)
def test_dropped_layers(make_arm: Make, extra: float, rate: float, reason: str) -> None:
    """They must predict no worse and leave out as much work, give or take a layer."""
    found = row(make_arm(1.0), "static_drop", make_arm(extra, rate))

    assert found["reason"] == reason
    assert found["state"] == ("better" if reason == "no_worse_and_simpler" else "not_better")


def test_open_between_better_and_worse(make_arm: Make, make_document: Make) -> None:
    """Documents that pull both ways show nothing, so the rival is not called better."""
    noisy = Arm([make_document(document_id=f"d{i}", nll_skip=201.0 + (-1) ** i * 5) for i in range(30)], 0.2)

    assert row(make_arm(1.0), "static_drop", noisy)["reason"] == "rival_not_shown_equal"


@pytest.mark.parametrize(
    ("low", "speedup", "reason"),
    [(1.5, 1.3, "no_worse_and_simpler"), (1.2, 1.3, "rival_saves_less"), (None, 1.3, "rival_not_timed"),
     (1.5, None, "rival_not_timed")],
)  # fmt: skip
def test_int8_needs_its_own_clock(make_arm: Make, low: float | None, speedup: float | None, reason: str) -> None:
    """A rival that skips nothing must be timed and be at least as fast."""
    assert row(make_arm(1.0), "int8", make_arm(0.0, 0.0, speedup_low=low), speedup)["reason"] == reason


def test_absent_records_are_none_with_a_reason(make_arm: Make) -> None:
    """No int8 record, and no chosen threshold to compare with."""
    assert row(make_arm(1.0), "int8", None) == {
        "name": "int8", "state": "not_measured", "reason": "int8_not_measured", "ppl_rise": None, "low": None,
        "high": None, "n": 0, "skip_rate": None,
    }  # fmt: skip
    assert row(None, "static_drop", make_arm(1.0))["reason"] == "no_threshold_chosen"


def test_other_documents_are_refused(make_arm: Make) -> None:
    """A comparison of different texts is not paired."""
    with pytest.raises(RecordError, match="one split"):
        rise_over(make_arm(0.0).documents, make_arm(0.0).documents[:-1])


def test_what_to_run() -> None:
    """Dense after a No-Go, nothing while evidence is missing, the better rival, else the skip model."""
    better, worse = [{"name": "int8", "state": "better"}], [{"name": "int8", "state": "not_better"}]

    assert better_choice("no_go", better) == "dense"
    assert better_choice("no_go_insufficient_evidence", better) is None
    assert better_choice("conditional_go", better) == "int8"
    assert better_choice("go", worse) == "skip"
