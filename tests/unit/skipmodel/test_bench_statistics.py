"""Statistics of timings against the reference implementation, and the interleaving of arms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from kpis import speed as kpi_speed
from kpis import stats as kpi_stats
from kpis.routing import conversion as kpi_conversion
from skipmodel.bench.pairs import Run, interleave
from skipmodel.bench.statistics import conversion, log_ratio_interval, percentiles, t_quantile
from skipmodel.errors import MeasurementError

TIMES = st.floats(1e-5, 1e3)


@given(st.integers(1, 400), st.floats(0.05, 0.995))
def test_t_quantile_is_that_of_student(degrees: int, share: float) -> None:
    """Both finite sums, odd and even degrees, agree with the reference."""
    assert t_quantile(share, degrees) == pytest.approx(stats.t.ppf(0.5 + share / 2, degrees), rel=1e-7)


@given(st.lists(st.tuples(TIMES, TIMES), min_size=1, max_size=12))
def test_the_interval_is_that_of_the_kpis(pairs: list[tuple[float, float]]) -> None:
    """The two packages may not import each other; their figures agree all the same."""
    dense, skip = zip(*pairs, strict=True)
    ours, theirs = log_ratio_interval(dense, skip), kpi_stats.log_ratio_interval(dense, skip)

    assert ours[0] == pytest.approx(theirs[0])
    assert (ours[1] is None) == (theirs[1] is None) == (len(pairs) == 1)
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        if other is not None and 1e-300 < other < 1e300:
            assert one == pytest.approx(other, rel=1e-6)


@pytest.mark.parametrize(("dense", "skip"), [((), ()), ((1.0,), ()), ((1.0, 0.0), (1.0, 1.0))])
def test_no_pairs_no_interval(dense: tuple[float, ...], skip: tuple[float, ...]) -> None:
    """Nothing, unequal lengths and a time of 0 are refused."""
    with pytest.raises(MeasurementError, match="pairs of times above 0"):
        log_ratio_interval(dense, skip)


@pytest.mark.parametrize(("speedup", "ceiling"), [(1.17, 1.34), (0.9, 1.2), (1.0, 1.019), (1.5, 1.0)])
def test_conversion_is_that_of_the_kpis(speedup: float, ceiling: float) -> None:
    """Undefined below the same ceiling, the same quotient above."""
    assert conversion(speedup, ceiling) == kpi_conversion(speedup, ceiling)


def test_percentiles_have_no_p99_below_a_thousand_requests() -> None:
    """999 requests: null with the n; 1,000: the value. Samples and requests are counted apart."""
    samples = [i / 100 for i in range(4000)]
    few, many = percentiles(samples, 999), percentiles(samples, 1000)

    assert (few["p99"], few["n"], few["n_samples"]) == (None, 999, 4000)
    assert many["p99"] == pytest.approx(kpi_speed.percentiles(samples)["p99"])
    assert (many["p50"], many["p90"]) == (pytest.approx(19.995), pytest.approx(35.991))
    assert percentiles([], 0) == {"p50": None, "p90": None, "p99": None, "n": 0, "n_samples": 0}


class _Clock:
    """A clock that the arms move on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[int, int]] = []

    def arm(self, which: int, seconds: float):
        def run(index: int) -> Run:
            self.calls.append((which, index))
            self.now += seconds
            return Run(seconds)

        return run


@pytest.mark.parametrize("n_arms", [2, 3])
def test_arms_take_turns_on_the_same_text(n_arms: int) -> None:
    """Each round runs every arm once on one text; every arm comes first equally often."""
    clock = _Clock()
    arms = [clock.arm(which, 1.0) for which in range(n_arms)]
    runs = interleave(arms, 2, 2 * n_arms, clock=lambda: clock.now)
    rounds = [clock.calls[i : i + n_arms] for i in range(0, len(clock.calls), n_arms)]

    assert [len(arm) for arm in runs] == [2 * n_arms] * n_arms
    assert all(sorted(which for which, _ in turn) == list(range(n_arms)) for turn in rounds)
    assert [{index for _, index in turn} for turn in rounds] == [{i % 2} for i in range(2 * n_arms)]
    assert sorted(turn[0][0] for turn in rounds) == sorted(list(range(n_arms)) * 2)


@given(st.floats(0.01, 50.0), st.integers(2, 9))
def test_the_budget_ends_the_rounds_but_never_before_two(budget_s: float, n_pairs: int) -> None:
    """As many rounds of 2 s as fit into the budget, two at least, the asked number at most."""
    clock = _Clock()
    runs = interleave([clock.arm(0, 1.5), clock.arm(1, 0.5)], 1, n_pairs, budget_s, clock=lambda: clock.now)

    assert len(runs[0]) == len(runs[1]) == min(n_pairs, max(2, math.floor(budget_s / 2.0)))
