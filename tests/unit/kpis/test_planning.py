import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from kpis import planning
from kpis.errors import StatisticsError
from kpis.paired import required_n, tango_lower_bound, tango_statistic
from kpis.planning import design_effect, detectable_margin, items_for_power, non_inferiority_power


def power_of_every_table(n: int, flip_rate: float, margin: float, alpha: float, true_difference: float) -> float:
    """The slow form: every table that is not practically impossible is tried by itself."""
    harmful, helpful = (flip_rate - true_difference) / 2.0, (flip_rate + true_difference) / 2.0
    harmful, helpful = (0.0 if rate < 1e-100 else rate for rate in (harmful, helpful))
    b, c = planning._likely(n, harmful), planning._likely(n, helpful)
    statistic = tango_statistic(b[:, None], c[None, :], n, -margin)
    shown = (statistic > norm.ppf(1.0 - alpha)) & (b[:, None] + c[None, :] <= n)
    rest = min(1.0, helpful / (1.0 - harmful)) if harmful < 1.0 else 0.0
    weight = binom.pmf(b, n, harmful)[:, None] * binom.pmf(c[None, :], n - b[:, None], rest)
    return float(min(1.0, (weight * shown).sum()))


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 2000), flip_rate=st.floats(0.0, 0.5), margin=st.floats(0.002, 0.9),
    alpha=st.sampled_from([0.01, 0.05, 0.1]), lean=st.floats(-1.0, 1.0),
)  # fmt: skip
def test_the_fast_power_is_that_of_every_table(
    n: int, flip_rate: float, margin: float, alpha: float, lean: float
) -> None:
    """Cutting each row of tables where it begins to pass gives the sum over all tables."""
    truth = lean * flip_rate

    fast = non_inferiority_power(n, flip_rate, margin, alpha, true_difference=truth)
    assert fast == pytest.approx(power_of_every_table(n, flip_rate, margin, alpha, truth), abs=1e-10)


@settings(max_examples=15, deadline=None)
@given(flip_rate=st.floats(0.0, 0.3), margin=st.floats(0.015, 0.3), power=st.sampled_from([0.5, 0.8, 0.9]))
def test_the_number_of_items_is_that_of_the_slow_form(flip_rate: float, margin: float, power: float) -> None:
    """The same bisection over the slow power ends at the same n."""
    slow = planning._smallest(lambda n: power_of_every_table(n, flip_rate, margin, 0.05, 0.0) >= power, 1)

    assert items_for_power(flip_rate, margin, power=power) == slow


def test_helpful_flips_only_help() -> None:
    """What the fast form rests on: for fixed harmful flips the statistic rises with every helpful one."""
    for n in (5, 40, 300):
        b = np.arange(n + 1.0)[:, None]
        c = np.arange(n + 1.0)[None, :]
        for margin in (0.005, 0.1, 0.6, 0.95):
            statistic = np.where(b + c <= n, tango_statistic(b, c, n, -margin), np.nan)
            steps = np.diff(statistic, axis=1)
            assert (steps[~np.isnan(steps)] > -1e-9).all(), (n, margin)


def test_power_equals_adding_up_every_table() -> None:
    """With 30 items: the trinomial probabilities of all tables whose own lower bound clears the margin."""
    n, harmful, helpful, margin = 30, 0.04, 0.06, 0.2
    power = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            if tango_lower_bound(b, c, n) > -margin:
                ways = math.comb(n, b) * math.comb(n - b, c)
                power += ways * harmful**b * helpful**c * (1 - harmful - helpful) ** (n - b - c)

    computed = non_inferiority_power(n, 0.10, margin, true_difference=0.02)
    assert computed == pytest.approx(power, abs=1e-9)


