"""`skip-poc compare`: the SkipLayer method against every honest control, on one base, one text, one budget.

Arms are judged on validation documents; the test split stays closed. Finished arms are kept, and compare.json is
written anew after each, so that a comparison of many hours can be read while it runs and goes on after a kill.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows import compare_table, machine, runtime, stages
from flows.compare_arms import read_points, run_arm
from flows.compare_base import REFERENCE, Comparison
from flows.errors import PocError
from flows.progress import Progress
from flows.settings import Settings, flatten, load_settings, plan_sha256
from flows.store import StageResult, Store, clear_disk_errors, read_json, sha256_code, sha256_json, write_json
from flows.tracking import Tracker
from flows.workbench import ROOMS, Workbench
from reports.compare_figure import write_figures
from skipmodel.config_compare import CompareConfig
from skipmodel.memory import keep_freed_memory


def run_compare(
    settings_path: Path, profile: str | None, runs_dir: Path, out: Path, config: CompareConfig, progress: Progress,
    history: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Compare, write compare.json and its figures into a folder, log to MLflow, and return what was written.

    Args:
        settings_path: The plan, poc.yaml; its model part is compared.
        profile: As for `skip-poc run`.
        runs_dir: Folder of runs; stages of earlier runs are taken as they are.
        out: Where compare.json and the figures go.
        config: Methods, skip rates, seeds and budget.
        progress: Progress lines.
        history: Folder for the reference file, which is written when the comparison is complete.

    Raises:
        PocError: An input, the disk or the tracking server cannot be used.
    """
    settings = load_settings(settings_path, profile)
    keep_freed_memory()
    bench = Workbench(settings, settings_path, Store(runs_dir / "store"), progress)
    tracker = _open_tracker(settings, config, runs_dir)
    try:
        compared = _compare(bench, config, out, tracker)
        with progress.stage("history and tracking"):
            if history is not None:
                _write_history(compared, history)
            tracker.log_parent(artifacts=sorted(out.glob("compare*.*")))
            tracker.finish()
    except BaseException as error:
        with contextlib.suppress(PocError):  # the first error is the one to tell
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    return compared


def _compare(bench: Workbench, config: CompareConfig, out: Path, tracker: Tracker) -> dict[str, Any]:
    progress = bench.progress
    shared = Comparison(bench, config)
    progress.n_stages = 5 + len(shared.starts) + len(shared.arms)
    if shared.left_out:
        progress.note(f"left out, since the settings are so already or cannot be: {', '.join(shared.left_out)}")
    for make in (stages.ingest, stages.base, stages.dense_tune):
        make(bench)
    shared.reference()
    for made in shared.starts:
        shared.start(made)
    with clear_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    problems: list[dict[str, Any]] = []
    for number, (method, seed) in enumerate([("dense_tuned", 0), *shared.arms]):
        stage = run_arm(shared, method, seed) if number else bench.stages[REFERENCE]
        new = [
            compare_table.make_row(method, _base_name(bench.settings), seed, point, bench.settings.model.seed)
            for point in read_points(stage.path)
        ]
        rows += new
        problem = read_json(stage.path / "arm.json")["problem"]
        if problem is not None:
            problems.append({"method": method, "seed": seed, "problem": problem})
            progress.note(f"{method}, seed {seed}: {problem}")
        _log_arm(tracker, stage, method, seed, new)
        compared = _document(shared, rows, problems, tracker, is_complete=number == len(shared.arms))
        write_json(out / "compare.json", compared)
    write_figures(rows, out, bench.settings.report.language)
    return compared


