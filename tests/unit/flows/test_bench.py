"""`skip-poc bench`: what is found in a folder, and what is written and logged, on a tiny checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient
from transformers import AutoModelForCausalLM, AutoTokenizer

from flows import cli, judge
from flows.bench import EXPERIMENT, find_target, history_name, line, run_bench
from flows.decide import open_bench, registered_plan
from flows.errors import PocError
from flows.progress import Progress
from skipmodel.bench import grid
from skipmodel.bench.config import BenchConfig
from skipmodel.bench.document import check
from skipmodel.config import SkipConfig
from skipmodel.model import SkipLayerForCausalLM
from tests.tiny import save_base_folder
from tests.unit.flows import decided_run

CONFIG = BenchConfig(phases=("decode",), batches=(1,), prompts=(8,), output_tokens=4, skip_rates=(0.1, 0.3), n_pairs=2,
                     use_rule=False)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved SkipLayer model with its tokenizer."""
    folder = tmp_path_factory.mktemp("bench")
    base = save_base_folder(folder / "base", ["The server answers every request in turn. "])
    skip = SkipConfig(path_rank=4, always_run_first=1, always_run_last=1)
    model = SkipLayerForCausalLM.from_base(AutoModelForCausalLM.from_pretrained(base), skip)
    model.set_threshold(0.5)
    model.save_pretrained(folder / "skiplayer")
    AutoTokenizer.from_pretrained(base).save_pretrained(folder / "skiplayer")
    return folder / "skiplayer"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished run of hand-made records that has an ingest and a checkpoint stage too."""
    folder = decided_run.make(tmp_path)
    store, path = folder.parent / "store", folder / "result.json"
    decided_run.stage(store, "skip-tune", "e", {}, "2026-11-24T10:05:00+00:00")
    result = json.loads(path.read_text("utf-8"))
    result["stages"].append(result["stages"][0] | {"name": "skip-tune", "key": "e"})
    path.write_text(json.dumps(result), "utf-8")
    return folder


def test_a_run_is_benchmarked_at_its_choice_on_its_text(run_folder: Path, tmp_path: Path) -> None:
    """Checkpoint, validation documents, chosen threshold and tracking come from the run."""
    target = find_target(run_folder, tmp_path / "elsewhere")
    store = run_folder.parent / "store"
    stored = json.loads((run_folder / "result.json").read_text("utf-8"))

    assert target.checkpoint == store / "skip-tune-e" / "skiplayer"
    assert target.documents == store / "ingest-a" / "documents.jsonl"
    assert target.threshold == stored["choice"]["threshold"] == 0.47
    assert (target.name, target.experiment, target.runs_dir) == (
        stored["run"]["id"],
        "skiplayer-poc: Manual",
        run_folder.parent,
    )


def test_arguments_stand_above_the_run(run_folder: Path, tmp_path: Path) -> None:
    """A level replaces the chosen threshold, and other documents the run's."""
    target = find_target(run_folder, tmp_path, documents=tmp_path / "mine.jsonl", level=0.4)

    assert (target.threshold, target.level, target.documents) == (None, 0.4, tmp_path / "mine.jsonl")


def test_a_checkpoint_needs_no_run(checkpoint: Path, tmp_path: Path) -> None:
    """Its MLflow file lies in the runs folder; without a threshold only random routing is timed."""
    target = find_target(checkpoint, tmp_path)

    assert (target.checkpoint, target.documents, target.threshold) == (checkpoint, None, None)
    assert (target.experiment, target.runs_dir) == (EXPERIMENT, tmp_path)


def test_another_folder_is_refused(tmp_path: Path) -> None:
    """Neither a run nor a checkpoint."""
    with pytest.raises(PocError, match="found neither"):
        find_target(tmp_path, tmp_path)


