"""One run of the fault campaign: a runs folder of its own, processes, and what is looked at afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from tests.e2e.conftest import ROOT, read_result
from tests.services import kill

STAGES = ("ingest", "base", "dense-tune", "calibrate", "skip-tune", "sweep", "confirm", "insight", "measure")
SAME = ("data", "sweep", "controls", "choice", "confirmation", "hashes")
"""Parts of a result that no fault may change; timings differ from run to run."""
TIMEOUT_S = 900.0
POINT = re.compile(r"point-\d\d\.json")


@dataclass
class Outcome:
    """What one run of the campaign found."""

    fault: str
    lost_points: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class FaultRun:
    """A place to run one faulty run in.

    Args:
        folder: Empty folder of this run.
        reference: Runs folder of the undisturbed run.
        settings: The plan.
        environment: What every process gets besides its own.
        draw: Source of chance.
    """

    folder: Path
    reference: Path
    settings: Path
    environment: dict[str, str]
    draw: random.Random
    outcome: Outcome

    @property
    def runs(self) -> Path:
        """The runs folder."""
        return self.folder / "runs"

    @property
    def store(self) -> Path:
        """Its stages."""
        return self.runs / "store"

    def prepare(self, first_missing: str) -> None:
        """Copy the stages of the reference that come before one, so that a run takes seconds."""
        self.store.mkdir(parents=True, exist_ok=True)
        for stage in STAGES[: STAGES.index(first_missing)]:
            (source,) = (self.reference / "store").glob(f"{stage}-[0-9a-f]*")
            shutil.copytree(source, self.store / source.name)
        for name in (".parts", ".sequence"):
            source = self.reference / "store" / name
            if source.is_dir():
                shutil.copytree(source, self.store / name, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, self.store / name)
        for file in ("mlflow.db",):  # a ready database: making one anew takes seconds of every run
            shutil.copy(self.reference.parent / "empty" / file, self.runs / file)

    def start(
        self, *arguments: str, env: Mapping[str, str] | None = None, program: Sequence[str] = ("-m", "flows"),
        settings: Path | None = None,
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        """Start `skip-poc run` in this place."""
        command = [sys.executable, *program, "run", "-c", str(settings or self.settings), "--runs-dir", str(self.runs),
                   *arguments]  # fmt: skip
        with self.output().open("ab") as file:
            return subprocess.Popen(command, cwd=self.folder, env=self._env(env), stdout=file, stderr=file,
                                    stdin=subprocess.DEVNULL, start_new_session=True)  # fmt: skip

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of skip-poc to its end."""
        command = [sys.executable, "-m", "flows", *arguments, "--runs-dir", str(self.runs)]
        return subprocess.run(command, check=False, cwd=self.folder, env=self._env(None), capture_output=True,
                              text=True, timeout=TIMEOUT_S)  # fmt: skip

    def _env(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return {**self.environment, **(env or {})}

    def output(self) -> Path:
        """Where all processes of this run write."""
        return self.folder / "output.txt"

    def said(self) -> str:
        """What they wrote."""
        return self.output().read_text("utf-8", "replace") if self.output().exists() else ""

    # --- the run and its ends -------------------------------------------------------------------------------

    def wait(self, child: subprocess.Popen[bytes]) -> int:
        """Wait for a process and return its exit code."""
        try:
            return child.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.outcome.unclear.append("hangs")
            kill(child)
            return child.wait()

    def wait_for_stage(self, child: subprocess.Popen[bytes], number: int) -> None:
        """Wait until a process announces a stage, or ends."""
        deadline = time.monotonic() + TIMEOUT_S
        while f"[{number}/" not in self.said() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)

    def check_end(self, code: int, said_from: int = 0, *, may_fail: bool = True) -> bool:
        """Note an end that is neither success nor one clear message; True when it was a success."""
        text = self.said()[said_from:]
        if code == 0 and "Traceback" not in text:
            return True
        clear = may_fail and code == 2 and text.count("error: ") == 1 and "  do: " in text and "Traceback" not in text
        if not clear:
            self.outcome.unclear.append(f"exit {code}: {text[-1500:]}")
        return False

    def finish(self, points: Mapping[str, int] | None = None) -> None:
        """Run undisturbed to the end, and hold everything against the reference."""
        before = self.points() if points is None else points
        start = len(self.said())
        if self.check_end(self.wait(self.start("--quiet")), start, may_fail=False):
            self.check_result(before)

    def points(self) -> dict[str, int]:
        """Return the completed sweep points, and when each was written, in ns."""
        found = {}
        for path in self.store.glob("sweep-*/point-*.json"):
            with contextlib.suppress(OSError, ValueError):
                if POINT.fullmatch(path.name) and json.loads(path.read_text("utf-8")):
                    found[path.name] = path.stat().st_mtime_ns
        return found

    def check_result(self, points_before: Mapping[str, int]) -> None:
        """Note every difference from the undisturbed run: lost points, other numbers, MLflow runs lost or doubled."""
        after = self.points()
        self.outcome.lost_points += [name for name, at in points_before.items() if after.get(name) != at]
        result, expected = read_result(self.runs / "latest"), read_result(self.reference / "latest")
        self.outcome.wrong += [key for key in SAME if result[key] != expected[key]]
        if not (self.runs / "latest" / "report.html").is_file():
            self.outcome.wrong.append("no report")
        self.check_tracking(f"sqlite:///{self.runs / 'mlflow.db'}", result)

    def check_tracking(self, uri: str, result: Mapping[str, Any]) -> None:
        """Note runs that MLflow lacks or has twice."""
        client = MlflowClient(tracking_uri=uri)
        experiment = client.get_experiment_by_name(str(result["run"]["mlflow"]["experiment"]))
        runs = [] if experiment is None else client.search_runs([experiment.experiment_id], max_results=500)
        of_run = [run for run in runs if result["run"]["id"] in (run.data.tags.get("skip_poc.run_id"),
                                                                 run.data.tags.get("skip_poc.of_run"))]  # fmt: skip
        places = [(run.data.tags.get("mlflow.parentRunId"), run.data.tags.get("skip_poc.stage_key")) for run in of_run]
        if len(places) != len(set(places)):
            self.outcome.wrong.append("MLflow has runs twice")
        names = {run.info.run_name for run in of_run}
        wanted = {result["run"]["id"], *(stage["name"] for stage in result["stages"]),
                  *(f"sweep point {row['index']}" for row in result["sweep"])}  # fmt: skip
        if wanted - names:
            self.outcome.lost_points += sorted(f"MLflow: {name}" for name in wanted - names)
        if {run.info.status for run in of_run} != {"FINISHED"}:
            self.outcome.wrong.append("MLflow has unfinished runs")


def base_environment(home: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of every process: nothing of this session but what a shell has."""
    names = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    return kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **extra}


def stop(child: subprocess.Popen[bytes]) -> None:
    """Make sure that nothing of a process is left."""
    kill(child, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(30)
