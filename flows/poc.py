"""The flow `poc`: every stage of the PoC in order. Calls only; what a stage does is in the modules it names."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows import evaluation, insight, logbook, machine, result, runtime, scale, session, stages, unchanged
from flows.errors import PocError
from flows.progress import Progress
from flows.reaper import watch_this_process
from flows.report_command import summary_of, write_all
from flows.session import Session
from flows.settings import Profile
from flows.store import write_json
from reports.result import validate

N_STAGES = 11
ASKS_BEFORE_OPENING = Callable[[Session, dict[str, Any]], None]
Chosen = tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]

_progress: ContextVar[Progress | None] = ContextVar("progress", default=None)


def run_poc(settings_path: Path, profile: str | None, runs_dir: Path, progress: Progress) -> Path:
    """Run the whole PoC in this process and return its run folder; finished stages are taken as they are.

    Raises:
        PocError: Something a person can put right, a Prefect server that does not answer included.
    """
    progress.n_stages = N_STAGES
    token = _progress.set(progress)
    watch_this_process()
    try:
        with runtime.quiet_engine():
            return Path(poc(config_path=str(settings_path), profile=profile, runs_dir=str(runs_dir)))  # type: ignore[arg-type]
    except Exception as error:
        if isinstance(error, PocError) or not _is_of_prefect(error):
            raise
        raise PocError(
            f"Prefect's server does not answer ({type(error).__name__})",
            where="PREFECT_API_URL, or the temporary server",
            todo="start the server, or unset PREFECT_API_URL, and run the same command again; finished stages are kept",
        ) from error  # fmt: skip
    finally:
        _progress.reset(token)


@flow(name="poc", validate_parameters=True)
def poc(config_path: str = "poc.yaml", profile: Profile | None = None, runs_dir: str = "runs") -> str:
    """Decide whether token-level layer skipping pays: from documents to a report.

    Args:
        config_path: The registered plan, poc.yaml.
        profile: quick, standard or full; only where the plan leaves it open.
        runs_dir: Where runs and finished stages are kept.

    Returns:
        The run folder, with report.html and result.json.
    """
    with session.opened(config_path, profile, runs_dir, _progress.get(), N_STAGES) as opened:
        finish(opened, *tune(opened, (*stages.ALL, scale.sweep)))
        return str(opened.bench.run.path)


def tune(opened: Session, parts: tuple[Any, ...]) -> Chosen:
    """Run stages up to the sweep, and return its rows, the choice among them and the point that is timed."""
    run_stages(opened, parts)
    rows = result.sweep_rows(opened.bench)
    logbook.log_sweep(opened.spool, opened.bench, rows)
    return rows, *result.choose(opened.bench, rows)


def run_stages(opened: Session, parts: tuple[Any, ...]) -> None:
    """Run stages in order and log each."""
    for stage in parts:
        finished = session.step(opened, stage.__name__.replace("_", "-"), functools.partial(stage, opened.bench))
        logbook.log_stage(opened.spool, opened.bench, finished.name)


def measure(opened: Session, point: dict[str, Any]) -> dict[str, Any]:
    """Look at routing and time at a sweep point; returns the facts about this machine."""
    bench = opened.bench
    session.step(opened, "insight", lambda: insight.insight(bench, point))
    facts = machine.environment(bench.settings.model.base.dtype)
    session.step(opened, "measure", lambda: evaluation.measure(bench, point, machine.fingerprint(facts)))
    logbook.log_speed(opened.spool, bench)
    return facts


def finish(
    opened: Session, rows: list[dict[str, Any]], choice: dict[str, Any], point: dict[str, Any],
    before_opening: ASKS_BEFORE_OPENING = lambda opened, point: None,
) -> dict[str, Any]:  # fmt: skip
    """Confirm once, measure, decide and write the report; returns the result."""
    bench, progress = opened.bench, opened.bench.progress
    if choice["threshold"] is None:
        progress.skip("confirm once on the test split: no threshold passed on validation, the test stays closed")
    else:
        before_opening(opened, point)
        session.step(opened, "confirm", lambda: evaluation.confirm(bench, point))
    facts = measure(opened, point)
    logbook.log_rest(opened.spool, bench)

    def decide() -> dict[str, Any]:
        return result.assemble(bench, rows, choice, point, facts, opened.code_sha256,
                               logbook.reference(opened.spool, bench))  # fmt: skip

    report = bench.run.path / "report.html"
    outcome = unchanged.kept(bench)
    with progress.stage("cost, gates and verdict") as hook:
        hook.reused = outcome is not None
        if outcome is None:
            outcome = session.step(opened, "decide", decide)
            validate(outcome)
            report.unlink(missing_ok=True)
            write_json(bench.run.path / "result.json", outcome)
    with progress.stage("report") as hook:
        hook.reused = report.exists() and summary_of(report).exists()
        if not hook.reused:
            written = session.step(opened, "report", lambda: write_all(outcome, report, bench.settings.report.language))
            for path in written.files:
                path.chmod(0o600)  # written to be handed on; this copy lies among run data
    bench.run.make_latest()
    logbook.close(opened.spool, bench, outcome)
    _artifacts(outcome, report)
    unchanged.mark_done(bench)
    unchanged.tell(bench.run.path, outcome, progress)
    return outcome


def _artifacts(outcome: dict[str, Any], report: Path) -> None:
    """Show verdict, gates and report on Prefect's page of this flow run."""
    verdict = outcome["verdict"]
    create_markdown_artifact(
        key="poc-report", markdown=f"verdict: {verdict['code']}\n\nreasons: {', '.join(verdict['reasons'])}\n\n"
                                   f"report: `{report}`")  # fmt: skip
    names = ("id", "state", "value", "low", "high", "limit", "n", "reason")
    create_table_artifact([{name: gate[name] for name in names} for gate in outcome["gates"]], key="poc-gates")
    create_link_artifact(report.resolve().as_uri(), "report", key="poc-report-link")


def _is_of_prefect(error: BaseException) -> bool:
    if type(error).__module__.startswith(("httpx", "httpcore", "prefect.exceptions", "websockets")):
        return True
    said = ("Failed to reach API", "Timed out while attempting to connect")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in said)
