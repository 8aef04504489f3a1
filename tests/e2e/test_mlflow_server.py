"""Real MLflow servers, on SQLite and on PostgreSQL: killed and restarted under a run, nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from flows.spool import Spool, deliver_all
from flows.tracking import DatasetRef
from tests.services import HOST, free_port, kill, mlflow_server, postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

N_POINTS = 30


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def backend(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Address of the server's database; None is its own SQLite file."""
    if request.param == "sqlite":
        yield None
        return
    absent = [name for name in ("postgres", "initdb") if shutil.which(name) is None]
    if absent or importlib.util.find_spec("psycopg2") is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql, and its bin folder on PATH)")
    with postgres() as address:
        yield address


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run folder that knows nothing of any stage."""
    folder = tmp_path / "runs" / "20270101-000000-abcdef01"
    folder.mkdir(parents=True)
    return folder


def _log_point(spool: Spool, index: int) -> None:
    spool.log_stage(
        f"sweep point {index}", f"key-{index}", params={"threshold": index / 100}, metrics={"ppl_rise": index / 1000},
        kind="sweep point", under=["W2 tune and sweep", "sweep"],
    )  # fmt: skip


def _runs(uri: str) -> dict[str, Run]:
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("poc")
    found = client.search_runs([experiment.experiment_id], max_results=500)
    assert [name for name, count in Counter(run.info.run_name for run in found).items() if count > 1] == []
    return {run.info.run_name: run for run in found}


def test_a_server_that_dies_costs_nothing(
    backend: str | None, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed twice in the middle: the run goes on, everything arrives once, in order, under its week."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    report = run_folder / "report.html"
    report.write_text("<p>report</p>", "utf-8")
    port, told = free_port(), []
    uri = f"http://{HOST}:{port}"
    spool = Spool(run_folder, uri, "poc", told.append, now=lambda: float("inf"))  # asks at every call
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(mlflow_server(tmp_path, port, backend))
        spool.start(run_folder.name, tags={"month": "m1"})
        for index in range(N_POINTS // 3):
            _log_point(spool, index)
        kill(server)
        server.wait()
        for index in range(N_POINTS // 3, N_POINTS):
            _log_point(spool, index)
        spool.log_parent(metrics={"Q1": 0.01}, tags={"verdict": "no_go"}, artifacts=[report])
        spool.finish()
    waiting = spool.n_waiting
    assert waiting >= N_POINTS - N_POINTS // 3
    assert sum("is away" in line for line in told) == 1

    with mlflow_server(tmp_path, port, backend):
        # a process of its own, long after: it finds what waits in the folder
        left = deliver_all(run_folder.parent, told.append)
        runs = _runs(uri)

        assert left == {run_folder.name: 0}
        assert {f"sweep point {index}" for index in range(N_POINTS)} <= set(runs)
        assert runs["sweep point 7"].data.metrics["ppl_rise"] == pytest.approx(0.007)
        assert runs["sweep point 29"].data.tags["mlflow.parentRunId"] == runs["sweep"].info.run_id
        assert runs["sweep"].data.tags["mlflow.parentRunId"] == runs["W2 tune and sweep"].info.run_id
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        parent = runs[run_folder.name]
        assert (parent.data.metrics["Q1"], parent.data.tags["verdict"]) == (0.01, "no_go")
        assert [file.path for file in MlflowClient(uri).list_artifacts(parent.info.run_id)] == ["report.html"]
        assert deliver_all(run_folder.parent, told.append) == {}


def test_an_answer_that_is_lost_makes_nothing_twice(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server takes every call, but dies before the answer arrives: what it has already is found, not repeated."""
    from flows.tracking import Tracker, TrackingAwayError

    lost: set[str] = set()

    class Forgetful(Tracker):
        """Does each kind of call, and then reports that the server is away, once."""

        def __getattribute__(self, name: str) -> object:
            value = super().__getattribute__(name)
            if name not in ("log_stage", "log_parent", "finish") or name in lost:
                return value

            def call(**values: object) -> object:
                value(**values)
                lost.add(name)
                raise TrackingAwayError("no answer", where="test", todo="none")

            return call

    spool = Spool(run_folder, None, "poc", connect=Forgetful, now=lambda: float("inf"))
    spool.start(run_folder.name)
    spool.log_stage("ingest", "key", metrics={"n": 1}, datasets=[DatasetRef("corpus", "a" * 64, "train", 3)])
    spool.log_stage("base", "key-2", metrics={"n": 1})
    spool.log_parent(metrics={"Q1": 0.5})
    spool.finish()
    spool.deliver()
    runs = _runs(spool.tracking_uri)

    assert lost == {"log_stage", "log_parent", "finish"}
    assert spool.n_waiting == 0
    assert sorted(runs) == [run_folder.name, "base", "ingest"]
    client = MlflowClient(spool.tracking_uri)
    assert len(client.get_metric_history(runs[run_folder.name].info.run_id, "Q1")) == 1
    assert len(runs["ingest"].inputs.dataset_inputs) == 1
