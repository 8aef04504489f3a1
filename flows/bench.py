"""`skip-poc bench`: the benchmark of a finished run, or of a checkpoint, with its plot, in MLflow and in the history.

Of a run the chosen threshold is timed, on its validation text and with the guards that are kept with its checkpoint;
the timing itself is `skipmodel.bench`.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows import machine
from flows.decide import open_bench, registered_plan
from flows.errors import PocError
from flows.progress import Progress
from flows.store import clear_disk_errors, read_json, sha256_json
from flows.tracking import Tracker
from reports.bench_figure import write_bench_figure
from skipmodel.bench.command import checkpoint_subject, run_grid
from skipmodel.bench.config import BenchConfig
from skipmodel.memory import keep_freed_memory

EXPERIMENT = "skiplayer-bench"
"""Of checkpoints that belong to no run."""
FILE, FIGURE = "bench.json", "bench.svg"


@dataclass(frozen=True)
class Target:
    """What is benchmarked, and where MLflow keeps it."""

    name: str
    checkpoint: Path
    documents: Path | None
    threshold: float | None
    level: float | None
    tracking_uri: str | None
    experiment: str
    runs_dir: Path
    language: str


def find_target(
    folder: Path, runs_dir: Path, *, documents: Path | None = None, threshold: float | None = None,
    level: float | None = None,
) -> Target:  # fmt: skip
    """Return what a folder holds: a finished run, or a SkipLayer checkpoint.

    Args:
        folder: Run folder with result.json, or checkpoint folder with config.json.
        runs_dir: Where MLflow's file lies, for a checkpoint.
        documents: Other text than the run's; of a checkpoint the only text.
        threshold: Another threshold than the chosen one.
        level: A level instead of a threshold.

    Raises:
        PocError: The folder is neither, or a stage of the run is gone.
    """
    if (folder / "result.json").is_file():
        stored = read_json(folder / "result.json")
        settings, _ = registered_plan(stored, folder)
        bench = open_bench(folder, stored, settings, folder / "poc.yaml", None)
        chosen = stored["choice"]["threshold"]
        if threshold is None and level is None:
            threshold = chosen if chosen is not None else _measured_threshold(stored)
        return Target(
            stored["run"]["id"], bench.folder("skip-tune") / "skiplayer",
            documents or bench.folder("ingest") / "documents.jsonl", threshold, level, settings.tracking.uri,
            settings.tracking.experiment, folder.resolve().parent, settings.report.language,
        )  # fmt: skip
    if (folder / "config.json").is_file():
        return Target(folder.name, folder, documents, threshold, level, None, EXPERIMENT, runs_dir, "ja")
    raise PocError(
        "expected a finished run with result.json, or a SkipLayer checkpoint with config.json; found neither",
        where=str(folder), todo="name a folder such as runs/latest, or one that save_pretrained wrote",
    )  # fmt: skip


def _measured_threshold(stored: dict[str, Any]) -> float:
    """Return the threshold that the run timed without choosing one: the most conservative that skips."""
    rows = stored["sweep"]
    threshold: float = rows[min(1, len(rows) - 1)]["threshold"]
    return threshold


def run_bench(
    target: Target, config: BenchConfig, out: Path, progress: Progress, *, calibrations: Path | None = None,
    history: Path | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Benchmark, write bench.json and bench.svg into a folder, log to MLflow, and return the document.

    Args:
        target: What is benchmarked.
        config: The grid.
        out: Folder of bench.json and bench.svg.
        progress: Progress lines.
        calibrations: Folder of calibrations; default: one inside `out`.
        history: Folder for the reference file of this date, commit and device.

    Raises:
        PocError: The disk or the tracking server cannot be used.
    """
    keep_freed_memory()
    commit = machine.git_commit()
    with clear_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    path = out / FILE
    tracker = Tracker(target.tracking_uri, target.experiment, target.runs_dir)
    tracker.start(f"bench-{sha256_json({'target': target.name, 'commit': commit, 'out': str(out.resolve())})[:16]}",
                  f"bench {target.name}")  # fmt: skip
    n_cells = 0

    def complete(document: dict[str, Any]) -> None:
        nonlocal n_cells
        document["commit"] = commit
        if len(document["rows"]) > n_cells:
            n_cells = len(document["rows"])
            progress.note(line(document["rows"][-1]))

    try:
        subject = checkpoint_subject(target.checkpoint, documents=target.documents, threshold=target.threshold,
                                     level=target.level, seed=config.seed, name=target.name)  # fmt: skip
        with clear_disk_errors(path):
            run_grid(subject, config, path, calibrations=calibrations or out / "calibrations", complete=complete,
                     warn=lambda text: progress.note(f"warning: {text}"))  # fmt: skip
    except BaseException as error:
        with contextlib.suppress(PocError):  # the first error is the one to tell
            if path.is_file() and isinstance(error, KeyboardInterrupt):
                _log(tracker, read_json(path), _figure(path, target.language))
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    document: dict[str, Any] = read_json(path)
    _log(tracker, document, _figure(path, target.language))
    tracker.finish()
    if history is not None:
        with clear_disk_errors(history):
            history.mkdir(parents=True, exist_ok=True)
            text = json.dumps(document, ensure_ascii=False, indent=1) + "\n"
            (history / history_name(document)).write_text(text, "utf-8")
    return document