@pytest.mark.parametrize(("n", "flips"), [(643, 0.03), (1071, 0.05), (2141, 0.10)])
def test_at_the_margin_the_power_is_the_error(n: int, flips: float) -> None:
    """A true loss of exactly the margin passes in at most 5 % of cases: the size of the test."""
    size = non_inferiority_power(n, flips, 0.02, true_difference=-0.02)

    assert 0.04 < size <= 0.05


def test_the_textbook_number_promises_a_little_too_much() -> None:
    """773 items have 77.7 % power instead of 80 %; 819 are enough, 800 are not."""
    assert required_n(0.05, 0.02) == 773
    assert non_inferiority_power(773, 0.05, 0.02) == pytest.approx(0.7768, abs=5e-5)
    assert items_for_power(0.05, 0.02) == 819
    assert non_inferiority_power(819, 0.05, 0.02) >= 0.8 > non_inferiority_power(800, 0.05, 0.02)


def test_clusters_need_more_items() -> None:
    """A design effect of 2 doubles the items; without any flip the floor of the score bound stays."""
    alone, clustered = items_for_power(0.05, 0.02), items_for_power(0.05, 0.02, design_effect=2.0)

    assert alone is not None
    assert clustered is not None
    assert clustered == pytest.approx(2 * alone, abs=12)
    assert items_for_power(0.0, 0.02) == required_n(0.0, 0.02) == 133


def test_no_number_of_items_shows_a_loss_at_the_margin() -> None:
    """At the margin there is no n, and next to it none that anybody could collect."""
    assert items_for_power(0.05, 0.02, true_difference=-0.02) is None
    assert items_for_power(0.05, 0.02, true_difference=-0.019999) is None


@pytest.mark.parametrize("n", [100, 300, 1000])
def test_detectable_margin_is_the_margin_with_that_power(n: int) -> None:
    """The margin found has the power asked for, a hair less has not."""
    margin = detectable_margin(n, 0.10)

    assert non_inferiority_power(n, 0.10, margin) >= 0.80
    assert non_inferiority_power(n, 0.10, margin - 0.002) < 0.80


def test_single_items_have_no_design_effect() -> None:
    """Clusters of one item each are independent items: exactly 1; copies in pairs count as half."""
    values = np.array([-1.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0] * 10)
    single = np.column_stack([values, np.ones(80), values**2])

    assert design_effect(single) == pytest.approx(1.0, abs=1e-12)
    assert design_effect(2 * single) == pytest.approx(2.0, abs=0.03)


def test_design_effect_undefined() -> None:
    """One source, or no difference between items, has no design effect."""
    assert design_effect(np.array([[1.0, 4.0, 1.0]])) is None
    assert design_effect(np.array([[0.0, 4.0, 0.0]] * 5)) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0, "flip_rate": 0.05, "margin": 0.02}, "n / design_effect"),
        ({"n": 10, "flip_rate": 0.05, "margin": 0.02, "design_effect": 0.0}, "n / design_effect"),
        ({"n": 10, "flip_rate": 0.05, "margin": 0.0}, "margin within"),
        ({"n": 10, "flip_rate": 0.01, "margin": 0.02, "true_difference": 0.02}, "is a flip"),
    ],
)
def test_impossible_plans_are_refused(arguments: dict[str, float], message: str) -> None:
    """Each message names what was expected."""
    with pytest.raises(StatisticsError, match=message):
        non_inferiority_power(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("truth", [0.0, -0.001, -0.002])
def test_large_samples_continue_the_exact_power(truth: float) -> None:
    """Just below and above 20,000 items the enumeration and the normal approximation meet."""
    exact = non_inferiority_power(19_999, 0.05, 0.002, true_difference=truth)

    assert non_inferiority_power(20_001, 0.05, 0.002, true_difference=truth) == pytest.approx(exact, abs=1e-3)


def test_large_samples_without_flips() -> None:
    """A million items without a flip show any margin that the score bound clears."""
    assert non_inferiority_power(1_000_000, 0.0, 0.001) == 1.0
    assert non_inferiority_power(1_000_000, 0.0, 1e-6) == 0.0
