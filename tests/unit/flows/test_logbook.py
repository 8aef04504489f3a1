"""What of a run reaches MLflow, on hand-made stages: numbers and hashes, never a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from flows import logbook
from flows.progress import Progress
from flows.settings import flatten, load_settings, plan_sha256
from flows.spool import Spool
from flows.store import RunFolder, StageResult, Store
from flows.workbench import Workbench
from tests.unit.reports import fixtures

SECRET = "The quarry master counted seventeen violet lanterns."
SETTINGS: dict[str, Any] = {
    "poc": {"title": "Manual", "owner": "ops", "organisation": "Example"},
    "corpus": {"folder": "corpus"},
    "profile": "quick",
    "tracking": {"experiment": "logbook"},
    "cost": {"price": "sakura-dok-h100", "api": "groq-llama-3.1-8b", "requests_per_month": 1000.0,
             "input_tokens": 300, "output_tokens": 100, "peak_requests_per_s": 2.0},
}  # fmt: skip
CELL = {"phase": "decode", "routing": "random", "backend": "branch", "batch": 1, "prompt_tokens": 64,
        "output_tokens": 16, "dtype": "float32", "skip_rate": 0.3, "estimated_ceiling": 1.3,
        "dense_s": [0.4, 0.5], "skip_s": [0.3, 0.25]}  # fmt: skip


def _stage(folder: Path, name: str, **files: Any) -> StageResult:
    path = folder / f"{name}-0123"
    path.mkdir(parents=True)
    for file, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (path / file.replace("__", "-").replace("_dot_", ".")).write_text(text, "utf-8")
    return StageResult(name, f"{name}-0123", path, 1.5, reused=False)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A run whose stages are hand-made."""
    folder = tmp_path_factory.mktemp("poc")
    (folder / "poc.yaml").write_text(yaml.safe_dump(SETTINGS), "utf-8")
    runs = folder / "runs"
    bench = Workbench(
        load_settings(folder / "poc.yaml"), folder / "poc.yaml", Store(runs / "store"), Progress(quiet=True)
    )
    bench.opened_run = RunFolder.open(
        runs, plan_sha256=plan_sha256(bench.settings), code_sha256="c" * 64, input_sha256={"corpus": "d" * 64}
    )
    totals = {"n_documents": {"train": 20, "validation": 4, "test": 5}, "n_quarantined": 2}
    rows = [{"step": step, "loss": 2.0 - step / 10, "skip_rate": step / 20} for step in (1, 2, 3)]
    for stage in (
        _stage(runs / "store", "ingest", manifest_dot_json={"totals": totals, "n_glossary_terms": 7},
               documents_dot_jsonl=json.dumps({"text": SECRET})),
        _stage(runs / "store", "base"),
        _stage(runs / "store", "dense-tune", log_dot_json={"rows": rows, "n_tokens": 512}),
        _stage(runs / "store", "calibrate", calibration_dot_json={"units": [1, 2], "damage_nats": [0.5, 0.25]}),
        _stage(runs / "store", "skip-tune", log_dot_json={"rows": [], "n_tokens": 0}),
        _stage(runs / "store", "sweep"),
        _stage(runs / "store", "insight", importance_dot_json={"correlations": {"score_damage": 0.6, "none": None}},
               who_skips_dot_json={"by_class": [{"axis": "kind", "name": "number", "skip_rate": 0.125}]},
               guard_costs_dot_json={"rows": [{"lifted": "critical: code", "skip_rate_cost": 0.02}],
                                     "band": {"low": 0.0, "high": 0.3, "window_tokens": 32, "share_outside": 0.25}}),
        _stage(runs / "store", "measure", cell__00_dot_json=CELL),
    ):  # fmt: skip
        bench.stages[stage.name] = stage
    return bench


@pytest.fixture(scope="module")
def tracker(bench: Workbench) -> Spool:
    """Everything logged, twice: a second time changes nothing."""
    outcome = fixtures.go()
    (bench.run.path / "report.html").write_text("<p>report</p>", "utf-8")
    (bench.run.path / "summary.md").write_text("report", "utf-8")
    (bench.run.path / "result.json").write_text(json.dumps(outcome), "utf-8")
    for _ in range(2):
        tracker = logbook.open_tracker(bench)
        for name in ("ingest", "base", "dense-tune", "calibrate", "skip-tune", "sweep"):
            logbook.log_stage(tracker, bench, name)
        logbook.log_sweep(tracker, bench, outcome["sweep"])
        logbook.log_speed(tracker, bench)
        logbook.log_rest(tracker, bench)
        logbook.close(tracker, bench, outcome)
    return tracker


@pytest.fixture(scope="module")
def client(tracker: Spool) -> MlflowClient:
    """A reader of the same file."""
    return MlflowClient(tracking_uri=tracker.tracking_uri)


@pytest.fixture(scope="module")
def runs(tracker: Spool, client: MlflowClient) -> dict[str, Run]:
    """All runs by name."""
    experiment = client.get_experiment_by_name("logbook")
    found = client.search_runs([experiment.experiment_id], max_results=100)
    assert len({run.info.run_name for run in found}) == len(found)
    return {str(run.info.run_name): run for run in found}


