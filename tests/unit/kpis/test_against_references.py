"""Every statistic beside scipy, statsmodels or a published table, to 1e-6 or to the digits printed."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from scipy.optimize import minimize_scalar
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from kpis.bootstrap import sums_by_number
from kpis.multiple import holm
from kpis.paired import mcnemar_exact_one_sided, tango_interval, tango_statistic
from kpis.permutation import paired_permutation
from kpis.planning import design_effect
from kpis.proportions import clopper_pearson, wilson
from kpis.stats import log_ratio_interval

TABLES = [(7, 1, 21), (16, 6, 161), (25, 28, 618), (60, 20, 1000), (1, 0, 44), (3, 9, 32), (0, 0, 50), (12, 0, 12)]


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 299), (3, 40), (40, 40), (17, 1000), (92, 100)])
@pytest.mark.parametrize("confidence", [0.90, 0.95, 0.99])
def test_shares_equal_statsmodels(k: int, n: int, confidence: float) -> None:
    """Wilson and Clopper-Pearson equal statsmodels' own to 1e-9."""
    reference = {name: proportion_confint(k, n, 1 - confidence, method=name) for name in ("wilson", "beta")}
    exact = [0.0 if math.isnan(end) else end for end in reference["beta"]]

    assert wilson(k, n, confidence) == pytest.approx(reference["wilson"], abs=1e-9)
    assert clopper_pearson(k, n, confidence) == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("k", "n"), [(3.5, 41.25), (0.4, 7.9), (120.2, 800.6)])
def test_effective_counts_follow_the_same_formula(k: float, n: float) -> None:
    """Counts that are fractions (Korn and Graubard) use the same formulas as whole ones."""
    assert wilson(k, n) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-9)
    assert clopper_pearson(k, n) == pytest.approx(proportion_confint(k, n, method="beta"), abs=1e-9)


@pytest.mark.parametrize(("b", "c"), [(0, 1), (5, 0), (12, 3), (60, 20), (9, 9)])
def test_mcnemar_equals_statsmodels(b: int, c: int) -> None:
    """The exact two-sided test is twice the smaller one-sided one; statsmodels gives only the former."""
    two_sided = mcnemar([[0, b], [c, 0]], exact=True).pvalue

    smaller = min(mcnemar_exact_one_sided(b, c), mcnemar_exact_one_sided(c, b))
    assert min(1.0, 2 * smaller) == pytest.approx(two_sided, abs=1e-12)


def test_tango_equals_the_examples_of_its_paper() -> None:
    """Tango 1998: contact lenses (section 6.1; n = 44) and sleeping difficulties (section 6.2; n = 32)."""
    # 43 pairs good in both, one good only under the old treatment; margin 10 points: Z = 1.709, p = 0.044
    statistic = float(tango_statistic(1, 0, 44, -0.1))
    assert round(statistic, 3) == 1.709
    assert round(float(scipy_stats.norm.sf(statistic)), 3) == 0.044
    assert round(tango_interval(1, 0, 44, 0.90)[0], 3) == -0.096
    # 9 and 3 discordant pairs of 32: 95 % interval
    assert tuple(round(end, 3) for end in tango_interval(3, 9, 32)) == (-0.027, 0.390)


@pytest.mark.parametrize(("b", "c", "n"), TABLES)
def test_tango_at_difference_zero_is_mcnemar(b: int, c: int, n: int) -> None:
    """The score of no difference is (c - b) / sqrt(b + c), whose square statsmodels calls McNemar's chi-square."""
    statistic = float(tango_statistic(b, c, n, 0.0))

    if b + c:
        chi_square = mcnemar([[0, b], [c, 0]], exact=False, correction=False).statistic
        assert statistic**2 == pytest.approx(chi_square, abs=1e-9)
    else:
        assert statistic == 0.0


@pytest.mark.parametrize(("b", "c", "n"), TABLES[:-1])
@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_the_score_at_both_ends_is_the_quantile(b: int, c: int, n: int, confidence: float) -> None:
    """By its definition the interval ends where |T| = z, to 1e-6."""
    z = scipy_stats.norm.ppf(0.5 + confidence / 2)

    low, high = tango_interval(b, c, n, confidence)
    assert float(tango_statistic(b, c, n, low)) == pytest.approx(z, abs=1e-6)
    assert float(tango_statistic(b, c, n, high)) == pytest.approx(-z, abs=1e-6)


@pytest.mark.parametrize(("b", "c", "n", "difference"), [(7, 1, 21, -0.1), (16, 6, 161, -0.02), (3, 9, 32, 0.3)])
def test_the_restricted_estimate_maximises_the_likelihood(b: int, c: int, n: int, difference: float) -> None:
    """T with the share found by a numerical search of the trinomial likelihood instead of the closed form."""

    def loss(q: float) -> float:
        return -(b * math.log(q) + c * math.log(q + difference) + (n - b - c) * math.log(1 - 2 * q - difference))

    edges = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    q = minimize_scalar(loss, bounds=edges, method="bounded", options={"xatol": 1e-13}).x
    expected = (c - b - n * difference) / math.sqrt(n * (2 * q + difference - difference**2))
    assert float(tango_statistic(b, c, n, difference)) == pytest.approx(expected, abs=1e-6)


