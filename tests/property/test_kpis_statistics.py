import math
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from kpis.answers import char_f1, exact_match, normalise_answer, self_consistency
from kpis.multiple import holm
from kpis.paired import mcnemar_exact_one_sided, tango_interval, tango_statistic
from kpis.permutation import paired_permutation
from kpis.planning import detectable_margin, non_inferiority_power
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


@given(tables(), st.floats(0.01, 0.3), st.sampled_from([0.01, 0.05, 0.1]))
@settings(max_examples=80, deadline=None)
def test_bound_and_statistic_decide_alike(table: tuple[int, int, int], margin: float, alpha: float) -> None:
    """The lower bound is above -margin exactly when the score statistic exceeds its quantile."""
    b, c, n = table
    quantile = {0.01: 2.3263478740408408, 0.05: 1.6448536269514722, 0.1: 1.2815515655446004}[alpha]
    low = tango_interval(b, c, n, 1 - 2 * alpha)[0]
    if abs(low + margin) < 1e-6:
        return

    assert (low > -margin) == (float(tango_statistic(b, c, n, -margin)) > quantile)


@given(st.integers(20, 2000), st.floats(0.0, 0.3), st.floats(0.01, 0.2), st.floats(1.0, 3.0))
@settings(max_examples=40, deadline=None)
def test_power_is_a_probability_that_grows_with_the_margin(n: int, flips: float, margin: float, effect: float) -> None:
    """Power lies within [0, 1]; a wider margin and a better truth never lower it."""
    power = non_inferiority_power(n, flips, margin, design_effect=effect)

    assert 0.0 <= power <= 1.0
    assert non_inferiority_power(n, flips, margin * 1.5, design_effect=effect) >= power - 1e-9
    assert non_inferiority_power(n, flips, margin, true_difference=flips / 2, design_effect=effect) >= power - 1e-6


@given(st.integers(30, 1000), st.floats(0.01, 0.3))
@settings(max_examples=10, deadline=None)
def test_more_flips_hide_larger_losses(n: int, flips: float) -> None:
    """The margin that n items can show never shrinks when more answers flip."""
    assert detectable_margin(n, min(1.0, flips * 1.5)) >= detectable_margin(n, flips) - 2e-3


@given(st.lists(st.floats(0.0, 1.0), max_size=12))
def test_holm_is_between_the_single_test_and_bonferroni(p_values: list[float]) -> None:
    """Adjusting never strengthens evidence, never exceeds Bonferroni, and keeps the order."""
    adjusted = holm(p_values)

    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q + 1e-15
        assert q <= min(1.0, p * len(p_values)) + 1e-12 or any(other < p for other in p_values)
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert all(adjusted[i] <= adjusted[j] for i, j in pairwise(order))


@given(st.lists(st.sampled_from([-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0]), max_size=30), st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_permutation_p_falls_when_the_skip_model_gets_worse(differences: list[float], seed: int) -> None:
    """P-values lie in (0, 1]; mirrored scores mirror the question; one harmful point more is never weaker evidence."""
    p = paired_permutation(differences, "less", n_draws=999, seed=seed)

    assert 0.0 < p <= 1.0
    if len(differences) <= 11:
        assert math.isclose(p, paired_permutation([-d for d in differences], "greater"), abs_tol=1e-12)
        assert paired_permutation([*differences, -1.0], "less") <= p + 1e-12


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_mcnemar_moves_with_the_flips(b: int, c: int) -> None:
    """One more harmful flip is stronger evidence of harm, one more helpful flip weaker."""
    p = mcnemar_exact_one_sided(b, c)

    assert mcnemar_exact_one_sided(b + 1, c) <= p + 1e-12
    assert mcnemar_exact_one_sided(b, c + 1) >= p - 1e-12


@given(st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=100, deadline=None)
def test_answer_grades_are_symmetric_fractions(answer: str, reference: str) -> None:
    """F1 lies within [0, 1] and does not care which text is the reference; an exact match has F1 = 1."""
    f1 = char_f1(answer, [reference])

    assert 0.0 <= f1 <= 1.0
    assert f1 == char_f1(reference, [answer])
    assert char_f1(answer, [answer]) == exact_match(answer, [answer]) == 1.0
    assert exact_match(answer, [reference]) <= f1
    assert normalise_answer(normalise_answer(answer)) == normalise_answer(answer)


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=12))
def test_self_consistency_is_a_share_of_pairs(samples: list[str]) -> None:
    """Between 0 and 1, 1 only if all agree, and the same in any order."""
    share = self_consistency(samples)

    assert share is not None
    assert 0.0 <= share <= 1.0
    assert (share == 1.0) == (len(set(samples)) == 1)
    assert share == self_consistency(samples[::-1])
