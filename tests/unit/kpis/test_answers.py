import pytest

from kpis.answers import char_f1, exact_match, grade, normalise_answer, self_consistency
from kpis.errors import RecordError, StatisticsError
from kpis.graded import graded
from kpis.limits import GateLimits
from kpis.records import ScorePair

LIMITS = GateLimits()


def pairs(differences: list[float], per_cluster: int = 1, metric: str = "char_f1") -> list[ScorePair]:
    """Pairs whose dense score is a half, or low enough for the skip score to fit."""
    return [
        ScorePair(f"i{i}", f"c{i // per_cluster}", "ja", metric, 0.5, 0.5 + difference, difference == 0.0)
        for i, difference in enumerate(differences)
    ]


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("　東京 都。", "東京 都"),
        ("ＡＢＣ１２３", "abc123"),
        ("(1.5%)", "1.5%"),
        ("「はい」", "はい"),
        ("ｶﾀｶﾅ", "カタカナ"),
        ("\t a\n b ", "a b"),
        ("", ""),
    ],
)
def test_normalisation(text: str, normalised: str) -> None:
    """Width, case, spaces and the punctuation around an answer do not count; inside it does."""
    assert normalise_answer(text) == normalised
    assert normalise_answer(normalised) == normalised


def test_numbers_keep_their_point() -> None:
    """1.5 is not 15: a decimal point is no decoration."""
    assert exact_match("1.5", ["15"]) == 0.0
    assert exact_match("１．５", ["1.5"]) == 1.0


@pytest.mark.parametrize(
    ("answer", "references", "f1"),
    [
        ("東京都", ["東京"], 0.8),  # 2 common characters of 3 and 2
        ("aab", ["abb"], 2 / 3),  # multisets: a once, b once
        ("京都", ["東京", "京都府"], 0.8),  # the best reference counts
        ("東 京", ["東京"], 1.0),
        ("", [""], 1.0),
        ("", ["東京"], 0.0),
        ("北", ["東京"], 0.0),
    ],
)
def test_character_f1_by_hand(answer: str, references: list[str], f1: float) -> None:
    """Shares of common characters, counted on paper."""
    assert char_f1(answer, references) == pytest.approx(f1, abs=1e-12)


@pytest.mark.parametrize("score", [exact_match, char_f1])
def test_no_reference_is_an_error(score: object) -> None:
    """An item without a reference cannot be graded 0."""
    with pytest.raises(StatisticsError, match="at least one reference"):
        score("x", [])  # type: ignore[operator]


@pytest.mark.parametrize(
    ("samples", "share"),
    [(["a", "a", "a", "b", "b"], 0.4), (["a"] * 5, 1.0), (["a", "b", "c"], 0.0), (["a"], None), ([], None)],
)
def test_self_consistency_by_hand(samples: list[str], share: float | None) -> None:
    """Three and two of five: 3 + 1 agreeing pairs of 10."""
    assert self_consistency(samples) == share


def test_grading_both_ways() -> None:
    """One question, two answers, two grades of each."""
    grades = grade("q", "d", "ja", dense="東京", skip="東京都", references=["東京"])

    assert (grades["exact_match"].dense_score, grades["exact_match"].skip_score) == (1.0, 0.0)
    assert grades["char_f1"].skip_score == pytest.approx(0.8)
    assert not grades["char_f1"].same_answer
    assert grade("q", "d", "ja", dense="A。", skip="a", references=["b"])["char_f1"].same_answer


def test_grades_are_fractions() -> None:
    """A percentage among fractions is refused by name."""
    with pytest.raises(RecordError, match="skip_score within"):
        ScorePair("q", "d", "ja", "char_f1", 0.9, 88.0, False)


def test_graded_identity_keeps_the_width_of_its_count() -> None:
    """No difference in 60 sources: 0 with p = 1, and bounds as wide as Tango's without a flip, at two points unsure."""
    row = graded(pairs([0.0] * 60), LIMITS)

    z2 = 1.6448536269514722**2
    assert (row["delta"], row["p_worse"], row["n_worse"], row["n_better"]) == (0.0, 1.0, 0, 0)
    assert row["delta_low"] == pytest.approx(-z2 / (60 + z2))
    assert row["state"] == "inconclusive"
    assert graded(pairs([0.0] * 200), LIMITS)["state"] == "pass"


def test_graded_loss_is_refuted_with_its_numbers() -> None:
    """A fifth less on every other item: the whole interval is below the margin."""
    row = graded(pairs([-0.2, 0.0] * 60), LIMITS)

    assert row["delta"] == pytest.approx(-0.1)
    assert row["state"] == "fail"
    assert (row["n_worse"], row["n_same_answer"], row["mean_skip"]) == (60, 60, pytest.approx(0.4))
    assert row["p_worse"] < 0.001


def test_graded_repeats_count_as_one_source() -> None:
    """Four copies of each item in one source widen the bounds and weaken the p-value."""
    differences = [-0.1 if i % 8 < 4 else 0.08 for i in range(160)]

    alone, repeated = graded(pairs(differences), LIMITS), graded(pairs(differences, per_cluster=4), LIMITS)
    assert repeated["n_clusters"] == 40
    assert repeated["delta_low"] < alone["delta_low"]
    assert repeated["p_worse"] > alone["p_worse"]


def test_graded_one_source_has_no_bounds() -> None:
    """One source says nothing about others: not measured, never a pass."""
    row = graded(pairs([0.1, 0.2], per_cluster=2), LIMITS)

    assert (row["delta_low"], row["delta_high"], row["state"]) == (None, None, "not_measured")


@pytest.mark.parametrize("rows", [[], [*pairs([0.0]), *pairs([0.0], metric="exact_match")]])
def test_graded_wants_one_metric(rows: list[ScorePair]) -> None:
    """Nothing, or two metrics in one mean, is refused."""
    with pytest.raises(RecordError, match="one metric"):
        graded(rows, LIMITS)
