from __future__ import annotations

import pytest
from mlflow.tracking import MlflowClient

from flows.errors import PocError
from flows.tracking import MAX_PARAM_LENGTH, OF_RUN_TAG, RUN_TAG, STAGE_TAG, DatasetRef, Tracker, TrackingAwayError


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    """Return a runs folder whose database is made once: that takes seconds."""
    folder = tmp_path_factory.mktemp("runs")
    Tracker(None, "poc", folder)
    return folder


@pytest.fixture
def tracker(runs_dir, request):
    """Return a tracker on a parent run of its own."""
    tracker = Tracker(None, "poc", runs_dir)
    tracker.start(request.node.name)
    return tracker


def _client(tracker):
    return MlflowClient(tracking_uri=tracker.uri)


def _runs(tracker, condition):
    client = _client(tracker)
    experiment = client.get_experiment_by_name("poc")
    return client.search_runs([experiment.experiment_id], condition)


def test_stage_is_logged_whole(tracker, tmp_path):
    """Parameters, metrics, curves, files and data sets of a stage end up in one nested run."""
    plot = tmp_path / "plot.svg"
    plot.write_text("<svg/>")
    parent_id = tracker.start("test_stage_is_logged_whole")

    run_id = tracker.log_stage(
        "dense tune",
        "key-whole",
        params={"model.seed": 0, "rates": [0.1, 0.2], "none": None},
        metrics={"ppl": 4.5, "item_accuracy": None, "broken": float("nan"), "count": 3},
        series={"loss": [(0, 2.0), (10, 1.5), (20, 1.25)]},
        artifacts=[plot],
        datasets=[DatasetRef("manual", "a" * 64, "train", 12)],
    )

    client = _client(tracker)
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"model.seed": "0", "rates": "[0.1, 0.2]", "none": "null"}
    assert run.data.metrics == {"ppl": 4.5, "count": 3.0, "loss": 1.25}
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [
        (0, 2.0),
        (10, 1.5),
        (20, 1.25),
    ]
    assert [file.path for file in client.list_artifacts(run_id)] == ["plot.svg"]
    assert run.data.tags["mlflow.parentRunId"] == parent_id
    (dataset,) = run.inputs.dataset_inputs
    assert {tag.key: tag.value for tag in dataset.tags}["sha256"] == "a" * 64


def test_finished_stage_is_logged_once(tracker):
    """A run that goes on meets its finished stages again and leaves them alone."""
    first = tracker.log_stage("sweep", "key-once", metrics={"ppl": 4.0})
    second = tracker.log_stage("sweep", "key-once", metrics={"ppl": 9.0})

    assert first == second
    assert _client(tracker).get_run(first).data.metrics == {"ppl": 4.0}


def test_half_logged_stage_is_replaced(tracker):
    """A nested run that a kill left running is removed, not finished twice."""
    client, name = _client(tracker), "test_half_logged_stage_is_replaced"
    experiment_id = client.get_experiment_by_name("poc").experiment_id
    tags = {STAGE_TAG: "key-half", "mlflow.parentRunId": tracker.parent_id, OF_RUN_TAG: name}
    half = client.create_run(experiment_id, tags=tags).info.run_id
    tracker.start(name)

    whole = tracker.log_stage("sweep", "key-half", metrics={"ppl": 4.0})

    assert [run.info.run_id for run in _runs(tracker, f"tags.`{STAGE_TAG}` = 'key-half'")] == [whole]
    assert client.get_run(half).info.lifecycle_stage == "deleted"


def test_same_stage_under_another_parent_is_another_run(tracker, runs_dir):
    """Two PoC runs that share a stored stage both show it."""
    other = Tracker(None, "poc", runs_dir)
    other.start("another parent")

    assert tracker.log_stage("ingest", "key-shared") != other.log_stage("ingest", "key-shared")