@pytest.mark.parametrize(("rule_s", "engaged", "expected"), [(None, True, 1.4), ("dense", False, 1.0)])
def test_a_run_is_judged_by_what_the_rule_chose(
    run_folder: Path, rule_s: str | None, engaged: bool, expected: float
) -> None:
    """Where the rule says dense, its own arm is the measured speed; what skipping would have been is kept beside it."""
    (path,) = run_folder.parent.glob("store/measure-d/cell-00.json")
    cell = json.loads(path.read_text("utf-8"))
    samples = None if rule_s is None else cell["dense_s"]
    path.write_text(json.dumps(cell | {"rule_s": samples, "engaged": engaged, "speedup": 1.4}), "utf-8")
    stored = json.loads((run_folder / "result.json").read_text("utf-8"))
    settings, _ = registered_plan(stored, run_folder)
    rows, headline = judge.speed_rows(open_bench(run_folder, stored, settings, run_folder / "poc.yaml", None))

    assert rows[0]["is_headline"]
    assert rows[0]["measured_speedup"] == pytest.approx(expected, rel=0.01)
    assert (rows[0]["engaged"], rows[0]["measured_speedup_without_rule"]) == (engaged, 1.4)
    assert rows[2]["engaged"] is None
    assert headline[0].skip_s == tuple(cell["skip_s"] if engaged else cell["dense_s"])


def test_json_figure_history_and_mlflow(checkpoint: Path, tmp_path: Path) -> None:
    """One run: a valid document with the commit, its figure, the reference file, a parent and a nested run per cell."""
    target = find_target(checkpoint, tmp_path / "runs", threshold=0.5)
    document = run_bench(target, CONFIG, tmp_path / "out", Progress(quiet=True), history=tmp_path / "history")
    check(document)
    (kept,) = (tmp_path / "history").iterdir()
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], max_results=50)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    nested = [run for run in runs if "mlflow.parentRunId" in run.data.tags]

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bench.json", "bench.svg", "calibrations"]
    assert kept.name == history_name(document)
    assert json.loads(kept.read_text("utf-8")) == document
    assert parent.info.status == "FINISHED"
    assert (parent.data.tags["kind"], parent.data.tags["interrupted"]) == ("bench", "False")
    assert sorted(file.path for file in client.list_artifacts(parent.info.run_id)) == ["bench.json", "bench.svg"]
    assert len(nested) == len(document["rows"]) == 3
    assert {run.data.metrics["speedup"] for run in nested} == {row["speedup"] for row in document["rows"]}


def test_an_interruption_keeps_cells_and_figure(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C through the command line: exit code 130, the finished cell in bench.json, MLflow says KILLED."""
    real, calls = grid.time_cell, []

    def time_cell(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(grid, "time_cell", time_cell)
    monkeypatch.setattr(cli.runtime, "prepare", lambda runs_dir: None)
    code = cli.main(["bench", str(checkpoint), "--runs-dir", str(tmp_path), "--out", str(tmp_path / "out"), "--quiet",
                     "--phases", "decode", "--batches", "1", "--prompts", "8", "--output-tokens", "4", "--pairs", "2",
                     "--no-rule"])  # fmt: skip
    document = json.loads((tmp_path / "out" / "bench.json").read_text("utf-8"))
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id], max_results=50)

    assert code == 130
    assert (document["interrupted"], len(document["rows"])) == (True, 1)
    assert (tmp_path / "out" / "bench.svg").is_file()
    assert "KILLED" in {run.info.status for run in runs}
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(("device", "name", "commit", "expected"), [
    ("cpu", "Some CPU", "0123456789abcdef", "bench_2026-11-24_0123456789_cpu.json"),
    ("cuda", "NVIDIA H100 80GB HBM3", None, "bench_2026-11-24_nocommit_nvidia-h100-80gb-hbm3.json"),
])  # fmt: skip
def test_history_files_are_named_by_day_commit_and_device(
    device: str, name: str, commit: str | None, expected: str
) -> None:
    """As the other benchmarks do."""
    facts = {"environment": {"device": device, "device_name": name}, "date": "2026-11-24", "commit": commit}

    assert history_name(facts) == expected


def test_a_line_tells_three_figures_and_the_rule() -> None:
    """Counted, estimated and measured, then what the rule says; a cell left out tells why."""
    row: dict[str, Any] = {
        "phase": "decode", "batch": 1, "prompt": 128, "dtype": "float32", "weights": "float", "routing": "random",
        "skip_rate": 0.3, "ceiling": 1.35, "speedup": 0.97, "low": 0.95, "high": 0.99, "engaged": False,
        "speedup_with_rule": 1.001, "reason": None,
    }  # fmt: skip

    for part in ("skip rate 0.300", "ceiling 1.350", "measured 0.970 (0.950 to 0.990)", "rule: dense (1.001)"):
        assert part in line(row)
    assert line(row | {"reason": "over_budget"}).endswith("left out, over_budget")
    assert "rule" not in line(row | {"engaged": None})
