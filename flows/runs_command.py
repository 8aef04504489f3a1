"""`skip-poc runs` lists what a runs folder holds; `skip-poc gc` removes what is old, and says first what that would be.

A stage goes when no kept run rests on it and it is older than the age. An opening of the test split is never forgotten
(see `flows/openings.py`), and a run whose records MLflow has not taken yet is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flows import openings
from flows.errors import PocError
from flows.store import read_json

DAY_S = 86400.0


@dataclass(frozen=True)
class Run:
    """One run folder."""

    path: Path
    created_at: str
    plan_sha256: str
    state: str
    """done, delivering (records wait for MLflow), or unfinished."""
    verdict: str
    stages: frozenset[str]
    """Folder names of the stages that its result rests on."""


@dataclass
class Garbage:
    """What may be removed."""

    runs: list[Path] = field(default_factory=list)
    stages: list[Path] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        """Everything, runs first: a run without its stages must not be left behind."""
        return [*self.runs, *self.stages]

    @property
    def n_bytes(self) -> int:
        """Room that removing it frees; in bytes."""
        return sum(size_of(path) for path in self.paths)


def find_runs(runs_dir: Path) -> list[Run]:
    """Return the runs of a folder, oldest first; one whose record cannot be read is listed as damaged."""
    return [_run(path.parent) for path in sorted(runs_dir.glob("[0-9]*-*/run.json"))]


def table(runs: list[Run]) -> str:
    """Return the runs as lines for a terminal."""
    rows = [("run", "started", "plan", "state", "verdict")]
    rows += [(run.path.name, run.created_at[:16], run.plan_sha256[:8], run.state, run.verdict) for run in runs]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def find_garbage(runs_dir: Path, older_than_days: float, *, now: float | None = None) -> Garbage:
    """Return runs and stages older than an age that nothing newer rests on.

    Args:
        runs_dir: Folder of all runs.
        older_than_days: Age since the last change. [days]
        now: Seconds since the epoch; replaced in tests.
    """
    runs_dir = runs_dir.resolve()
    limit = (time.time() if now is None else now) - older_than_days * DAY_S
    latest = (runs_dir / "latest").resolve()
    weeks = [read_json(path) for path in (runs_dir / "months").glob("*/W[1-4].json")]
    months = {week["run"] for week in weeks}
    needed = {f"{name}-{key}" for week in weeks for name, key in week["stages"].items()}
    garbage = Garbage()
    for run in find_runs(runs_dir):
        keeps = run.path == latest or run.path.name in months or run.state == "delivering"
        if not keeps and _changed_at(run.path) < limit and not _is_held(run.path / ".lock"):
            garbage.runs.append(run.path)
        else:
            needed |= run.stages
    store = runs_dir / "store"
    for stage in sorted(path for path in store.glob("*-*") if path.is_dir() and not path.name.startswith(".")):
        lock = store / ".locks" / stage.name.removesuffix(".partial")
        if stage.name not in needed and _changed_at(stage) < limit and not _is_held(lock):
            garbage.stages.append(stage)
    garbage.stages += [path for path in sorted((store / ".damaged").glob("*-*")) if _changed_at(path) < limit]
    return garbage


def remove(runs_dir: Path, garbage: Garbage, say: Callable[[str], None]) -> None:
    """Remove what `find_garbage` found; openings of the test split are written down before.

    Raises:
        PocError: A path lies outside the runs folder, or cannot be removed.
    """
    root = runs_dir = runs_dir.resolve()
    for stage in garbage.stages:
        if stage.name.startswith("confirm-") and stage.parent.name == "store":
            openings.archive(runs_dir / "store", stage.name.removeprefix("confirm-"))
    for path in garbage.paths:
        if path.is_symlink() or not path.resolve().is_relative_to(root):
            raise PocError("this is no folder of the runs folder", where=str(path), todo="look at it by hand")
        doomed = path.with_name(f".removing-{path.name}")  # at once or not at all: half a stage looks like a whole one
        try:
            path.rename(doomed)
            shutil.rmtree(doomed)
        except OSError as error:
            what = f"cannot be removed ({error.strerror})"
            raise PocError(what, where=str(path), todo="allow it, or run as its owner") from error
        say(f"removed {path.relative_to(runs_dir)}")
    for rest in (*runs_dir.glob(".removing-*"), *(runs_dir / "store").glob(".removing-*")):
        shutil.rmtree(rest, ignore_errors=True)


def size_of(path: Path) -> int:
    """Return the size of all files below a folder; in bytes."""
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_dir())


def _run(path: Path) -> Run:
    verdict, state, stages = "", "unfinished", set[str]()
    try:
        record: dict[str, Any] = read_json(path / "run.json")
        if (path / "result.json").is_file():
            result = read_json(path / "result.json")
            verdict = result["verdict"]["code"]
            stages = {f"{stage['name']}-{stage['key']}" for stage in result["stages"]}
        if (path / "done.json").is_file():
            state = "done"
    except (PocError, KeyError, TypeError):
        return Run(path.resolve(), "", "", "damaged", "", frozenset())
    if any((path / "spool").glob("[0-9]*.json")):
        state = "delivering"
    return Run(path.resolve(), str(record["created_at"]), str(record["plan_sha256"]), state, verdict, frozenset(stages))


def _changed_at(path: Path) -> float:
    times = [path.lstat().st_mtime]
    with contextlib.suppress(OSError):
        times += [file.lstat().st_mtime for file in path.iterdir()]
    return max(times)


def _is_held(lock: Path) -> bool:
    """Tell whether another process works there now."""
    if not lock.exists():
        return False
    with lock.open("w") as file, _released(file):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def _released(file: Any) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_UN)
