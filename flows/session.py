"""One visit to a run: settings, run folder, workbench and tracking opened together, and closed whatever happens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prefect import task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.cache_policies import NO_CACHE

from flows import logbook, runlog, runtime
from flows.check import check_inputs
from flows.errors import PocError
from flows.progress import Progress
from flows.settings import base_source, load_settings
from flows.spool import Spool
from flows.store import RunFolder, Store
from flows.workbench import Workbench
from skipmodel.memory import keep_freed_memory

T = TypeVar("T")


@dataclass(frozen=True)
class Session:
    """What the parts of a run work with."""

    bench: Workbench
    spool: Spool
    code_sha256: str
    step_done: Callable[[], None]


@contextlib.contextmanager
def opened(
    config_path: str, profile: str | None, runs_dir: str, progress: Progress | None, n_steps: int,
    tags: dict[str, str] | None = None,
) -> Iterator[Session]:  # fmt: skip
    """Open the run of a plan and hold its folder; a second process of the same run waits.

    Args:
        config_path: The settings file.
        profile: Budget, where the plan leaves it open.
        runs_dir: Folder of all runs.
        progress: Where progress is shown; None when Prefect started the flow and nothing has been checked yet.
        n_steps: Tasks of the flow, for its progress artifact.
        tags: Tags of the MLflow parent run.
    """
    settings_path, runs = Path(config_path), Path(runs_dir)
    settings = load_settings(settings_path, profile)
    runtime.prepare(runs, base_source=base_source(settings, settings_path))
    keep_freed_memory()
    if progress is None:
        progress = Progress(n_steps)
        check_inputs(settings, settings_path)
    note = progress.note
    store = Store(
        runs / "store",
        on_wait=lambda name: note(f"another process works on {name}; waiting for its result"),
        on_damage=lambda name, what: note(f"warning: stage {name}: {what}"),
    )
    bench = Workbench(settings, settings_path, store, progress)
    identity = bench.identity()
    bench.opened_run = RunFolder.open(runs, **identity)
    with (
        bench.run.locked(lambda: note(f"another process works on run {bench.run.id}; waiting for it")),
        runlog.attached(progress, bench.run.path),
    ):
        spool = logbook.open_tracker(bench, tags)
        try:
            yield Session(bench, spool, identity["code_sha256"], _progress_artifact(n_steps))
        except BaseException as error:
            with contextlib.suppress(PocError):  # the first error is the one to tell
                spool.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise


def step(session: Session, name: str, call: Callable[[], T]) -> T:
    """Run one call as a Prefect task. Results are kept by our own store, so Prefect hashes and keeps nothing."""

    @task(name=name, cache_policy=NO_CACHE, persist_result=False)
    def body() -> T:
        return call()

    result = body()
    session.step_done()
    return result


def _progress_artifact(n_steps: int) -> Callable[[], None]:
    """Make the progress bar of Prefect's page, and return what moves it on."""
    artifact_id = create_progress_artifact(0.0, key="progress", description="steps of this flow run")
    done = 0

    def step_done() -> None:
        nonlocal done
        done = min(done + 1, n_steps)
        update_progress_artifact(artifact_id, 100.0 * done / n_steps)  # type: ignore[arg-type]

    return step_done
