import math

from hypothesis import given, settings
from hypothesis import strategies as st

from kpis.paired import tango_interval
from kpis.proportions import clopper_pearson, wilson
from kpis.records import DocumentPair
from kpis.speed import percentiles
from kpis.stats import fixed_sequence, log_ratio_interval, required_n

times = st.floats(1e-6, 1e3)


@st.composite
def shares(draw: st.DrawFn) -> tuple[int, int]:
    """Successes and trials."""
    n = draw(st.integers(1, 5000))
    return draw(st.integers(0, n)), n


@st.composite
def tables(draw: st.DrawFn) -> tuple[int, int, int]:
    """Harmful flips, helpful flips and items."""
    n = draw(st.integers(1, 3000))
    b = draw(st.integers(0, n))
    return b, draw(st.integers(0, n - b)), n


@given(shares(), st.floats(0.5, 0.999))
@settings(max_examples=60, deadline=None)
def test_share_intervals_contain_the_share(share: tuple[int, int], confidence: float) -> None:
    """Both intervals lie within [0, 1], contain k/n, and the exact one is never shorter upwards at k = 0."""
    k, n = share

    for low, high in (wilson(k, n, confidence), clopper_pearson(k, n, confidence)):
        assert 0.0 <= low <= k / n <= high <= 1.0


@given(tables(), st.sampled_from([0.8, 0.9, 0.95]))
@settings(max_examples=60, deadline=None)
def test_tango_contains_the_difference(table: tuple[int, int, int], confidence: float) -> None:
    """The score interval lies within [-1, 1] and contains the observed difference."""
    b, c, n = table

    low, high = tango_interval(b, c, n, confidence)
    assert -1.0 <= low <= (c - b) / n + 1e-9
    assert (c - b) / n - 1e-9 <= high <= 1.0


@given(tables())
@settings(max_examples=50, deadline=None)
def test_one_more_harmful_flip_never_raises_the_bound(table: tuple[int, int, int]) -> None:
    """Turning one agreeing item into a harmful flip lowers the lower bound."""
    b, c, n = table
    if b + c == n:
        return

    assert tango_interval(b + 1, c, n)[0] <= tango_interval(b, c, n)[0] + 1e-9


@given(st.floats(0.0, 0.5), st.floats(0.005, 0.2))
@settings(max_examples=50, deadline=None)
def test_more_flips_and_smaller_margins_need_more_items(flip_rate: float, margin: float) -> None:
    """The planned number of items never falls when flips rise or the margin shrinks."""
    n = required_n(flip_rate, margin)

    assert required_n(min(1.0, flip_rate + 0.1), margin) >= n
    assert required_n(flip_rate, margin / 2) >= n


@given(st.lists(st.tuples(times, times), min_size=2, max_size=20))
@settings(max_examples=50, deadline=None)
def test_swapping_the_models_inverts_the_ratio(pairs: list[tuple[float, float]]) -> None:
    """Ratio and interval of (dense, skip) are the inverses of those of (skip, dense)."""
    dense, skip = zip(*pairs, strict=True)

    ratio, low, high = log_ratio_interval(dense, skip)
    inverse, inverse_low, inverse_high = log_ratio_interval(skip, dense)
    assert math.isclose(ratio * inverse, 1.0, rel_tol=1e-9)
    assert low is not None
    assert high is not None
    assert inverse_low is not None
    assert inverse_high is not None
    assert low <= ratio * (1 + 1e-12)
    assert ratio <= high * (1 + 1e-12)
    assert math.isclose(math.log(low), -math.log(inverse_high), rel_tol=1e-6, abs_tol=1e-6)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=300))
@settings(max_examples=50, deadline=None)
def test_percentiles_are_ordered(samples: list[float]) -> None:
    """p50 <= p90 <= p99 <= max."""
    result = percentiles(samples, min_p99_samples=1)

    assert min(samples) <= result["p50"] <= result["p90"] <= result["p99"] <= max(samples) * (1 + 1e-12)


@given(st.lists(st.booleans(), max_size=12))
def test_fixed_sequence_never_jumps_over_a_failure(outcomes: list[bool]) -> None:
    """Everything up to the chosen row passed, and the next one failed or does not exist."""
    index = fixed_sequence(outcomes, bool)

    if index is None:
        assert not outcomes or not outcomes[0]
    else:
        assert all(outcomes[: index + 1])
        assert index + 1 == len(outcomes) or not outcomes[index + 1]


@given(st.integers(1, 50), st.integers(1, 1000), st.floats(0, 500))
def test_document_records_survive_json(n_tokens: int, n_bytes: int, nats: float) -> None:
    """Reading back what was written gives the same record."""
    record = DocumentPair("d", n_tokens, n_bytes, nats, nats, n_tokens, 0, 0, 0, 0, 0, 0)

    assert DocumentPair.from_json(record.to_json()) == record
