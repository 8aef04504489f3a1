import pytest
from scipy.stats import binomtest

from kpis.errors import StatisticsError
from kpis.proportions import clopper_pearson, required_n_rate, wilson


@pytest.mark.parametrize(("k", "n", "low", "high"), [(92, 100, 0.850, 0.959), (276, 300, 0.884, 0.946)])
def test_wilson_gives_the_published_examples(k: int, n: int, low: float, high: float) -> None:
    """The two worked examples of the KPI definition, to three digits."""
    expected = pytest.approx((low, high), abs=6e-4)

    assert expected == wilson(k, n)


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 59), (3, 40), (40, 40), (17, 1000)])
def test_intervals_equal_scipy(k: int, n: int) -> None:
    """Both intervals agree with scipy's own to 1e-9."""
    trial = binomtest(k, n)

    exact, score = trial.proportion_ci(0.95, "exact"), trial.proportion_ci(0.95, "wilson")
    assert clopper_pearson(k, n) == pytest.approx((exact.low, exact.high), abs=1e-9)
    assert wilson(k, n) == pytest.approx((score.low, score.high), abs=1e-9)


@pytest.mark.parametrize(("n", "bound"), [(59, 0.0495), (100, 0.0295), (150, 0.0198), (300, 0.0099)])
def test_zero_failures_never_mean_zero_risk(n: int, bound: float) -> None:
    """The one-sided upper bound after no failure is 1 - 0.05^(1/n)."""
    upper = clopper_pearson(0, n, 0.90)[1]

    assert upper == pytest.approx(1 - 0.05 ** (1 / n), abs=1e-12)
    assert upper == pytest.approx(bound, abs=5e-5)


def test_required_cases_for_a_rare_failure() -> None:
    """299 cases without failure show "at most 1 %", 298 do not; a rate at the limit can never be shown."""
    assert required_n_rate(0.0, 0.01) == 299
    assert clopper_pearson(0, 298, 0.90)[1] > 0.01
    assert required_n_rate(0.01, 0.01) is None


@pytest.mark.parametrize(("k", "n"), [(1, 0), (-1, 10), (11, 10)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    """A share of nothing, or of more than everything, is an error."""
    with pytest.raises(StatisticsError, match="expected 0 <= k <= n"):
        wilson(k, n)