def test_tango_vanishing_variance_is_no_error() -> None:
    """All items harmful: at the observed difference T is 0; arrays give one value per table."""
    assert tango_statistic([10, 0], [0, 0], 10, -0.5).tolist()[0] < 0
    assert float(tango_statistic(0, 0, 10, 0.0)) == 0.0


@pytest.mark.parametrize("p", [[0.01, 0.04, 0.03, 0.005], [0.2], [0.5, 0.5, 0.5], [0.0, 1.0, 0.02, 0.02, 0.049]])
def test_holm_equals_statsmodels(p: list[float]) -> None:
    """Adjusted p-values equal statsmodels' to 1e-12, in the order given."""
    assert holm(p) == pytest.approx(multipletests(p, method="holm")[1].tolist(), abs=1e-12)


@pytest.mark.parametrize("alternative", ["less", "greater", "two-sided"])
@pytest.mark.parametrize("values", [[-0.5, -0.25, 0.75], [0.1, -0.3, 0.2, -0.2, -0.9, 0.4, 0.0, -0.6], [-1.0] * 9])
def test_few_differences_equal_scipy(values: list[float], alternative: str) -> None:
    """All sign patterns, as scipy counts them; zeros change nothing."""
    reference = scipy_stats.permutation_test(
        (np.array(values),), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
    ).pvalue

    assert paired_permutation(values, alternative) == pytest.approx(reference, abs=1e-12)  # type: ignore[arg-type]


@pytest.mark.parametrize(("b", "c"), [(3, 1), (7, 2), (30, 18), (200, 160)])
def test_right_and_wrong_make_it_mcnemar(b: int, c: int) -> None:
    """On differences of -1 and 1 the permutation test is the exact McNemar test; drawn ones up to their noise."""
    p = paired_permutation([-1.0] * b + [1.0] * c + [0.0] * 50, n_draws=99_999)

    exact = mcnemar_exact_one_sided(b, c)
    assert p == pytest.approx(exact, abs=1e-12 if b + c <= 12 else 5 * math.sqrt(exact / 99_999))


def test_drawn_differences_agree_with_scipy() -> None:
    """Graded scores of 60 sources: the drawn p-value equals scipy's up to the noise of both."""
    values = np.round(np.random.default_rng(4).normal(-0.05, 0.3, 60), 2)

    reference = scipy_stats.permutation_test(
        (values,), lambda x, axis=-1: x.sum(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=49_999, alternative="less", rng=np.random.default_rng(0),
    ).pvalue  # fmt: skip
    assert paired_permutation(values, n_draws=49_999) == pytest.approx(reference, abs=0.012)


def test_design_effect_is_the_clustered_variance_of_statsmodels() -> None:
    """Cluster-robust variance of a mean over the plain one, to 1e-9."""
    generator = np.random.default_rng(2)
    cluster = np.sort(generator.integers(0, 40, 150))
    values = generator.choice([-1.0, 0.0, 1.0], 150, p=[0.1, 0.8, 0.1]) * (cluster % 3 > 0)
    _, number = np.unique(cluster, return_inverse=True)
    robust = OLS(values, np.ones(150)).fit(cov_type="cluster", cov_kwds={"groups": number})
    plain = values.var(ddof=1) / 150

    sums = sums_by_number(number, np.column_stack([values, np.ones(150), values**2]), int(number.max()) + 1)
    assert design_effect(sums) == pytest.approx(float(robust.cov_params()[0, 0]) / plain, rel=1e-9)


def test_speed_interval_equals_statsmodels() -> None:
    """The t-interval of log ratios equals statsmodels' and scipy's, exponentiated, to 1e-9."""
    dense, skip = [1.30, 1.28, 1.35, 1.31, 1.29, 1.33], [1.00, 1.02, 1.05, 0.98, 1.01, 1.04]
    logs = np.log(np.array(dense) / np.array(skip))

    expected = [math.exp(end) for end in DescrStatsW(logs).tconfint_mean(alpha=0.05)]
    scipys = scipy_stats.ttest_1samp(logs, 0.0).confidence_interval(0.95)
    ratio, low, high = log_ratio_interval(dense, skip)
    assert ratio == pytest.approx(scipy_stats.gmean(np.array(dense) / np.array(skip)), rel=1e-12)
    assert (low, high) == pytest.approx(expected, abs=1e-9)
    assert (low, high) == pytest.approx((math.exp(scipys.low), math.exp(scipys.high)), abs=1e-9)
