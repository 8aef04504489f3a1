"""What of a run goes to MLflow: settings, numbers, curves, data hashes, report. Never a text of the corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows import evaluation, insight
from flows.settings import flatten, plan_sha256
from flows.store import read_json, sha256_file
from flows.tracking import DatasetRef, Tracker
from flows.workbench import SPLITS, Workbench

_KINDS = {"ingest": "ingest", "sweep": "sweep", "confirm": "confirm", "insight": "insight", "measure": "measure"}
"""Tag `kind` of a stage's run; every other stage trains."""


def open_tracker(bench: Workbench, runs_dir: Path) -> Tracker:
    """Take up or make the parent run of this PoC run, with the registered plan as its parameters."""
    tracking = bench.settings.tracking
    tracker = Tracker(tracking.uri, tracking.experiment, runs_dir)
    tracker.start(bench.run.id)
    tracker.log_parent(
        params=flatten(bench.settings),
        tags={"plan_sha256": plan_sha256(bench.settings), "profile": bench.settings.profile},
    )
    return tracker


def reference(tracker: Tracker, bench: Workbench) -> dict[str, Any]:
    """Return the `run.mlflow` object of result.json."""
    return {
        "tracking_uri": tracker.uri if bench.settings.tracking.uri else "sqlite:///mlflow.db",
        "experiment": tracker.experiment,
        "run_id": tracker.parent_id,
    }


def log_stage(tracker: Tracker, bench: Workbench, name: str) -> None:
    """Log one finished stage as a nested run."""
    stage = bench.stages[name]
    metrics: dict[str, float | None] = {"seconds": stage.seconds}
    series: dict[str, list[tuple[int, float]]] = {}
    artifacts: list[Path] = []
    datasets: list[DatasetRef] = []
    if name == "ingest":
        manifest = read_json(stage.path / "manifest.json")
        totals = manifest["totals"]
        metrics |= {f"n_documents_{split}": totals["n_documents"][split] for split in SPLITS}
        metrics |= {"n_quarantined": totals["n_quarantined"], "n_glossary_terms": manifest["n_glossary_terms"]}
        sha256 = sha256_file(stage.path / "documents.jsonl")
        # MLflow keeps one data set per name and hash: the split belongs into the name
        datasets = [DatasetRef(f"corpus {split}", sha256, split, totals["n_documents"][split]) for split in SPLITS]
    elif name in ("dense-tune", "skip-tune"):
        log = read_json(stage.path / "log.json")
        metrics["n_tokens"] = log["n_tokens"]
        columns = [column for column in (log["rows"] or [{}])[0] if column != "step"]
        series = {column: [(int(row["step"]), row[column]) for row in log["rows"]] for column in columns}
    elif name == "calibrate":
        report = read_json(stage.path / "calibration.json")
        rows = zip(report["units"], report["damage_nats"], strict=True)
        series = {"unit_damage_nats": [(int(unit), damage) for unit, damage in rows]}
        artifacts = [stage.path / "calibration.json"]
    elif name == "insight":
        metrics |= insight.metrics(bench)
        artifacts = insight.files(bench)
    tracker.log_stage(name, stage.key, metrics=metrics, series=series, artifacts=artifacts, datasets=datasets,
                      kind=_KINDS.get(name, "train"))  # fmt: skip


def log_sweep(tracker: Tracker, bench: Workbench, rows: list[dict[str, Any]]) -> None:
    """Log every sweep point, the timing cells and the confirmation as nested runs."""
    for row in rows:
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        layers = list(enumerate(row["skip_rate_per_layer"]))
        tracker.log_stage(
            f"sweep point {row['index']}", f"{bench.key('sweep')}-{row['index']}",
            params={"threshold": row["threshold"], "target_skip_rate": row["target_skip_rate"]},
            metrics={name: float(value) for name, value in numbers.items()}, series={"skip_rate_of_layer": layers},
            kind="sweep point",
        )  # fmt: skip
    for name in ("confirm", "insight", "measure"):
        if name in bench.stages:
            log_stage(tracker, bench, name)
    for index, cell in enumerate(evaluation.timing_rows(bench)):
        tracker.log_stage(
            f"{cell['phase']} {cell['routing']} {cell['skip_rate']:.2f}", f"{bench.key('measure')}-{index}",
            params={key: cell[key] for key in ("phase", "routing", "backend", "batch", "prompt_tokens", "dtype")},
            metrics={"skip_rate": cell["skip_rate"], "estimated_ceiling": cell["estimated_ceiling"],
                     "engaged": None if cell.get("engaged") is None else float(cell["engaged"])},
            series={name: list(enumerate(cell[name])) for name in ("dense_s", "skip_s", "rule_s") if cell.get(name)},
            kind="timing",
        )  # fmt: skip


def close(tracker: Tracker, bench: Workbench, outcome: dict[str, Any]) -> None:
    """Add verdict, gates, report and plots to the parent run and end it."""
    from reports.plots import write_plots

    folder = bench.run.path
    plots = write_plots(outcome, folder / "plots", bench.settings.report.language)
    gates = {f"gate_{gate['id']}": gate["value"] for gate in outcome["gates"] if gate["value"] is not None}
    confirmed = outcome["confirmation"] or {}
    metrics = {name: value for name, value in confirmed.items() if isinstance(value, int | float)}
    tracker.log_parent(
        metrics={name: float(value) for name, value in (gates | metrics).items()},
        tags={
            "verdict": outcome["verdict"]["code"],
            "threshold": str(outcome["choice"]["threshold"]),
            "git_commit": outcome["run"]["git_commit"] or "",
        },
        artifacts=[folder / "report.html", folder / "result.json", *plots],
    )
    tracker.finish()
