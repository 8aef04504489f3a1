"""`kill -9` at the worst moments: right before a file appears, in training and in the middle of the sweep."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from tests.e2e.conftest import Finished, read_result, run_cli, run_here, seed_prefect, snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Files = dict[str, tuple[int, bytes]]


@dataclass(frozen=True)
class Resumed:
    """A run that was killed in the dense tuning, then in the sweep, and then came to its end."""

    runs: Path
    exit_codes: tuple[int, int]
    after_first: Files
    """Files of the store after the first kill."""
    after_second: Files
    at_end: Files
    result: dict[str, Any]


@pytest.fixture(scope="module")
def resumed(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Resumed:
    """Kill the same command twice, then let it run."""
    runs = tmp_path_factory.mktemp("resumed") / "runs"
    store = runs / "store"
    seed_prefect(finished.runs, runs / "prefect")
    codes, files = [], []
    for moment in ("*/dense-tune-*.partial/log.json", "*/sweep-*.partial/point-02.json"):
        codes.append(run_cli(finished.settings, runs, env={"SKIP_POC_TEST_KILL_AT": moment}).returncode)
        files.append(snapshot(store))
    folder = run_here(finished.settings, runs)
    return Resumed(runs, (codes[0], codes[1]), *files, snapshot(store), read_result(folder))


def _of(files: Files, stage: str, *, partial: bool = False) -> Files:
    """Files of one stage, finished or half-done, by their names within the stage."""
    chosen = {name: value for name, value in files.items() if name.startswith(f"{stage}-")}
    return {
        name.split("/", 1)[1]: value
        for name, value in chosen.items()
        if name.split("/", 1)[0].endswith(".partial") == partial and not Path(name).name.startswith(".")
    }


def test_the_kills_came_where_they_were_meant(resumed: Resumed) -> None:
    """Both processes died of SIGKILL: one between training and its log, one with two points of the sweep."""
    assert resumed.exit_codes == (-signal.SIGKILL, -signal.SIGKILL)
    assert "dense/model.safetensors" in _of(resumed.after_first, "dense-tune", partial=True)
    assert "log.json" not in _of(resumed.after_first, "dense-tune", partial=True)
    assert _of(resumed.after_first, "dense-tune") == {}
    points = {name for name in _of(resumed.after_second, "sweep", partial=True) if name.startswith("point-")}
    assert points == {"point-00.json", "point-01.json"}


def test_finished_stages_are_not_computed_again(resumed: Resumed) -> None:
    """Every file of a stage that was finished before a kill has the same content and time of change at the end."""
    for before, stages in (
        (resumed.after_first, ("ingest", "base")),
        (resumed.after_second, ("ingest", "base", "dense-tune", "calibrate", "skip-tune")),
    ):
        for stage in stages:
            assert "stage.json" in _of(before, stage), stage
            assert _of(resumed.at_end, stage).items() >= _of(before, stage).items(), stage


def test_measured_sweep_points_are_not_measured_again(resumed: Resumed) -> None:
    """Thresholds and points that were there when the sweep was killed are the very files of the finished sweep."""
    kept = _of(resumed.after_second, "sweep", partial=True)

    assert set(kept) == {"thresholds.json", "point-00.json", "point-01.json"}
    assert _of(resumed.at_end, "sweep").items() >= kept.items()
    assert not [name for name in resumed.at_end if ".partial/" in name]


def test_a_resumed_run_ends_like_an_undisturbed_one(finished: Finished, resumed: Resumed) -> None:
    """Weights, sweep, choice and confirmation are those of a run that nobody killed."""
    expected = finished.result

    for key in ("hashes", "data", "sweep", "controls", "choice", "confirmation"):
        assert resumed.result[key] == expected[key], key
    assert resumed.result["run"]["plan_sha256"] == expected["run"]["plan_sha256"]


def test_three_attempts_are_one_run(resumed: Resumed) -> None:
    """One run folder, one MLflow parent, no nested run twice, all finished."""
    client = MlflowClient(tracking_uri=f"sqlite:///{resumed.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("skiplayer-poc: Tiny PoC")
    runs = client.search_runs([experiment.experiment_id], max_results=200)
    parents = [run for run in runs if run.data.tags.get("kind") == "poc"]
    names = [run.info.run_name for run in runs]

    assert len(list(resumed.runs.glob("[0-9]*-*"))) == 1
    assert [run.info.run_id for run in parents] == [resumed.result["run"]["mlflow"]["run_id"]]
    assert sorted(names) == sorted(set(names))
    assert {run.info.status for run in runs} == {"FINISHED"}
