"""What of a run goes to MLflow: settings, numbers, curves, data hashes, report. Never a text of the corpus.

parent run of the PoC run        plan as parameters, KPIs by their ids, verdict, report
W1 data audit ... W4 confirm   one nested run per week of the month
stages                       time, memory, curves
sweep points, timing cells
"""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

from flows import answers, evaluation, insight
from flows.report_command import summary_of
from flows.result import checkpoint_sha256
from flows.settings import flatten, plan_sha256
from flows.spool import Spool
from flows.store import CODE_ROOT, read_json, sha256_file
from flows.tracking import DatasetRef
from flows.workbench import SPLITS, Workbench

WEEKS = {"W1": "W1 data audit", "W2": "W2 tune and sweep", "W3": "W3 speed and cost", "W4": "W4 confirm and report"}
_WEEK_OF = {"ingest": "W1", "base": "W1", "dense-tune": "W1", "baseline": "W1", "calibrate": "W2", "skip-tune": "W2",
            "sweep": "W2", "insight": "W3", "measure": "W3", "confirm": "W4"}  # fmt: skip
"""Week of a stage; one that is not named belongs to the confirmation."""
_KINDS = {"ingest": "ingest", "sweep": "sweep", "confirm": "confirm", "insight": "insight", "measure": "measure",
          "baseline": "baseline"}  # fmt: skip
"""Tag `kind` of a stage's run; every other stage trains."""
_ALLOWED = ("go", "conditional_go")
"""Verdicts with which the model becomes a candidate of the registry."""


def open_tracker(bench: Workbench, tags: dict[str, str] | None = None) -> Spool:
    """Take up or make the parent run of this PoC run, with the registered plan as its parameters."""
    tracking = bench.settings.tracking
    spool = Spool(bench.run.path, tracking.uri, tracking.experiment, bench.progress.note)
    # Prefect sets this in a flow run that it manages; a run by hand has none
    flow_run = (
        {"prefect_flow_run_id": os.environ["PREFECT__FLOW_RUN_ID"]} if "PREFECT__FLOW_RUN_ID" in os.environ else {}
    )
    spool.start(bench.run.id, tags=flow_run | (tags or {}))
    spool.log_parent(
        params=flatten(bench.settings),
        tags={"plan_sha256": plan_sha256(bench.settings), "profile": bench.settings.profile,
              "runner": bench.settings.scale.runner},
    )  # fmt: skip
    return spool


def reference(spool: Spool, bench: Workbench) -> dict[str, Any]:
    """Return the `run.mlflow` object of result.json; without a run id while the server has never answered."""
    return {
        "tracking_uri": bench.settings.tracking.uri or "sqlite:///mlflow.db",
        "experiment": spool.experiment,
        "run_id": spool.parent_id,
    }


def log_stage(spool: Spool, bench: Workbench, name: str) -> None:
    """Log one finished stage as a nested run of its week."""
    stage = bench.stages[name]
    metrics: dict[str, float | None] = {"seconds": stage.seconds}
    series: dict[str, list[tuple[int, float]]] = {}
    artifacts: list[Path] = []
    datasets: list[DatasetRef] = []
    _add_usage(stage.path, metrics, series)
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
        series |= {column: [(int(row["step"]), row[column]) for row in log["rows"]] for column in columns}
    elif name == "calibrate":
        report = read_json(stage.path / "calibration.json")
        rows = zip(report["units"], report["damage_nats"], strict=True)
        series["unit_damage_nats"] = [(int(unit), damage) for unit, damage in rows]
        artifacts = [stage.path / "calibration.json"]
    elif name == "baseline":
        metrics |= {key: value for key, value in read_json(stage.path / "baseline.json").items()
                    if isinstance(value, int | float)}  # fmt: skip
    elif name == "insight":
        metrics |= insight.metrics(bench)
        artifacts = insight.files(bench)
    spool.log_stage(name, stage.key, metrics=metrics, series=series, artifacts=artifacts, datasets=datasets,
                    kind=_KINDS.get(name, "train"), under=[_week(name)])  # fmt: skip


def log_sweep(spool: Spool, bench: Workbench, rows: list[dict[str, Any]]) -> None:
    """Log every sweep point as a nested run of the sweep."""
    for row in rows:
        numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
        layers = list(enumerate(row["skip_rate_per_layer"]))
        spool.log_stage(
            f"sweep point {row['index']}", f"{bench.key('sweep')}-{row['index']}",
            params={"threshold": row["threshold"], "target_skip_rate": row["target_skip_rate"]},
            metrics={name: float(value) for name, value in numbers.items()}, series={"skip_rate_of_layer": layers},
            kind="sweep point", under=[_week("sweep"), "sweep"],
        )  # fmt: skip


