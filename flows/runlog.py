"""The log of a run for machines: one JSON object per line in `log.jsonl` of the run folder, each with the run's id.

It holds what the terminal shows - stages, notes, warnings, how it ended - and no text of a document.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from flows.explain import mask
from flows.progress import Progress

FILE = "log.jsonl"


class RunLog:
    """Appends lines to the log of one run."""

    def __init__(self, run_folder: Path) -> None:
        self._path = run_folder / FILE
        self._run_id = run_folder.name

    def write(self, event: str, **values: str | float | bool | None) -> None:
        """Add one line: time, run, process, event and its values. A log that cannot be written stops no run."""
        now = datetime.now().astimezone().isoformat(timespec="milliseconds")
        row = {"time": now, "run": self._run_id, "pid": os.getpid(), "event": event}
        row |= {name: mask(value) if isinstance(value, str) else value for name, value in values.items()}
        with contextlib.suppress(OSError), os.fdopen(self._open(), "a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


@contextlib.contextmanager
def attached(progress: Progress, run_folder: Path) -> Iterator[RunLog]:
    """Write the events of a progress object to the log of a run while the block runs, and how it ends."""
    log = RunLog(run_folder)
    before, progress.on_event = progress.on_event, log.write
    log.write("run started")
    try:
        yield log
    except BaseException as error:
        log.write(
            "run failed", error=type(error).__name__, message=str(error).splitlines()[0][:300] if str(error) else ""
        )
        raise
    else:
        log.write("run ended")
    finally:
        progress.on_event = before
