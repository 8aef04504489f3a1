import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kpis.errors import RecordError
from kpis.item_table import ItemTable
from kpis.limits import GateLimits
from kpis.paired import tango_interval, tango_lower_bound
from kpis.proportions import wilson
from kpis.quality import bits_per_byte, bounds, confirmation, perplexity, slices, sweep_passes, sweep_row
from kpis.quality_bounds import delta_bounds, effect_of

Make = Callable[..., Any]
LIMITS = GateLimits()


def confirm(documents: Any, items: Any) -> dict[str, Any]:
    """The confirmation object with one class that has positions and one that has none."""
    return confirmation(
        documents,
        items,
        skip_rate=0.2,
        skip_positions_by_class={"number": (90, 100), "other": (0, 0)},
        noise_floor_flips=None,
        limits=LIMITS,
    )


def test_perplexity_and_bits_by_hand() -> None:
    """Nats of ln 4 per token are a perplexity of 4 and, at one byte per token, two bits per byte."""
    nats = 10 * math.log(4)

    assert perplexity(nats, 10) == pytest.approx(4.0)
    assert bits_per_byte(nats, 10) == pytest.approx(2.0)


def test_identical_models_show_no_difference(make_document: Make, make_items: Make) -> None:
    """Identity: rise 0 with zero width, agreement 1, no flips, no over-skip; bounds of counts stay honest."""
    documents = [make_document(document_id=f"d{i}", nll_dense=100.0 + i, nll_skip=100.0 + i) for i in range(5)]
    items = make_items(both_right=60, both_wrong=40)

    row, confirmed = sweep_row(documents, items), confirm(documents, items)
    assert (row["ppl_rise"], row["ppl_rise_low"], row["ppl_rise_high"]) == (0.0, 0.0, 0.0)
    assert (row["agreement"], row["over_skip"]) == (1.0, 0.0)
    assert (confirmed["n_harmful"], confirmed["n_helpful"]) == (0, 0)
    assert confirmed["accuracy_dense"] == confirmed["accuracy_skip"] == 0.6
    assert row["item_delta_low"] == tango_lower_bound(0, 0, 100)


def test_sweep_row_by_hand(make_document: Make) -> None:
    """Two documents of 100 tokens: sums, shares and selectivity as on paper."""
    documents = [
        make_document(document_id="a", nll_skip=205.0, n_same_top1=90, n_over_skipped=1),
        make_document(document_id="b", nll_skip=215.0, n_same_top1=80),
    ]

    row = sweep_row(documents, [])
    assert row["ppl_dense"] == pytest.approx(math.exp(2.0))
    assert row["ppl_rise"] == pytest.approx(math.exp(20 / 200) - 1)
    assert row["bits_per_byte"] == pytest.approx(420 / (math.log(2) * 800))
    assert row["agreement"] == 0.85
    assert row["critical_recall"] == pytest.approx(0.95)
    assert row["over_skip"] == 1 / 40
    assert row["selectivity"] == pytest.approx(0.05 / 0.25)
    assert (row["item_accuracy"], row["item_reason"], row["n_items"]) == (None, "no_items", 0)


def test_one_document_gives_no_interval_and_does_not_pass(make_document: Make) -> None:
    """The rise over a single document has no interval, so it is not shown to be small."""
    row = sweep_row([make_document()], [])

    assert row["ppl_rise_high"] is None
    assert sweep_passes(row, LIMITS) == (False, ["quality_not_shown"])


def test_no_critical_tokens_is_none_with_a_reason(make_document: Make) -> None:
    """Without critical tokens the guard is undefined, never 0, and the row does not pass."""
    document = make_document(n_critical=0, n_critical_executed=0, n_critical_positions=0)

    row = sweep_row([document, document], [])
    assert (row["over_skip"], row["critical_recall"], row["selectivity"]) == (None, None, None)
    assert sweep_passes(row, LIMITS) == (False, ["no_critical_tokens"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ppl_rise_low": 0.06, "ppl_rise_high": 0.08}, "quality_refuted"),
        ({"ppl_rise_low": 0.01, "ppl_rise_high": 0.08}, "quality_not_shown"),
        ({"over_skip": 0.011}, "critical_over_skip"),
        ({"agreement": 0.89}, "agreement_low"),
        ({"item_accuracy": 0.50, "item_delta_low": -0.12, "n_items": 400}, "items_refuted"),
    ],
)
def test_each_reason_against_a_row(change: dict[str, Any], reason: str) -> None:
    """A passing row fails for exactly the reason that is broken."""
    row = {
        "ppl_rise_low": 0.0,
        "ppl_rise_high": 0.02,
        "over_skip": 0.0,
        "agreement": 0.97,
        "n_items": 0,
        "item_accuracy": 0.6,
        "item_accuracy_dense": 0.6,
        "item_delta_low": None,
    }

    assert sweep_passes(row, LIMITS) == (True, [])
    assert sweep_passes({**row, **change}, LIMITS) == (False, [reason])


