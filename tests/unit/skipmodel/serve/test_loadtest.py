"""The load test: arrivals that wait for nobody, the knee, and records that the cost model reads."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kpis.load_test import LoadTest, offered_per_s
from skipmodel import __main__ as command_line
from skipmodel.errors import MeasurementError
from skipmodel.serve.config import ServeConfig
from skipmodel.serve.loadtest import LoadPlan, Sent, arrivals, knee, records, row_of, run_load_test, run_rate
from tests.unit.skipmodel.serve.helpers import PROMPTS, Running, make_served, running

CONFIG = ServeConfig(port=0, slots=4, context=96)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(make_served(tmp_path_factory.mktemp("base")), CONFIG) as started:
        yield started


def plan(url: str = "http://127.0.0.1:9", **more: Any) -> LoadPlan:
    options: dict[str, Any] = {"rates_per_s": (8.0, 16.0), "duration_s": 1.0, "prompts": PROMPTS, "max_tokens": 4}
    return LoadPlan(url, "skiplayer", **(options | more))


def test_arrivals_are_a_poisson_process() -> None:
    """Mean and spread of the gaps are 1 / rate, the rate is met, and a seed settles them."""
    times = arrivals(20.0, 500.0, 1)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    limit = 4 / math.sqrt(len(gaps))
    assert abs(statistics.fmean(gaps) * 20 - 1) < limit
    assert abs(statistics.stdev(gaps) * 20 - 1) < 2 * limit
    assert times[-1] < 500.0
    assert arrivals(20.0, 5.0, 1) == arrivals(20.0, 5.0, 1) != arrivals(20.0, 5.0, 2)


def test_requests_do_not_wait_for_answers(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """All arrive on time although the first answer comes after the last arrival; waiting counts as time to it."""
    import threading

    hold, real = threading.Event(), server.scheduler.rows.run
    monkeypatch.setattr(server.scheduler.rows, "run", lambda *a: (hold.wait(60), real(*a))[1])
    threading.Timer(1.5, hold.set).start()
    sent = run_rate(plan(server.url), "skip", 16.0)
    assert len(sent) > 8
    assert all(one.is_ok for one in sent)
    assert min(one.end_s or 0 for one in sent) > max(one.arrival_s for one in sent)
    # four slots read their prompts at once; whoever came behind them waited
    waits = [one.ttft_s or 0 for one in sorted(sent, key=lambda one: one.arrival_s)]
    assert max(waits) > 0.5


def test_records_are_those_that_the_cost_model_reads(server: Running, tmp_path: Path) -> None:
    """From a real server to `kpis.load_test`, both arms, warm-up left out; the command writes the same."""
    out = tmp_path / "load.json"
    code = command_line.main(
        ["loadtest", "--url", server.url, "--out", str(out), "--rates", "6,12", "--duration-s", "1.5",
         "--warm-up-s", "0.3",
         "--answer-tokens", "4", "--slo-ttft-s", "60", "--slo-tpot-s", "60", "--device", "test"]
    )  # fmt: skip
    test = LoadTest.from_json(json.loads(out.read_text("utf-8")))
    report = json.loads(out.with_suffix(".rates.json").read_text("utf-8"))
    assert code == 0
    assert test.device_name == "test"
    assert {row.arm for row in test.requests} == {"dense", "skip"}
    assert all(row.ok and row.arrival_s >= 0.3 for row in test.requests)
    assert [row.arrival_s for row in test.of("skip")] == [row.arrival_s for row in test.of("dense")]
    assert offered_per_s(test.of("skip")) > 3
    assert report["knee_per_s"] == {"dense": 12.0, "skip": 12.0}
    assert report["records_of_per_s"] == 12.0


def test_failed_requests_are_missed_and_not_forgotten() -> None:
    """Nobody listens: rows without times, no knee, and the command says what to do."""
    nobody = plan(rates_per_s=(10.0, 20.0))
    document = run_load_test(nobody)
    written = LoadTest.from_json(records(nobody, document, 10.0, "test"))
    assert document["knee_per_s"] == {"dense": None, "skip": None}
    assert {row["rate_per_s"] for row in document["rows"]} == {10.0}  # behind the knee nothing is sent
    assert not any(row.ok for row in written.requests)
    assert {row["n_failed"] == row["n"] for row in document["rows"]} == {True}


def test_a_load_test_without_answers_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One message with the cause; no file that looks like a measurement."""
    out = tmp_path / "load.json"
    code = command_line.main(["loadtest", "--url", "http://127.0.0.1:9", "--out", str(out), "--rates", "9",
                              "--duration-s", "1", "--warm-up-s", "0"])  # fmt: skip
    assert code == 2
    assert "all requests failed" in capsys.readouterr().err
    assert not out.exists()


def test_the_knee_is_before_the_first_rate_that_fails() -> None:
    """A later success behind a failure is luck; warm-up requests count for nothing."""
    rows = [{"arm": "skip", "rate_per_s": rate, "holds": holds} for rate, holds in ((1, True), (2, False), (4, True))]
    assert knee(rows, "skip") == 1
    assert knee(rows[1:], "skip") is None
    asked = plan(warm_up_s=0.5, slo_ttft_s=1.0, slo_tpot_s=0.1, share=0.5)
    sent = [
        Sent("skip", 0.1, ttft_s=9.0, tpot_s=0.0, end_s=9.1),
        Sent("skip", 0.6, ttft_s=0.9, tpot_s=0.1, end_s=1.6, n_tokens=4),
        Sent("skip", 0.7, ttft_s=0.9, tpot_s=0.2, end_s=1.6, n_tokens=4),
        Sent("skip", 0.8, error="gone"),
    ]
    row = row_of(asked, "skip", 8.0, sent)
    assert (row["n"], row["n_failed"], row["holds"]) == (3, 1, False)
    assert row["within_slo"] == pytest.approx(1 / 3)
    assert row["goodput_per_s"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("more", "message"),
    [({"rates_per_s": (2.0, 1.0)}, "rising"), ({"rates_per_s": ()}, "rising"), ({"prompts": ()}, "prompt"),
     ({"warm_up_s": 1.0}, "warm-up")],
)  # fmt: skip
def test_what_is_no_load_test_is_refused(more: dict[str, Any], message: str) -> None:
    """Before anything is sent."""
    with pytest.raises(MeasurementError, match=message):
        dataclasses.replace(plan(), **more)
