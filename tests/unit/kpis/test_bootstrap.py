import numpy as np
import pytest
from scipy import stats as scipy_stats

from kpis.bootstrap import Floats, cluster_bootstrap_bca, cluster_sums
from kpis.errors import StatisticsError


def ratio(sums: Floats) -> Floats:
    """Ratio of the first to the second column sum."""
    return np.asarray(sums[..., 0] / sums[..., 1])


def test_agrees_with_scipy_bca() -> None:
    """On skewed paired sums the interval equals scipy's BCa up to resampling noise."""
    generator = np.random.default_rng(3)
    sums = np.column_stack([generator.gamma(1.0, 2.0, 60), generator.gamma(4.0, 1.0, 60)])

    reference = scipy_stats.bootstrap(
        (sums[:, 0], sums[:, 1]),
        lambda x, y, axis=-1: x.sum(axis) / y.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=4000,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    ours = cluster_bootstrap_bca(sums, ratio, n_draws=4000, expanded=False)
    width = reference.high - reference.low
    assert ours.method == "bca"
    assert ours.low == pytest.approx(reference.low, abs=0.05 * width)
    assert ours.high == pytest.approx(reference.high, abs=0.05 * width)


def test_same_seed_same_interval() -> None:
    """The interval is a function of data and seed."""
    sums = np.array([[1.0, 3.0], [2.0, 3.0], [0.0, 3.0], [3.0, 4.0]])

    assert cluster_bootstrap_bca(sums, ratio, seed=5) == cluster_bootstrap_bca(sums, ratio, seed=5)


def test_equal_clusters_give_a_zero_width_interval() -> None:
    """If no cluster changes the value, the interval is the value, without a warning."""
    interval = cluster_bootstrap_bca(np.tile([[1.0, 4.0]], (7, 1)), ratio)

    assert (interval.low, interval.value, interval.high, interval.method) == (0.25, 0.25, 0.25, "degenerate")


def test_one_cluster_has_no_interval() -> None:
    """One document says nothing about other documents: bounds are None, not a guess."""
    interval = cluster_bootstrap_bca(np.array([[1.0, 4.0]]), ratio)

    assert (interval.value, interval.low, interval.high) == (0.25, None, None)


def test_one_bad_cluster_out_of_many_falls_back_or_stays_ordered() -> None:
    """A single failing cluster gives a finite, ordered interval that contains the value."""
    sums = np.array([[0.0, 10.0]] * 30 + [[5.0, 10.0]])

    interval = cluster_bootstrap_bca(sums, ratio, confidence=0.9)
    assert interval.low is not None
    assert interval.high is not None
    assert 0.0 <= interval.low <= interval.value <= interval.high <= 1.0


def test_rows_of_one_cluster_are_added() -> None:
    """Three rows in two clusters become two rows of sums, in the order of the names."""
    sums = cluster_sums(["b", "a", "b"], np.array([[1.0, 1.0], [5.0, 1.0], [2.0, 1.0]]))

    assert sums.tolist() == [[5.0, 1.0], [3.0, 2.0]]


def test_clustered_data_widen_the_interval() -> None:
    """Ten copies of each row in one cluster carry no more information than the row."""
    generator = np.random.default_rng(0)
    rows = np.column_stack([generator.integers(0, 2, 40).astype(float), np.ones(40)])
    copies = np.repeat(rows, 10, axis=0)

    independent = cluster_bootstrap_bca(copies, ratio)
    clustered = cluster_bootstrap_bca(cluster_sums([str(i // 10) for i in range(400)], copies), ratio)
    assert independent.low is not None
    assert clustered.low is not None
    assert clustered.low < independent.low


def test_no_cluster_is_refused() -> None:
    """There is no interval of nothing."""
    with pytest.raises(StatisticsError, match="at least one cluster"):
        cluster_bootstrap_bca(np.empty((0, 2)), ratio)


def test_drawing_by_kind_is_the_same_experiment() -> None:
    """600 clusters of few kinds: the interval equals that of the same clusters drawn one by one, up to noise."""
    generator = np.random.default_rng(8)
    sums = np.column_stack([generator.integers(-1, 2, 600).astype(float), generator.integers(1, 4, 600).astype(float)])

    by_kind = cluster_bootstrap_bca(sums, ratio, n_draws=8000)
    one_by_one = cluster_bootstrap_bca(sums + generator.normal(0, 1e-9, sums.shape), ratio, n_draws=8000)
    assert by_kind.low is not None
    assert one_by_one.low is not None
    assert by_kind.high is not None
    assert one_by_one.high is not None
    width = one_by_one.high - one_by_one.low
    assert by_kind.low == pytest.approx(one_by_one.low, abs=0.04 * width)
    assert by_kind.high == pytest.approx(one_by_one.high, abs=0.04 * width)


def test_few_clusters_reach_as_far_as_the_t_interval() -> None:
    """On near-normal means of 20 clusters the interval is Student's, up to noise; the plain one is shorter."""
    values = scipy_stats.norm.ppf((np.arange(20) + 0.5) / 20)
    sums = np.column_stack([values, np.ones(20)])

    student = scipy_stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    expanded = cluster_bootstrap_bca(sums, ratio, n_draws=20_000)
    plain = cluster_bootstrap_bca(sums, ratio, n_draws=20_000, expanded=False)
    assert expanded.high == pytest.approx(student.high, rel=0.03)
    assert expanded.low == pytest.approx(student.low, rel=0.03)
    assert plain.high == pytest.approx(student.high * 1.96 * np.sqrt(19 / 20) / 2.093, rel=0.03)


def test_two_clusters_have_a_finite_interval() -> None:
    """At the smallest count the reach is enormous; the interval is then the range of the resamples."""
    interval = cluster_bootstrap_bca(np.array([[1.0, 4.0], [3.0, 4.0]]), ratio, confidence=0.99)

    assert (interval.low, interval.value, interval.high) == (0.25, 0.5, 0.75)