def _figure(path: Path, language: str) -> list[Path]:
    """Return the files of a benchmark, its figure drawn."""
    rows = read_json(path)["rows"]
    return [path, write_bench_figure(rows, path.with_name(FIGURE), language)]


def line(row: dict[str, Any]) -> str:
    """Return one row as a line for the reader who waits."""
    cell = f"{row['phase']} batch {row['batch']} prompt {row['prompt']} {row['dtype']} {row['weights']}"
    if row["reason"] is not None:
        return f"{cell}: left out, {row['reason']}"
    rule = {True: ", rule: skip", False: f", rule: dense ({row['speedup_with_rule'] or 0:.3f})", None: ""}
    bounds = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
    return (f"{cell}, {row['routing']} skip rate {row['skip_rate']:.3f}: ceiling {row['ceiling']:.3f}, measured "
            f"{row['speedup']:.3f}{bounds}{rule[row['engaged']]}")  # fmt: skip


def history_name(document: dict[str, Any]) -> str:
    """Return `bench_<date>_<commit>_<device>.json`; a second one of the same day, commit and device replaces it."""
    facts = document["environment"]
    device = "cpu" if facts["device"] == "cpu" else facts["device_name"]
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"bench_{document['date']}_{(document['commit'] or 'nocommit')[:10]}_{slug}.json"


def _log(tracker: Tracker, document: dict[str, Any], files: list[Path]) -> None:
    """Log every cell as a nested run, and the files with the parent."""
    names = ("phase", "routing", "backend", "batch", "requested_batch", "prompt", "output_tokens", "dtype", "weights",
             "group_rows", "requested_skip_rate", "note", "reason")  # fmt: skip
    numbers = ("skip_rate", "ceiling", "speedup", "low", "high", "conversion", "speedup_with_rule", "low_with_rule",
               "high_with_rule")  # fmt: skip
    for row in document["rows"]:
        title = f"bench {row['phase']} b{row['batch']} p{row['prompt']} {row['routing']} {row['requested_skip_rate']}"
        series = {name: list(enumerate(row[name])) for name in ("dense_s", "skip_s", "rule_s") if row[name]}
        tracker.log_stage(
            title, f"bench-{sha256_json(row)[:16]}", params={name: row[name] for name in names},
            metrics={name: row[name] for name in numbers}, series=series, kind="bench",
        )  # fmt: skip
    tags = {"kind": "bench", "git_commit": document["commit"] or "", "interrupted": str(document["interrupted"])}
    tracker.log_parent(params={f"bench.{name}": str(value) for name, value in document["config"].items()}, tags=tags,
                       artifacts=files)  # fmt: skip