def test_confirmation_counts(make_document: Make, make_items: Make) -> None:
    """The 2x2 table, must-pass failures and class shares are counted, empty classes are None."""
    documents = [make_document(document_id=name) for name in "ab"]
    items = make_items(50, 3, 2, 45) + make_items(harmful=1, must_pass=True)

    confirmed = confirm(documents, items)
    assert (confirmed["n_items"], confirmed["n_harmful"], confirmed["n_helpful"]) == (101, 4, 2)
    assert (confirmed["n_must_pass"], confirmed["n_must_pass_failed"]) == (1, 1)
    assert confirmed["accuracy_skip"] == pytest.approx(52 / 101)
    assert confirmed["skip_share_critical"] == pytest.approx(0.05)
    assert [row["skip_rate"] for row in confirmed["skip_rate_by_class"]] == [pytest.approx(0.1), None]


def test_small_slices_have_no_bound(make_items: Make) -> None:
    """A slice below the minimum keeps its accuracy but gets no bound."""
    rows = slices(make_items(30, slice="ja") + make_items(29, slice="en"), LIMITS)

    assert [(row["name"], row["delta_low"] is None) for row in rows] == [("en", True), ("ja", False)]


def test_repeated_items_of_one_source_widen_the_bound(make_document: Make, make_items: Make) -> None:
    """Flips that come in whole sources weigh less than independent ones: the bound gets lower."""
    documents = [make_document(document_id=name) for name in "ab"]

    independent = bounds(documents, make_items(80, 8, 0, 12), LIMITS)
    clustered = bounds(documents, make_items(80, 8, 0, 12, per_cluster=4), LIMITS)
    assert independent.delta_low is not None
    assert clustered.delta_low is not None
    assert clustered.delta_low < independent.delta_low
    assert (clustered.harmful_high or 0) > (independent.harmful_high or 0)


def test_failures_in_one_document_use_the_document_bound(make_document: Make) -> None:
    """Over-skips concentrated in one document raise the bound above the exact bound on tokens."""
    spread = [make_document(document_id=f"d{i}", n_over_skipped=1) for i in range(12)]
    heaped = [make_document(document_id=f"d{i}", n_over_skipped=12 if i == 0 else 0) for i in range(12)]

    low_risk, high_risk = sweep_row(spread, []), sweep_row(heaped, [])
    assert low_risk["over_skip"] == high_risk["over_skip"] == 0.05
    assert high_risk["over_skip_high"] > low_risk["over_skip_high"]


def test_no_documents_is_an_error() -> None:
    """A sweep row of nothing is refused with what to check."""
    with pytest.raises(RecordError, match="check the split"):
        sweep_row([], [])


def test_a_must_pass_case_that_dense_fails_too_is_not_blamed_on_skipping(make_items: Make, make_document: Make) -> None:
    """Only cases that the dense model passes count: of one kept and one wrong in both, one counts, none failed."""
    items = (
        make_items(50, 3, 2, 45) + make_items(both_right=1, must_pass=True) + make_items(both_wrong=1, must_pass=True)
    )
    confirmed = confirm([make_document(document_id=name) for name in "ab"], items)

    assert (confirmed["n_must_pass"], confirmed["n_must_pass_failed"]) == (1, 0)


def test_agreement_of_repeated_items_is_less_certain(make_document: Make, make_items: Make) -> None:
    """Changed answers that come in whole sources widen the interval of Q3 on both sides, as they do for flips."""
    documents = [make_document(document_id=name) for name in "ab"]

    independent = bounds(documents, make_items(80, 8, 0, 12), LIMITS)
    clustered = bounds(documents, make_items(80, 8, 0, 12, per_cluster=4), LIMITS)
    assert (independent.agreement_low, independent.agreement_high) == wilson(92, 100)
    assert (clustered.agreement_low or 1) < (independent.agreement_low or 0) - 0.01
    assert (clustered.agreement_high or 0) > (independent.agreement_high or 1)


def test_bounds_reach_at_least_the_effective_number_of_items() -> None:
    """Eight flips in two of 25 sources are two flips of 25 (times Student's factor), whatever the bootstrap says."""
    numbers = np.repeat(np.arange(25), 4)
    harmful = numbers < 2
    table = ItemTable(np.ones(100, bool), ~harmful, ~harmful, numbers, np.zeros(100, np.intp), 25, ("all",))
    sums = table.sums(-harmful.astype(float))

    effect = effect_of(sums, harmful_sums := table.sums(harmful.astype(float))[:, 0], 0.90)
    assert harmful_sums.tolist()[:3] == [4.0, 4.0, 0.0]
    assert effect == pytest.approx(4.0 * (24 / 25) ** -1 * (99 / 100) * (1.710882 / 1.660391) ** 2, rel=2e-3)
    assert delta_bounds(table, 0.05, 0, 500)[0] <= tango_lower_bound(8, 0, 100)
    assert delta_bounds(table, 0.05, 0, 500)[0] <= tango_interval(8 / effect, 0, 100 / effect, 0.90)[0]
    assert effect_of(table.sums(np.zeros(100)), np.zeros(25), 0.90) == 1.0
