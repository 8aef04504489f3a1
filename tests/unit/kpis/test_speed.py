import math

import pytest

from kpis.errors import RecordError, StatisticsError
from kpis.records import TimingPairs
from kpis.routing import conversion, effective_layers, estimated_ceiling, skip_rate
from kpis.speed import estimate, percentiles, request_pairs, speed_row, tpot
from kpis.stats import fixed_sequence, log_ratio_interval


@pytest.mark.parametrize(("k", "ceiling"), [(0.2, 1.20), (0.3, 1.34), (0.4, 1.52)])
def test_ceiling_table(k: float, ceiling: float) -> None:
    """The ceilings of the KPI definition at 85 % of the time in layers."""
    assert round(estimated_ceiling(k, 0.85), 2) == ceiling


def test_conversion_and_its_undefined_case() -> None:
    """Half of the promised gain is 0.5; next to nothing skipped has no conversion instead of a huge one."""
    assert conversion(1.1, 1.2) == pytest.approx(0.5)
    assert conversion(1.0, 1.0) is None
    assert conversion(0.918, 1.0033) is None
    assert conversion(1.01, 1.0199) is None
    assert conversion(1.01, 1.02) == pytest.approx(0.5)


def test_counted_work() -> None:
    """Skip rate and effective layers of a 30-layer model; nothing counted is None."""
    assert skip_rate(24, 30) == pytest.approx(0.2)
    assert skip_rate(0, 0) is None
    assert effective_layers(0.2, 30) == pytest.approx(24.0)


def test_equal_times_give_one_without_width() -> None:
    """Identity: the same times in both runs give ratio 1 and a zero-width interval."""
    assert log_ratio_interval([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == (1.0, 1.0, 1.0)


def test_interval_by_hand() -> None:
    """Two pairs with log ratios 0 and ln 4: mean ln 2, t(1) = 12.706, standard error ln 2."""
    ratio, low, high = log_ratio_interval([1.0, 4.0], [1.0, 1.0])

    assert ratio == pytest.approx(2.0)
    assert low == pytest.approx(math.exp(math.log(2) * (1 - 12.706204736)), rel=1e-6)
    assert high == pytest.approx(math.exp(math.log(2) * (1 + 12.706204736)), rel=1e-6)


def test_one_pair_has_no_interval() -> None:
    """A single pair gives a ratio and no bounds, and no estimate to draw from."""
    assert log_ratio_interval([2.0], [1.0]) == (2.0, None, None)
    with pytest.raises(RecordError, match="measure more"):
        estimate(TimingPairs("decode", 1, (2.0,), (1.0,)))


def test_pairing_removes_drift() -> None:
    """A machine that slows down tenfold during the run does not widen a paired interval."""
    dense = [1.2 * 10 ** (i / 9) for i in range(10)]
    skip = [1.0 * 10 ** (i / 9) for i in range(10)]

    ratio, low, high = log_ratio_interval(dense, skip)
    assert (low, high) == (pytest.approx(1.2), pytest.approx(1.2))
    assert ratio == pytest.approx(1.2)


def test_whole_requests_mix_both_phases() -> None:
    """1 s prefill without gain and ten further tokens at half the time: 3 s against 2 s."""
    prefill = TimingPairs("prefill", 1, (1.0, 1.0), (1.0, 1.0))
    decode = TimingPairs("decode", 1, (0.2, 0.2), (0.1, 0.1))

    request = request_pairs(prefill, decode, output_tokens=11)
    assert request.dense_s == pytest.approx((3.0, 3.0))
    assert estimate(request).ratio == pytest.approx(1.5)


def test_percentiles_need_samples() -> None:
    """No 99th percentile below 1,000 requests, none at all without requests."""
    assert "p99" not in percentiles([0.1] * 999)
    assert percentiles([float(i) for i in range(1001)])["p99"] == pytest.approx(990.0)
    assert percentiles([]) == {"p50": None, "p90": None, "n": 0}
    with pytest.raises(StatisticsError, match="failed requests"):
        percentiles([0.1, float("nan")])


def test_time_per_token_is_undefined_for_one_token() -> None:
    """TPOT excludes the first token, so one token has none."""
    assert tpot(1.0, 1.0, 1) is None


def test_speed_row_keeps_three_numbers_apart() -> None:
    """Ceiling, measured ratio and conversion stand beside each other; medians are per side."""
    row = speed_row(
        TimingPairs("decode", 1, (0.2, 0.2, 0.4), (0.2, 0.2, 0.4)),
        prompt_tokens=16,
        output_tokens=32,
        dtype="float32",
        backend="branch",
        routing="trained",
        skip_rate=0.2,
        skippable_time_share=0.9,
        is_headline=True,
    )

    assert row["estimated_ceiling"] == pytest.approx(1 / 0.82)
    assert (row["measured_speedup"], row["conversion"], row["dense_s"]) == (1.0, 0.0, 0.2)


def test_fixed_sequence_stops_at_the_first_failure() -> None:
    """A later pass does not count; a first failure chooses nothing."""
    assert fixed_sequence([True, True, False, True], bool) == 1
    assert fixed_sequence([False, True], bool) is None
    assert fixed_sequence([], bool) is None