def test_the_parent_run_has_plan_verdict_and_files(
    bench: Workbench, tracker: Spool, client: MlflowClient, runs: dict[str, Run]
) -> None:
    """Every registered setting is a parameter; verdict and threshold are tags; report, result and plots are files."""
    parent = runs[bench.run.id]

    assert parent.info.run_id == tracker.parent_id == logbook.reference(tracker, bench)["run_id"]
    assert set(parent.data.params) == set(flatten(bench.settings))
    assert parent.data.tags["plan_sha256"] == plan_sha256(bench.settings)
    assert (parent.data.tags["verdict"], parent.data.tags["threshold"]) == ("go", "0.42")
    assert parent.data.metrics["S1"] == pytest.approx(1.1868)
    assert parent.data.metrics["accuracy_skip"] == pytest.approx(0.6325)
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"report.html", "summary.md", "result.json"} < names
    assert parent.info.status == "FINISHED"


def test_every_split_is_a_data_set(bench: Workbench, runs: dict[str, Run]) -> None:
    """Train, validation and test are three inputs with the hash of the manifest's documents and their sizes."""
    inputs = runs["ingest"].inputs.dataset_inputs
    tags = [{tag.key: tag.value for tag in dataset.tags} for dataset in inputs]

    assert sorted(tag["mlflow.data.context"] for tag in tags) == ["test", "train", "validation"]
    assert sorted(json.loads(dataset.dataset.profile)["num_rows"] for dataset in inputs) == [4, 5, 20]
    assert len({tag["sha256"] for tag in tags}) == 1
    assert runs["ingest"].data.metrics["n_quarantined"] == 2


def test_importance_and_skip_rates_by_class_are_numbers_and_files(client: MlflowClient, runs: dict[str, Run]) -> None:
    """The insight stage logs rank correlations, rates per class, costs of guards; an undefined one is left out."""
    run = runs["insight"]
    names = {file.path for file in client.list_artifacts(run.info.run_id)}

    assert run.data.metrics["correlation_score_damage"] == pytest.approx(0.6)
    assert run.data.metrics["skip_rate_kind_number"] == pytest.approx(0.125)
    assert run.data.metrics["guard_cost_critical_code"] == pytest.approx(0.02)
    assert run.data.metrics["fallback_share"] == pytest.approx(0.25)
    assert "correlation_none" not in run.data.metrics
    assert "importance.json" in names


def test_curves_are_logged_step_by_step(client: MlflowClient, runs: dict[str, Run]) -> None:
    """Loss of the tuning by step, damage by layer, timing samples by pair; an empty log is no error."""

    def curve(run: str, name: str) -> list[tuple[int, float]]:
        return [(metric.step, metric.value) for metric in client.get_metric_history(runs[run].info.run_id, name)]

    assert curve("dense-tune", "loss") == [(1, 1.9), (2, 1.8), (3, 1.7)]
    assert curve("calibrate", "unit_damage_nats") == [(1, 0.5), (2, 0.25)]
    assert curve("decode random 0.30", "skip_s") == [(0, 0.3), (1, 0.25)]
    assert runs["skip-tune"].data.metrics["n_tokens"] == 0


def test_every_sweep_point_is_a_nested_run(client: MlflowClient, tracker: Spool, runs: dict[str, Run]) -> None:
    """Numbers of the row, its skip rate by layer, and the parent above it."""
    rows = fixtures.go()["sweep"]
    for row in rows:
        run = runs[f"sweep point {row['index']}"]
        assert run.data.metrics["ppl_rise"] == pytest.approx(row["ppl_rise"])
        assert run.data.params["threshold"] == str(row["threshold"])
        assert run.data.tags["mlflow.parentRunId"] == runs["sweep"].info.run_id
    assert runs["sweep"].data.tags["mlflow.parentRunId"] == runs["W2 tune and sweep"].info.run_id
    assert runs["W2 tune and sweep"].data.tags["mlflow.parentRunId"] == tracker.parent_id
    layers = client.get_metric_history(runs["sweep point 3"].info.run_id, "skip_rate_of_layer")
    assert [metric.value for metric in layers] == rows[3]["skip_rate_per_layer"]


def test_a_missing_number_is_left_out(runs: dict[str, Run]) -> None:
    """A null of the result is no metric, least of all 0."""
    assert "selectivity" not in runs["sweep point 0"].data.metrics
    assert "selectivity" in runs["sweep point 1"].data.metrics


def test_the_reference_names_no_path(bench: Workbench, tracker: Spool) -> None:
    """In the report the default file is named without the folder it lies in."""
    assert logbook.reference(tracker, bench)["tracking_uri"] == "sqlite:///mlflow.db"
    assert tracker.tracking_uri.startswith("sqlite:////")


def test_no_text_of_a_document_is_logged(bench: Workbench, tracker: Spool) -> None:
    """The sentence that stands in the documents stands in no file of MLflow."""
    runs_dir = bench.run.path.parent
    files = [runs_dir / "mlflow.db", *(path for path in (runs_dir / "mlartifacts").rglob("*") if path.is_file())]

    assert len(files) > 3
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
