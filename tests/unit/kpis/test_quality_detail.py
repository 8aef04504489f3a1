import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kpis.errors import RecordError
from kpis.item_table import ItemTable
from kpis.limits import GateLimits
from kpis.paired import mcnemar_exact_one_sided
from kpis.planning import detectable_margin
from kpis.proportions import clopper_pearson, wilson
from kpis.quality_detail import document_rows, flips, mean_self_consistency, noise_floor, slice_rows

Make = Callable[..., Any]
LIMITS = GateLimits()


def test_documents_by_hand_worst_first(make_document: Make) -> None:
    """Bits per byte and perplexity of each document; the largest rise stands first."""
    documents = [
        make_document(document_id="a"),
        make_document(document_id="b", nll_skip=240.0, n_same_top1=90, n_critical=0, n_over_skipped=0),
    ]

    worst, same = document_rows(documents)
    assert (worst["document_id"], same["document_id"]) == ("b", "a")
    assert worst["bits_per_byte_dense"] == pytest.approx(200 / (math.log(2) * 400))
    assert worst["bits_per_byte_rise"] == pytest.approx(40 / (math.log(2) * 400))
    assert worst["ppl_skip"] == pytest.approx(math.exp(2.4))
    assert (worst["over_skip"], same["over_skip"]) == (None, 0.0)
    assert same["bits_per_byte_rise"] == 0.0


def test_flips_are_split_by_direction(make_items: Make) -> None:
    """Seven harmful and three helpful flips of 200 single items, with exact intervals and recovery."""
    row = flips(make_items(140, 7, 3, 50), LIMITS)

    assert [(row[name]["n"], row[name]["share"]) for name in ("harmful", "helpful", "all")] == [
        (7, 0.035), (3, 0.015), (10, 0.05),
    ]  # fmt: skip
    assert (row["harmful"]["low"], row["harmful"]["high"]) == clopper_pearson(7, 200)
    assert row["p_worse"] == mcnemar_exact_one_sided(7, 3)
    assert row["recovery"] == pytest.approx(143 / 147)
    assert row["effective_n"] == pytest.approx(200, abs=1e-6)
    assert row["detectable_margin"] == detectable_margin(int(row["effective_n"]), 0.05)


def test_flips_in_whole_sources_have_fewer_effective_items(make_items: Make) -> None:
    """Flips that come four at a time count as a quarter of the evidence."""
    row = flips(make_items(80, 8, 0, 12, per_cluster=4), LIMITS)

    assert row["design_effect"] == pytest.approx(4.0, abs=0.2)
    assert row["effective_n"] == pytest.approx(25, abs=1.5)
    assert row["harmful"]["high"] > clopper_pearson(8, 100)[1]


def test_identical_models_have_no_flips(make_items: Make) -> None:
    """No flip: shares 0 with a width, no detectable margin; no right answer has no recovery; no item is an error."""
    row = flips(make_items(both_wrong=30), LIMITS)

    assert (row["all"]["n"], row["design_effect"], row["recovery"], row["detectable_margin"]) == (0, None, None, None)
    assert row["all"]["high"] > 0.05
    with pytest.raises(RecordError, match="add question items"):
        flips([], LIMITS)


def test_slices_worst_first_with_adjusted_p(make_items: Make) -> None:
    """Two judged slices share the error by Holm; the small one has neither bounds nor p and stands last."""
    items = make_items(60, 6, 0, slice="law") + make_items(90, 1, 1, slice="it") + make_items(5, slice="few")

    rows = slice_rows(items, LIMITS)
    assert [row["name"] for row in rows] == ["law", "it", "few"]
    assert rows[0]["p_worse_holm"] == pytest.approx(2 * mcnemar_exact_one_sided(6, 0))
    assert rows[1]["p_worse_holm"] == pytest.approx(mcnemar_exact_one_sided(1, 1))
    assert (rows[2]["delta_low"], rows[2]["p_worse_holm"]) == (None, None)


def test_noise_floor_by_hand(make_items: Make) -> None:
    """Two dense runs that differ in three of 60 answers, two of them flips."""
    again = make_items(40, 1, 1, 17) + make_items(both_wrong=1)
    again[-1] = type(again[-1])(**{**again[-1].to_json(), "same_answer": False})

    floor = noise_floor(again)
    assert (floor["n"], floor["flips"]["share"], floor["changed"]["share"]) == (60, 2 / 60, 3 / 60)
    assert (floor["changed"]["low"], floor["changed"]["high"]) == wilson(3, 60)
    with pytest.raises(RecordError, match="run dense once more"):
        noise_floor([])


def test_mean_self_consistency() -> None:
    """Items with one sample say nothing; without any the mean is undefined, not 0."""
    assert mean_self_consistency({"a": ["x", "x"], "b": ["x", "y"], "c": ["x"]}) == {"n": 2, "mean": 0.5}
    assert mean_self_consistency({"a": ["x"]}) == {"n": 0, "mean": None}


def test_a_part_of_a_table_numbers_its_sources_anew(make_items: Make) -> None:
    """Sources keep their order, counts are those of the part, and sums go to the right source."""
    items = make_items(2, 2, slice="b", per_cluster=2) + make_items(helpful=3, slice="a")
    table = ItemTable.of(items)

    part = table.part(table.slice == table.slice_names.index("b"))
    assert (len(table), table.slice_names, table.has_repeats) == (7, ("a", "b"), True)
    assert (len(part), part.n_clusters, part.cluster.tolist()) == (4, 2, [0, 0, 1, 1])
    assert part.sums(part.harmful.astype(float)).tolist() == [[0.0, 2.0], [2.0, 2.0]]
    assert len(ItemTable.of([])) == 0
    assert np.array_equal(table.helpful, ~table.dense & table.skip)
