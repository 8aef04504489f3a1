import math

import numpy as np
import pytest

from kpis.errors import StatisticsError
from kpis.paired import (
    mcnemar_exact_one_sided,
    mde,
    required_n,
    tango_interval,
    tango_lower_bound,
    tango_upper_bound,
)


@pytest.mark.parametrize(
    ("b", "c", "n", "confidence", "low", "high", "digits"),
    [
        # Airway data (Bentur 2009), published with the textbook Fagerland, Lydersen, Laake.
        (7, 1, 21, 0.95, -0.517, -0.026, 3),
        # Complete response data (Cavo 2012), same book.
        (16, 6, 161, 0.95, -0.1240, -0.0054, 4),
        # Outputs of R, PropCIs::scoreci.mp.
        (25, 28, 618, 0.90, -0.0148, 0.0247, 4),
        (60, 20, 1000, 0.95, -0.0584, -0.0231, 4),
    ],
)
def test_tango_equals_published_values(
    b: int, c: int, n: int, confidence: float, low: float, high: float, digits: int
) -> None:
    """The score interval agrees with a textbook and with R to all printed digits."""
    assert tuple(round(end, digits) for end in tango_interval(b, c, n, confidence)) == (low, high)


@pytest.mark.parametrize("n", [1, 20, 133, 5000])
def test_tango_without_flips_has_its_closed_form(n: int) -> None:
    """No flip seen leaves -z^2/(n + z^2): zero flips are no proof of zero difference."""
    z = 1.959963984540054

    low, high = tango_interval(0, 0, n)
    assert low == pytest.approx(-(z**2) / (n + z**2), abs=1e-9)
    assert high == -low


def test_tango_at_the_ends() -> None:
    """If every item got worse the difference is -1 and the bound stays inside [-1, 1]."""
    low, high = tango_interval(10, 0, 10)

    assert low == -1.0
    assert -1.0 < high < 0.0


def test_tango_covers_the_truth() -> None:
    """Brute force over all outcomes of n = 40: the one-sided bound misses the truth in about 5 % of cases."""
    n, p_harmful, p_helpful = 40, 0.15, 0.05
    miss = 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            rest = n - b - c
            ways = math.comb(n, b) * math.comb(n - b, c)
            probability = ways * p_harmful**b * p_helpful**c * (1 - p_harmful - p_helpful) ** rest
            if probability > 1e-7 and tango_lower_bound(b, c, n) > p_helpful - p_harmful:
                miss += probability

    assert 0.03 < miss < 0.06


def test_interval_coverage_in_simulation() -> None:
    """Two-sided 95 % intervals of 1,000 simulated PoCs cover the true difference in 93 to 97 %."""
    generator = np.random.default_rng(1)
    tables = generator.multinomial(400, [0.06, 0.04, 0.90], size=1000)

    covered = 0
    seen: dict[tuple[int, int], tuple[float, float]] = {}
    for b, c, _ in tables.tolist():
        low, high = seen.setdefault((b, c), tango_interval(b, c, 400))
        covered += low <= -0.02 <= high
    assert 930 <= covered <= 970


@pytest.mark.parametrize(("b", "c", "p"), [(0, 0, 1.0), (5, 0, 1 / 32), (3, 3, 42 / 64), (0, 4, 1.0)])
def test_mcnemar_by_hand(b: int, c: int, p: float) -> None:
    """Sums of binomial coefficients, checked by hand."""
    assert mcnemar_exact_one_sided(b, c) == pytest.approx(p, abs=1e-12)


@pytest.mark.parametrize(
    ("flip_rate", "margin", "power", "n"),
    [
        (0.03, 0.02, 0.8, 464),
        (0.03, 0.02, 0.9, 643),
        (0.05, 0.02, 0.8, 773),
        (0.05, 0.02, 0.9, 1071),
        (0.10, 0.02, 0.8, 1546),
        (0.10, 0.02, 0.9, 2141),
        (0.15, 0.02, 0.9, 3212),
        (0.03, 0.03, 0.8, 207),
        (0.10, 0.03, 0.9, 952),
        (0.05, 0.05, 0.8, 124),
        (0.15, 0.05, 0.9, 514),
    ],
)
def test_required_items_equal_the_table(flip_rate: float, margin: float, power: float, n: int) -> None:
    """The sample-size table of the KPI definition."""
    assert required_n(flip_rate, margin, power=power) == n


def test_required_items_without_flips_is_the_floor() -> None:
    """With no flip at all the score bound clears two points from 133 items on, and not before."""
    assert required_n(0.0, 0.02) == 133
    assert tango_lower_bound(0, 0, 133) > -0.02 >= tango_lower_bound(0, 0, 132)


def test_required_items_for_a_hopeless_difference() -> None:
    """A true loss at the margin cannot be shown by any number of items."""
    with pytest.raises(StatisticsError, match="no n can show it"):
        required_n(0.05, 0.02, true_difference=-0.02)


@pytest.mark.parametrize(("n", "points"), [(100, 8.9), (300, 5.1), (1000, 2.8)])
def test_detectable_difference(n: int, points: float) -> None:
    """The detectable differences of the KPI definition, in points."""
    assert round(100 * mde(n, 0.10), 1) == points


def test_bounds_mirror() -> None:
    """Swapping harmful and helpful flips mirrors the bounds."""
    assert tango_upper_bound(3, 5, 90) == -tango_lower_bound(5, 3, 90)


@pytest.mark.parametrize(("b", "c", "n"), [(-1, 0, 10), (6, 6, 10), (0, 0, 0)])
def test_impossible_tables_are_refused(b: int, c: int, n: int) -> None:
    """More flips than items, or no items, are an error."""
    with pytest.raises(StatisticsError, match="b \\+ c <= n"):
        tango_interval(b, c, n)