def log_speed(spool: Spool, bench: Workbench) -> None:
    """Log insight and timing, every timed cell as a nested run."""
    for name in ("insight", "measure"):
        if name in bench.stages:
            log_stage(spool, bench, name)
    for index, cell in enumerate(evaluation.timing_rows(bench)):
        spool.log_stage(
            f"{cell['phase']} {cell['routing']} {cell['skip_rate']:.2f}", f"{bench.key('measure')}-{index}",
            params={key: cell[key] for key in ("phase", "routing", "backend", "batch", "prompt_tokens", "dtype")},
            metrics={"skip_rate": cell["skip_rate"], "estimated_ceiling": cell["estimated_ceiling"],
                     "engaged": None if cell.get("engaged") is None else float(cell["engaged"])},
            series={name: list(enumerate(cell[name])) for name in ("dense_s", "skip_s", "rule_s") if cell.get(name)},
            kind="timing", under=[_week("measure"), "measure"],
        )  # fmt: skip


def log_rest(spool: Spool, bench: Workbench) -> None:
    """Log the confirmation, and whatever other stage was not logged yet."""
    for name in bench.stages:
        if _week(name) == WEEKS["W4"]:
            log_stage(spool, bench, name)


def close(spool: Spool, bench: Workbench, outcome: dict[str, Any]) -> None:
    """Add verdict, KPIs, report, plots and the model to the parent run and end it."""
    from reports.plots import write_plots

    folder = bench.run.path
    report = folder / "report.html"
    plots = write_plots(outcome, folder / "plots", bench.settings.report.language)
    kpis: dict[str, float] = {}
    for gate in outcome["gates"]:
        bounds = {gate["id"]: gate["value"], f"{gate['id']}_low": gate["low"], f"{gate['id']}_high": gate["high"]}
        kpis |= {name: value for name, value in bounds.items() if value is not None}
    confirmed = outcome["confirmation"] or {}
    metrics = {name: value for name, value in confirmed.items() if isinstance(value, int | float)}
    total = {"pipeline_compute_s": sum(stage.seconds for stage in bench.stages.values())}
    verdict = outcome["verdict"]["code"]
    threshold = outcome["choice"]["threshold"]
    spool.log_parent(
        metrics={name: float(value) for name, value in (kpis | metrics | total | answers.metrics(outcome)).items()},
        tags={
            "verdict": verdict,
            "level": "functional check" if outcome["run"]["functional_check"] else "evidence",
            "threshold": str(threshold),
            "git_commit": outcome["run"]["git_commit"] or "",
            "test_openings": str(outcome["data"]["test_openings"]),
        },
        artifacts=[report, summary_of(report), folder / "result.json", *plots],
    )
    if bench.settings.tracking.log_model:
        _log_model(spool, bench, threshold or 0.0, register=verdict in _ALLOWED)
    spool.finish()


def _log_model(spool: Spool, bench: Workbench, threshold: float, *, register: bool) -> None:
    checkpoint = bench.folder("skip-tune") / "skiplayer"
    if not checkpoint.is_dir():
        return
    packages = ("torch", "transformers", "safetensors", "numpy", "accelerate", "peft")
    spool.log_model(
        checkpoint, sha256=checkpoint_sha256(checkpoint), threshold=threshold,
        code=[CODE_ROOT / "flows" / "served_model.py", CODE_ROOT / "skipmodel"],
        register_as=bench.settings.tracking.experiment.replace(":", "").replace("/", " ") if register else None,
        pip_requirements=[f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in packages],
    )  # fmt: skip


def _week(stage: str) -> str:
    return WEEKS[_WEEK_OF.get(stage, "W4")]


def _add_usage(folder: Path, metrics: dict[str, float | None], series: dict[str, list[tuple[int, float]]]) -> None:
    """Add memory and the curves of the machine, as the store recorded them when the stage was computed."""
    path = folder / "stage.json"
    if not path.is_file():
        return
    record = read_json(path)
    metrics |= {name: record.get(name) for name in ("peak_memory_mib", "peak_gpu_memory_mib")}
    curves = dict(record.get("system") or {})
    times = curves.pop("at_s", [])
    series |= {name: [(int(at), value) for at, value in zip(times, curve, strict=False)]
               for name, curve in curves.items()}  # fmt: skip
