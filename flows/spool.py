"""What goes to MLflow is written down first and delivered then: a server that is away costs no result.

Each call is a file `spool/000001.json` in the run folder, written before it is made and removed once MLflow has
taken it. Calls are delivered in order, and each may be repeated (see `flows/tracking.py`), so nothing is lost and
nothing arrives twice: not when the server dies, not when this process does.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flows.errors import PocError
from flows.store import locked, read_json, write_json
from flows.tracking import DatasetRef, Tracker, TrackingAwayError

FOLDER = "spool"
TRY_AGAIN_AFTER_S = 30.0
"""A server that is away is not asked at every call: each attempt waits for its time-out. [s]"""

Connect = Callable[[str | None, str, Path], Tracker]


class Spool:
    """Takes the calls of a `Tracker` for one run, and delivers them when the server is there.

    Args:
        run_folder: Folder of the run; its name is the run's id.
        uri: Tracking address; None keeps a SQLite file in the runs folder.
        experiment: Name of the experiment.
        note: Prints one line.
        connect: Makes the tracker; replaced in tests.
        now: Monotonic clock in seconds; replaced in tests.
    """

    def __init__(
        self, run_folder: Path, uri: str | None, experiment: str, note: Callable[[str], None] = lambda _: None,
        *, connect: Connect = Tracker, now: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.run_folder, self.uri, self.experiment = run_folder, uri, experiment
        self._note, self._connect, self._now = note, connect, now
        self._tracker: Tracker | None = None
        self._parent_id: str | None = None
        self._try_at = float("-inf")
        self._told = False

    @property
    def parent_id(self) -> str | None:
        """MLflow id of the parent run; None while the server has not answered yet."""
        return self._parent_id

    @property
    def tracking_uri(self) -> str:
        """The address, or that of the SQLite file in the runs folder."""
        return self.uri or f"sqlite:///{self.run_folder.parent.resolve() / 'mlflow.db'}"

    @property
    def n_waiting(self) -> int:
        """Calls that MLflow has not taken yet."""
        return len(self._waiting())

    # --- the calls of a Tracker; for their arguments see there ---------------------------------------------

    def start(self, run_id: str, name: str | None = None, tags: Mapping[str, str] | None = None) -> None:
        """Take up or make the parent run."""
        self._call("start", run_id=run_id, name=name, tags=dict(tags or {}))

    def log_stage(self, name: str, key: str, **values: Any) -> None:
        """Log one finished stage as a nested run."""
        self._call("log_stage", name=name, key=key, **values)

    def log_group(self, name: str, **values: Any) -> None:
        """Add to a nested run that holds others."""
        self._call("log_group", name=name, **values)

    def log_parent(self, **values: Any) -> None:
        """Add to the parent run."""
        self._call("log_parent", **values)

    def log_model(self, checkpoint: Path, **values: Any) -> None:
        """Log a checkpoint as a model."""
        self._call("log_model", checkpoint=checkpoint, **values)

    def finish(self, status: str = "FINISHED") -> None:
        """End the parent run; asks a server that was away once more."""
        self._try_at = float("-inf")
        self._call("finish", status=status)
        if self.n_waiting:
            self._note(f"MLflow: {self.n_waiting} records wait in {self.run_folder / FOLDER}; "
                       "`skip-poc deliver` sends them, and so does the next run of this plan")  # fmt: skip

    # --- delivery -----------------------------------------------------------------------------------------

    def deliver(self) -> int:
        """Send what waits, oldest first, and return how many calls still wait.

        Raises:
            PocError: The server refuses a call for good, such as for want of a right.
        """
        waiting = self._waiting()
        if not waiting or self._now() < self._try_at:
            return len(waiting)
        try:
            for path in waiting:
                self._send(read_json(path))
                path.unlink()
        except TrackingAwayError as error:
            self._try_at = self._now() + TRY_AGAIN_AFTER_S
            self._tracker = None
            if not self._told:
                self._note(f"MLflow at {self.uri} is away; the run goes on, its records are kept ({error.what[:200]})")
                self._told = True
        return len(self._waiting())

    def _send(self, record: dict[str, Any]) -> None:
        if self._tracker is None:
            self._tracker = self._connect(record["uri"], record["experiment"], self.run_folder.parent)
            # also when the call that started the run was taken before this process began
            self._parent_id = self._tracker.start(self.run_folder.name)
        values = _decode(record["values"], self.run_folder.parent.resolve())
        answer = getattr(self._tracker, record["call"])(**values)
        if record["call"] == "start":
            self._parent_id = answer

    def _call(self, call: str, **values: Any) -> None:
        folder = self.run_folder / FOLDER
        folder.mkdir(exist_ok=True)
        waiting = self._waiting()
        number = 1 + (int(waiting[-1].stem) if waiting else 0)
        record = {"call": call, "uri": self.uri, "experiment": self.experiment,
                  "values": _encode(values, self.run_folder.parent.resolve())}  # fmt: skip
        write_json(folder / f"{number:06d}.json", record)
        self.deliver()

    def _waiting(self) -> list[Path]:
        return sorted((self.run_folder / FOLDER).glob("[0-9]*.json"))


def deliver_all(runs_dir: Path, note: Callable[[str], None], *, connect: Connect = Tracker) -> dict[str, int]:
    """Deliver what any run of a folder has waiting; returns the calls that still wait, by run.

    Raises:
        PocError: A server refuses a call for good.
    """
    left: dict[str, int] = {}
    for folder in sorted(path.parent for path in runs_dir.glob(f"[0-9]*-*/{FOLDER}") if any(path.glob("[0-9]*.json"))):
        with locked(folder / ".lock", lambda: note("another process works on this run; waiting")):
            spool = Spool(folder, None, "", note, connect=connect)
            before = spool.n_waiting
            left[folder.name] = spool.deliver()
            note(f"{folder.name}: {before - left[folder.name]} records delivered, {left[folder.name]} wait")
    return left


def _encode(value: Any, runs_dir: Path) -> Any:
    """Return a JSON value in which paths below the runs folder stay valid when that folder is moved."""
    if isinstance(value, Path):
        path = value.resolve()
        inside = path.is_relative_to(runs_dir)
        return {"__path__": str(path.relative_to(runs_dir) if inside else path), "inside": inside}
    if isinstance(value, DatasetRef):
        return {"__dataset__": dataclasses.asdict(value)}
    if isinstance(value, Mapping):
        return {str(key): _encode(item, runs_dir) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encode(item, runs_dir) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # MLflow takes no such number either
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise PocError(f"a value of type {type(value).__name__} cannot be logged", where="flows/spool.py",
                   todo="tell the maintainers: this is a defect")  # fmt: skip


def _decode(value: Any, runs_dir: Path) -> Any:
    if isinstance(value, dict):
        if "__path__" in value:
            return runs_dir / value["__path__"] if value["inside"] else Path(value["__path__"])
        if "__dataset__" in value:
            return DatasetRef(**value["__dataset__"])
        return {key: _decode(item, runs_dir) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item, runs_dir) for item in value]
    return value
