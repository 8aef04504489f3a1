"""The run that has nothing to do: same plan, code, inputs and machine, every stage finished, report written.

It is recognised from the hashes alone, without starting Prefect, MLflow or torch; anything else goes to the flow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows import evaluation, insight, machine, stages
from flows.progress import Progress
from flows.settings import Settings, flatten
from flows.store import RunFolder, Store, read_json, write_json
from flows.workbench import NotFinished, Workbench

DONE = "done.json"
SPOOL = "spool"
"""As in `flows/spool.py`, which would import mlflow."""


def finished_run(settings: Settings, settings_path: Path, runs_dir: Path, progress: Progress) -> Path | None:
    """Return the run folder if there is nothing left to do, after telling so; None otherwise."""
    bench = Workbench(settings, settings_path, Store(runs_dir / "store"), Progress(quiet=True), find_only=True)
    bench.opened_run = RunFolder.find(runs_dir, **bench.identity())
    if bench.opened_run is None or not (bench.run.path / DONE).is_file():
        return None
    if any((bench.run.path / SPOOL).glob("[0-9]*.json")):  # something still has to be delivered
        return None
    outcome = read_json(bench.run.path / "result.json")
    try:
        find_stages(bench, outcome)
    except NotFinished:
        return None
    if kept(bench) is None or not (bench.run.path / "report.html").is_file():
        return None
    bench.run.make_latest()
    progress.n_stages = len(bench.titles)
    for title in bench.titles.values():
        with progress.stage(title) as hook:
            hook.reused = True
    tell(bench.run.path, outcome, progress)
    return bench.run.path


def find_stages(bench: Workbench, outcome: dict[str, Any]) -> None:
    """Look every stage up that made this result.

    Raises:
        NotFinished: A stage has other inputs now, or is gone.
    """
    for stage in (*stages.ALL, evaluation.sweep):
        stage(bench)
    points = evaluation.sweep_points(bench)
    chosen = outcome["choice"]["sweep_index"]
    point = points[chosen if chosen is not None else min(1, len(points) - 1)]
    if chosen is not None:
        evaluation.confirm(bench, point)
    facts = machine.environment(bench.settings.model.base.dtype)
    insight.insight(bench, point)
    evaluation.measure(bench, point, machine.fingerprint(facts))


def kept(bench: Workbench) -> dict[str, Any] | None:
    """Return the result.json that this run folder already holds, if it comes from exactly these stages."""
    path = bench.run.path / "result.json"
    if not path.exists():
        return None
    outcome: dict[str, Any] = read_json(path)
    same_stages = [row["key"] for row in outcome["stages"]] == [stage.key for stage in bench.stages.values()]
    same_report = outcome["run"]["language"] == bench.settings.report.language
    return outcome if same_stages and same_report and outcome["plan"]["registered"] == flatten(bench.settings) else None


def mark_done(bench: Workbench) -> None:
    """Note that everything of this run, tracking included, is written."""
    write_json(bench.run.path / DONE, {"stages": {name: stage.key for name, stage in bench.stages.items()}})


def tell(folder: Path, outcome: dict[str, Any], progress: Progress) -> None:
    """Print the verdict and where everything is."""
    verdict, mlflow = outcome["verdict"], outcome["run"]["mlflow"]
    for line in (
        f"verdict: {verdict['code']} ({', '.join(verdict['reasons'])})",
        f"report:  {folder / 'report.html'}",
        f"result:  {folder / 'result.json'}",
        f"MLflow:  experiment {mlflow['experiment']}, run {mlflow['run_id']} (make ui shows it)",
    ):
        progress.note(line)
