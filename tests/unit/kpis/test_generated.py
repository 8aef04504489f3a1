from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kpis.answers import f1_of, grade, token_f1
from kpis.errors import RecordError
from kpis.generated import AnswerPair, first_difference, graded_rows, self_consistency_row, slice_rows, written
from kpis.limits import GateLimits

LIMITS = GateLimits()


def pair(i: int = 0, **changes: Any) -> AnswerPair:
    """A question that both models answered in the same, right words."""
    values: dict[str, Any] = {
        "item_id": f"i{i}", "document_id": "d", "cluster": f"c{i}", "slice": "en_cloze", "language": "en",
        "must_pass": False, "f1_metric": "token_f1", "dense_exact": 1.0, "skip_exact": 1.0, "dense_f1": 1.0,
        "skip_f1": 1.0, "same_answer": True, "first_difference": None, "dense_tokens": 4, "skip_tokens": 4,
        "dense_ended": True, "skip_ended": True, "dense_sha256": "a", "skip_sha256": "a", "dense_consistency": 1.0,
        "skip_consistency": 1.0,
    }  # fmt: skip
    return AnswerPair.from_json(values | changes)


def worse(i: int, **changes: Any) -> AnswerPair:
    """One whose skip answer is wrong after two tokens."""
    lost = {"skip_exact": 0.0, "skip_f1": 0.0, "same_answer": False, "first_difference": 2, "skip_consistency": 0.5}
    return pair(i, **(lost | changes))


@pytest.mark.parametrize(
    ("answer", "references", "f1"),
    [
        ("server config, directory", ["server config"], 0.4),  # one common word of 3 and 2: "config," is another
        ("the limit the", ["the limit"], 0.8),  # 2 common words of 3 and 2, "the" once
        ("Limit.", ["limit"], 1.0),
        ("", ["limit"], 0.0),
        ("", [""], 1.0),
        ("b", ["a", "b c"], 2 / 3),
    ],
)
def test_word_f1_by_hand(answer: str, references: list[str], f1: float) -> None:
    """Shares of common words, counted on paper."""
    assert token_f1(answer, references) == pytest.approx(f1, abs=1e-12)


def test_partial_credit_follows_the_language() -> None:
    """English is graded by words, Japanese by characters: half a word is nothing, half a compound is something."""
    english = grade("q", "c", "s", dense="limits", skip="limit", references=["limit"], language="en")
    japanese = grade("q", "c", "s", dense="東京都", skip="東京", references=["東京"], language="ja")

    assert (f1_of("en"), f1_of("ja")) == ("token_f1", "char_f1")
    assert list(english) == ["exact_match", "token_f1"]
    assert english["token_f1"].dense_score == 0.0
    assert japanese["char_f1"].dense_score == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dense_f1": 1.1}, "dense_f1"),
        ({"skip_consistency": -0.1}, "skip_consistency"),
        ({"same_answer": False}, "first other token"),
        ({"f1_metric": "rouge"}, "f1_metric"),
    ],
)
def test_impossible_records_are_refused(changes: dict[str, Any], message: str) -> None:
    """Grades outside the scale, and answers that differ nowhere, name the item and the field."""
    with pytest.raises(RecordError, match=message):
        pair(**changes)


def test_a_record_survives_json() -> None:
    """What is written is what is read."""
    assert AnswerPair.from_json(worse(3).to_json()) == worse(3)


def test_each_metric_is_graded_by_itself() -> None:
    """Exact match over all 60, F1 by words over the English and by characters over the Japanese half."""
    pairs = [
        (worse if i < 3 else pair)(i, language="en" if i % 2 else "ja", f1_metric="token_f1" if i % 2 else "char_f1")
        for i in range(60)
    ]
    rows = {row["metric"]: row for row in graded_rows(pairs, LIMITS)}

    assert {name: (row["n"], row["n_worse"]) for name, row in rows.items()} == {
        "exact_match": (60, 3), "char_f1": (30, 2), "token_f1": (30, 1)
    }  # fmt: skip
    assert rows["exact_match"]["delta"] == pytest.approx(-0.05)
    assert graded_rows([], LIMITS) == []


def test_what_is_written_beside_the_grades() -> None:
    """Agreement with Wilson's bounds, the middle of where answers part, must-pass losses, cut answers, lengths."""
    pairs = [
        pair(0, must_pass=True), worse(1, must_pass=True, first_difference=0), worse(2, first_difference=5),
        pair(3, same_answer=True, first_difference=7, skip_tokens=8, skip_ended=False),
    ]  # fmt: skip
    found = written(pairs)

    assert (found["n"], found["n_clusters"], found["agreement"]["value"]) == (4, 4, 0.5)
    assert found["agreement"]["low"] == pytest.approx(0.15004, abs=1e-5)  # statsmodels, Wilson, 2 of 4
    assert found["first_difference"] == {"n": 3, "median_tokens": 5.0}
    assert found["must_pass"] == {"n": 2, "n_worse": 1}
    assert (found["unfinished"], found["mean_tokens"]) == ({"dense": 0, "skip": 1}, {"dense": 4.0, "skip": 5.0})


def test_nothing_written_has_no_summary() -> None:
    """No answer is an error for the summary, and no place where answers part."""
    with pytest.raises(RecordError, match=r"answers\.items"):
        written([])
    assert first_difference([pair()]) == {"n": 0, "median_tokens": None}


def test_self_consistency_is_paired() -> None:
    """Half a point lost on 5 of 40 questions: the means, their difference, and an interval below zero around it."""
    row = self_consistency_row([worse(i) if i < 5 else pair(i) for i in range(40)])

    assert row is not None
    assert (row["n"], row["dense"], row["skip"], row["delta"]) == (40, 1.0, 0.9375, -0.0625)
    assert row["low"] < -0.0625 < row["high"] <= 0.0


def test_self_consistency_needs_draws_of_both() -> None:
    """Nothing drawn has no figure; questions where only one model was drawn do not count; one source has no bounds."""
    assert self_consistency_row([pair(dense_consistency=None, skip_consistency=None)]) is None
    row = self_consistency_row([pair(0), pair(1, skip_consistency=None)])

    assert row is not None
    assert (row["n"], row["low"], row["high"]) == (1, None, None)


def test_slices_hold_their_own_means() -> None:
    """Reading is a slice of its own, by name."""
    rows = slice_rows([pair(0, slice="ja_reading"), worse(1, slice="ja_reading"), worse(2, slice="en_cloze")])

    assert [(row["name"], row["n"], row["dense_exact"], row["skip_exact"]) for row in rows] == [
        ("en_cloze", 1, 1.0, 0.0), ("ja_reading", 2, 1.0, 0.5)
    ]  # fmt: skip


@settings(deadline=None)
@given(flags=st.lists(st.booleans(), min_size=1, max_size=40))
def test_the_same_model_loses_nothing(flags: list[bool]) -> None:
    """Identity: whatever the dense model gets right, with itself the differences are 0 and the agreement 1."""
    pairs = [
        pair(i, dense_exact=float(right), skip_exact=float(right), dense_consistency=0.5, skip_consistency=0.5)
        for i, right in enumerate(flags)
    ]
    found = written(pairs)

    assert (found["agreement"]["value"], found["first_difference"]["n"]) == (1.0, 0)
    assert found["self_consistency"]["delta"] == 0.0
    assert all(row["delta"] == 0.0 and row["p_worse"] == 1.0 for row in graded_rows(pairs, LIMITS))
