import pytest

from kpis.errors import RecordError
from kpis.goodput import LoadRun, capacity, goodput_per_s, n_within_slo, slo_share

SLO = (2.0, 0.1)


def load(rate: float, kept: int, missed: int, n_failed: int = 0) -> LoadRun:
    """Requests that keep both times, then requests whose first token is late."""
    first = (0.5,) * kept + (3.0,) * missed
    return LoadRun(rate, 100.0, first, (0.05,) * len(first), n_failed)


def test_both_promises_must_be_kept() -> None:
    """A late first token and slow further tokens both count as missed; the limit itself is kept."""
    run = LoadRun(1.0, 4.0, (2.0, 3.0, 0.5), (0.1, 0.05, 0.2))

    assert n_within_slo(run, *SLO) == 1
    assert goodput_per_s(run, *SLO) == 0.25


def test_failed_requests_count_as_missed() -> None:
    """Ninety kept of a hundred sent, five of them failed."""
    share = slo_share(load(1.0, 90, 5, n_failed=5), *SLO)

    assert (share["value"], share["n"]) == (0.9, 100)
    assert share["low"] < 0.9 < share["high"]


def test_capacity_stops_at_the_first_load_that_misses() -> None:
    """A later success does not rescue an earlier failure; loads are taken from slow to fast."""
    runs = [load(4.0, 2000, 0), load(1.0, 2000, 0), load(2.0, 1995, 5), load(3.0, 1900, 100)]

    found = capacity(runs, *SLO)
    assert found is not None
    assert found["offered_per_s"] == 2.0
    assert found["goodput_per_s"] == pytest.approx(19.95)


def test_too_few_requests_prove_no_capacity() -> None:
    """A hundred requests without a miss do not show 99 %: the exact lower bound is below it."""
    assert capacity([load(1.0, 100, 0)], *SLO) is None


def test_impossible_runs_are_refused() -> None:
    """Unequal lists, no request, no duration and negative times are errors."""
    with pytest.raises(RecordError, match="one tpot per ttft"):
        LoadRun(1.0, 1.0, (0.1,), ())
    with pytest.raises(RecordError, match="at least one request"):
        LoadRun(1.0, 1.0, (), ())
    with pytest.raises(RecordError, match="duration"):
        LoadRun(1.0, 0.0, (0.1,), (0.1,))
    with pytest.raises(RecordError, match="0 s or more"):
        LoadRun(1.0, 1.0, (-0.1,), (0.1,))
