"""The flow `poc`: every stage of the PoC in order. Calls only; what a stage does is in the modules it names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from flows import evaluation, insight, logbook, machine, result, runtime, stages, unchanged
from flows.check import check_inputs
from flows.errors import PocError
from flows.progress import Progress
from flows.reaper import watch_this_process
from flows.settings import base_source, load_settings
from flows.store import RunFolder, Store, write_json
from flows.tracking import Tracker
from flows.workbench import Workbench
from reports.render import write_report
from reports.result import validate
from skipmodel.memory import keep_freed_memory

T = TypeVar("T")
N_STAGES = 11

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


def run_poc(settings_path: Path, profile: str | None, runs_dir: Path, progress: Progress) -> Path:
    """Run the whole PoC in this process and return its run folder; finished stages are taken as they are."""
    progress.n_stages = N_STAGES
    token = _progress.set(progress)
    watch_this_process()
    try:
        with runtime.quiet_engine():
            return Path(poc(config_path=str(settings_path), profile=profile, runs_dir=str(runs_dir)))
    finally:
        _progress.reset(token)


def _step(name: str, call: Callable[[], T]) -> T:
    """Run one call as a Prefect task. Results are kept by our own store, so Prefect hashes and keeps nothing."""

    @task(name=name, cache_policy=NO_CACHE, persist_result=False)
    def body() -> T:
        return call()

    return body()


@flow(name="poc", validate_parameters=True)
def poc(config_path: str = "poc.yaml", profile: str | None = None, runs_dir: str = "runs") -> str:
    """Decide whether token-level layer skipping pays: from documents to a report.

    Args:
        config_path: The registered plan, poc.yaml.
        profile: quick, standard or full; only where the plan leaves it open.
        runs_dir: Where runs and finished stages are kept.

    Returns:
        The run folder, with report.html and result.json.
    """
    settings_path, runs = Path(config_path), Path(runs_dir)
    settings = load_settings(settings_path, profile)
    runtime.prepare(runs, base_source=base_source(settings, settings_path))
    keep_freed_memory()
    progress = _progress.get()
    if progress is None:  # started by Prefect; the command line has checked already
        progress = Progress(N_STAGES)
        check_inputs(settings, settings_path)
    bench = Workbench(settings, settings_path, Store(runs / "store"), progress)
    identity = bench.identity()
    bench.opened_run = RunFolder.open(runs, **identity)
    tracker = logbook.open_tracker(bench, runs)

    try:
        _run_stages(bench, tracker, identity["code_sha256"])
    except BaseException as error:
        with contextlib.suppress(PocError):  # the first error is the one to tell
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    return str(bench.run.path)


def _run_stages(bench: Workbench, tracker: Tracker, code: str) -> None:
    settings, progress = bench.settings, bench.progress
    for stage in (*stages.ALL, evaluation.sweep):
        finished = _step(stage.__name__.replace("_", "-"), lambda stage=stage: stage(bench))  # type: ignore[misc]
        logbook.log_stage(tracker, bench, finished.name)
    rows = result.sweep_rows(bench)
    choice, point = result.choose(bench, rows)
    if choice["threshold"] is None:
        progress.skip("confirm once on the test split: no threshold passed on validation, the test stays closed")
    else:
        _step("confirm", lambda: evaluation.confirm(bench, point))
    _step("insight", lambda: insight.insight(bench, point))
    facts = machine.environment(settings.model.base.dtype)
    _step("measure", lambda: evaluation.measure(bench, point, machine.fingerprint(facts)))
    logbook.log_sweep(tracker, bench, rows)

    def decide() -> dict[str, Any]:
        return result.assemble(bench, rows, choice, point, facts, code, logbook.reference(tracker, bench))

    report = bench.run.path / "report.html"
    outcome = unchanged.kept(bench)
    with progress.stage("cost, gates and verdict") as hook:
        hook.reused = outcome is not None
        if outcome is None:
            outcome = _step("decide", decide)
            validate(outcome)
            report.unlink(missing_ok=True)
            write_json(bench.run.path / "result.json", outcome)
    with progress.stage("report") as hook:
        hook.reused = report.exists()
        if not hook.reused:
            _step("report", lambda: write_report(outcome, report, settings.report.language))
    bench.run.make_latest()
    logbook.close(tracker, bench, outcome)
    verdict = outcome["verdict"]["code"]
    create_markdown_artifact(key="poc-report", markdown=f"verdict: {verdict}\n\nreport: `{report}`")
    unchanged.mark_done(bench)
    unchanged.tell(bench.run.path, outcome, progress)
