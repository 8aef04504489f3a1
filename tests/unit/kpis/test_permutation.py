import numpy as np
import pytest

from kpis.errors import StatisticsError
from kpis.multiple import holm
from kpis.permutation import paired_permutation


@pytest.mark.parametrize(("alternative", "p"), [("less", 1.0), ("greater", 0.5), ("two-sided", 1.0)])
def test_one_difference_by_hand(alternative: str, p: float) -> None:
    """One source has two sign patterns, whatever its size."""
    assert paired_permutation([0.25], alternative) == p  # type: ignore[arg-type]
    mirrored = {"less": "greater", "greater": "less"}.get(alternative, alternative)
    assert paired_permutation([-0.25], mirrored) == p  # type: ignore[arg-type]


def test_without_any_difference_nothing_is_worse() -> None:
    """Identical scores, or no scores, give p = 1."""
    assert paired_permutation([0.0, 0.0, 0.0]) == 1.0
    assert paired_permutation([]) == 1.0


def test_drawn_ties_stay_ties() -> None:
    """Tenths do not add up exactly in binary; a sum equal to the observed one still counts as a hit."""
    tenths = np.array([0.1] * 10 + [-0.1] * 10)

    p = paired_permutation(tenths, "less", n_draws=20_000)
    assert p == pytest.approx(0.588, abs=0.02)


def test_drawn_p_is_never_zero() -> None:
    """Even the clearest case keeps the one pattern that was observed."""
    assert paired_permutation([-1.0] * 100, n_draws=999) == 0.001


def test_same_seed_same_p() -> None:
    """The p-value is a function of data and seed."""
    values = np.linspace(-0.5, 0.4, 40)

    assert paired_permutation(values, seed=3) == paired_permutation(values, seed=3)


@pytest.mark.parametrize("values", [[0.1, float("nan")], [[0.1, 0.2]]])
def test_missing_scores_are_refused(values: object) -> None:
    """A missing score is no difference of 0."""
    with pytest.raises(StatisticsError, match="finite differences"):
        paired_permutation(values)  # type: ignore[arg-type]


def test_holm_by_hand() -> None:
    """Smallest times 3, next times 2, the last as it is, never falling; nothing in, nothing out."""
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([]) == []


def test_holm_refuses_what_is_no_p_value() -> None:
    """NaN and 1.2 are errors, not large p-values."""
    for bad in (1.2, float("nan")):
        with pytest.raises(StatisticsError, match="within \\[0, 1\\]"):
            holm([0.1, bad])