def test_parent_is_found_again_and_completed(tracker, runs_dir):
    """The second attempt of a run adds to its parent: nothing is doubled, changed settings become tags."""
    name = "test_parent_is_found_again_and_completed"
    tracker.log_parent(params={"seed": 0, "report.language": "ja"}, metrics={"skip_rate": 0.2})
    tracker.finish()

    again = Tracker(None, "poc", runs_dir)
    parent_id = again.start(name)
    again.log_parent(
        params={"seed": 0, "report.language": "en", "new": 1},
        metrics={"skip_rate": 0.2, "ppl": 4.0},
        tags={"verdict": "no_go"},
    )
    again.finish()

    (run,) = _runs(tracker, f"tags.`{RUN_TAG}` = '{name}'")
    assert run.info.run_id == parent_id
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "0", "report.language": "ja", "new": "1"}
    assert run.data.tags["skip_poc.changed.report.language"] == "en"
    assert run.data.tags["verdict"] == "no_go"
    assert len(_client(tracker).get_metric_history(parent_id, "skip_rate")) == 1


def test_long_and_odd_names_are_fitted(tracker):
    """MLflow refuses long values and some letters in names; a PoC does not fail for that."""
    run_id = tracker.log_stage("x", "key-odd", params={"長い:key": "x" * 9999}, metrics={"a(b)%": 1.0})

    data = _client(tracker).get_run(run_id).data
    (value,) = data.params.values()
    assert len(value) == MAX_PARAM_LENGTH
    assert list(data.metrics) == ["a_b__"]


def test_many_values_go_in_batches(tracker):
    """MLflow takes at most 100 parameters and 1000 metrics a call."""
    run_id = tracker.log_stage(
        "x",
        "key-many",
        params={f"p{i}": i for i in range(230)},
        series={"loss": [(step, 1.0 / (step + 1)) for step in range(1500)]},
    )

    assert len(_client(tracker).get_run(run_id).data.params) == 230
    assert len(_client(tracker).get_metric_history(run_id, "loss")) == 1500


def test_unreachable_server_is_told(tmp_path, monkeypatch):
    """A wrong address ends in one message, with the address and what is kept."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    with pytest.raises(TrackingAwayError, match="MLflow did not take the run") as caught:
        Tracker("http://127.0.0.1:1", "poc", tmp_path)
    assert caught.value.where == "http://127.0.0.1:1"
    assert "finished stages are kept" in caught.value.todo


def test_deleted_experiment_is_told(runs_dir):
    """MLflow refuses to log into a deleted experiment; say how to go on."""
    tracker = Tracker(None, "gone", runs_dir)
    client = _client(tracker)
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)

    with pytest.raises(PocError, match="experiment gone was deleted"):
        Tracker(None, "gone", runs_dir)


def test_weeks_hold_stages_and_stages_hold_points(tracker):
    """Groups are made once, where they are missing; a stage that was logged is a group too."""
    stage = tracker.log_stage("sweep", "key-sweep", under=["W2"])
    point = tracker.log_stage("point 1", "key-point", under=["W2", "sweep"])
    week = tracker.log_group("W2", tags={"gate": "pass"})
    client = _client(tracker)

    assert client.get_run(point).data.tags["mlflow.parentRunId"] == stage
    assert client.get_run(stage).data.tags["mlflow.parentRunId"] == week
    assert client.get_run(week).data.tags["mlflow.parentRunId"] == tracker.parent_id
    assert client.get_run(week).data.tags["gate"] == "pass"


def test_twins_of_a_repeated_request_are_removed(tracker, runs_dir):
    """A request that was answered twice leaves two runs; the first keeps its children, the second goes."""
    client, name = _client(tracker), "test_twins_of_a_repeated_request_are_removed"
    stage = tracker.log_stage("sweep", "key-twin")
    experiment_id = client.get_experiment_by_name("poc").experiment_id
    client.create_run(experiment_id, tags={RUN_TAG: name, "kind": "poc"})
    tags = {STAGE_TAG: "key-twin", "mlflow.parentRunId": tracker.parent_id, OF_RUN_TAG: name}
    client.create_run(experiment_id, tags=tags)

    again = Tracker(None, "poc", runs_dir)
    assert again.start(name) == tracker.parent_id
    again.finish()

    assert [run.info.run_id for run in _runs(tracker, f"tags.`{RUN_TAG}` = '{name}'")] == [tracker.parent_id]
    assert [run.info.run_id for run in _runs(tracker, f"tags.`{STAGE_TAG}` = 'key-twin'")] == [stage]