def _document(
    shared: Comparison, rows: list[dict[str, Any]], problems: list[dict[str, Any]], tracker: Tracker, *,
    is_complete: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return compare.json of the arms that are finished."""
    settings = shared.bench.settings
    return {
        "schema_version": compare_table.SCHEMA_VERSION,
        "date": datetime.datetime.now().astimezone().date().isoformat(),
        "git_commit": machine.git_commit(),
        "code_sha256": sha256_code(ROOMS),
        "settings_sha256": plan_sha256(settings),
        "profile": settings.profile,
        "base": _base_name(settings),
        "is_complete": is_complete,
        "environment": machine.environment(settings.model.base.dtype),
        "settings": {"compare": dataclasses.asdict(shared.config), "skip": dataclasses.asdict(settings.model.skip),
                     "skip_tune": dataclasses.asdict(shared.own.tune),
                     "dense_tune": dataclasses.asdict(settings.model.dense_tune)},
        "steps": shared.own.tune.steps,
        "tokens": shared.n_tokens,
        "rows": rows,
        "claims": compare_table.claims(rows),
        "problems": problems,
        "left_out": shared.left_out,
        "mlflow": {"experiment": tracker.experiment, "run_id": tracker.parent_id},
    }  # fmt: skip


def _base_name(settings: Settings) -> str:
    """Return the base model's name, of a folder the last part: a path tells of the machine."""
    source = settings.model.base.source
    return source if source.startswith("package:") or runtime.is_hub_id(source) else Path(source).name


# --- MLflow and history -----------------------------------------------------------------------------------------


def _open_tracker(settings: Settings, config: CompareConfig, runs_dir: Path) -> Tracker:
    """Take up or make the parent run of this comparison: the same settings go on with the same run."""
    tracking, plan = settings.tracking, plan_sha256(settings)
    tracker = Tracker(tracking.uri, tracking.experiment, runs_dir)
    values = dataclasses.asdict(config)
    run_id = f"compare-{sha256_json({'plan': plan, 'compare': values})[:16]}"
    tracker.start(run_id)
    tracker.log_parent(
        params=flatten(settings) | {f"compare.{name}": value for name, value in values.items()},
        tags={"kind": "compare", "plan_sha256": plan, "profile": settings.profile},
    )
    return tracker


def _log_arm(tracker: Tracker, stage: StageResult, method: str, seed: int, rows: Sequence[dict[str, Any]]) -> None:
    """Log one arm as a nested run: its rows by skip rate in thousandths, and its training curves."""
    series: dict[str, list[tuple[int, float]]] = {
        name: [(round(1000 * row["target_skip_rate"]), row[name]) for row in rows if row[name] is not None]
        for name in ("skip_rate", "ppl", "ppl_rise", "low", "high", "critical_recall", "critical_ppl_rise")
    }
    log = stage.path / "log.json"
    trained: dict[str, Any] = read_json(log) if log.exists() else {"rows": [], "n_tokens": 0}
    for column in (trained["rows"] or [{}])[0]:
        if column != "step":
            series[f"train/{column}"] = [(int(row["step"]), row[column]) for row in trained["rows"]]
    tracker.log_stage(
        f"{method} seed {seed}", stage.key, params={"method": method, "seed": seed},
        metrics={"seconds": stage.seconds, "n_tokens": trained["n_tokens"]}, series=series, kind="compare arm",
    )  # fmt: skip


def _write_history(compared: dict[str, Any], folder: Path) -> Path:
    facts = compared["environment"]
    on_cpu = facts["device"] == "cpu"
    environment = {
        "cpu": facts["device_name"] if on_cpu else platform.processor() or platform.machine(),
        "device": facts["device"],
        "device_name": facts["device_name"],
        "cores": facts["n_cores"],
        "threads": facts["n_threads"],
        "memory_gib": facts["memory_gib"],
        "dtype": facts["dtype"],
        "versions": {name: facts[name] for name in ("python", "torch", "transformers")},
    }
    name = compare_table.history_name({"date": compared["date"], "commit": compared["git_commit"]})
    path = folder / name
    before = read_json(path) if path.exists() else None
    document = compare_table.history_document(compared, environment, before)
    with clear_disk_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", "utf-8")
    return path
