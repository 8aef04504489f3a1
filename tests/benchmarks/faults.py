"""`make faults`: runs of a tiny PoC, each disturbed in another way, and what survived.

    make faults                        50 runs
    make faults ARGS="--runs 8 --seed 3"

Faults in turn: kill -9 at a random moment, MLflow's server killed and restarted, Prefect's server killed, a full disk,
a clock that jumps, two runs at once, a corrupted file of a finished stage, a read-only folder. After each the same
command is run again, and must end with the numbers of an undisturbed run. The last line is JSON: `runs`,
`lost_points` (completed sweep points that were measured again or are missing in MLflow), `wrong_runs` (results that
differ), `unclear_ends` (neither success nor one clear message). Exit code 1 when any of them is not 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flows import runtime

_STATE = Path(tempfile.mkdtemp(prefix="skip-poc-faults-"))
runtime.prepare(_STATE)  # before mlflow is imported

from tests.benchmarks.fault_run import STAGES, FaultRun, Outcome, base_environment, stop  # noqa: E402
from tests.e2e.conftest import GUARD, ROOT, TinyPoc, make_tiny_poc, read_result  # noqa: E402
from tests.services import HOST, free_port, kill, mlflow_server, prefect_server  # noqa: E402

CLOCK = """
import datetime, sys, time
days = float(sys.argv.pop(1))
real = time.time
time.time = lambda: real() + days * 86400
import flows.store as store
now = store._now
store._now = lambda: now() + datetime.timedelta(days=days)
from flows.cli import main
sys.exit(main(sys.argv[1:]))
"""


def killed(run: FaultRun) -> None:
    """`kill -9` once or twice, at any moment after the start."""
    run.prepare(run.draw.choice(STAGES[2:]))
    points: dict[str, int] = {}
    for _ in range(run.draw.choice((1, 1, 2))):
        child = run.start()
        run.wait_for_stage(child, run.draw.randint(1, 10))
        time.sleep(run.draw.random() * 1.5)
        stop(child)
        points |= run.points()
    run.finish(points)


def mlflow_killed(run: FaultRun) -> None:
    """The tracking server dies in the middle and comes back later: the run goes on, its records arrive."""
    run.prepare("sweep")
    port, folder = free_port(), run.folder / "server"
    folder.mkdir()
    uri = f"http://{HOST}:{port}"
    settings = TinyPoc(run.settings.parent).plan(f"remote-{port}.yaml", tracking={"uri": uri})
    with mlflow_server(folder, port) as server:
        child = run.start(settings=settings)
        run.wait_for_stage(child, run.draw.randint(1, 9))
        time.sleep(run.draw.random())
        kill(server)
        run.check_end(run.wait(child), may_fail=False)
    with mlflow_server(folder, port):
        delivered = run.command("deliver")
        if delivered.returncode != 0:
            run.outcome.lost_points.append(f"not delivered: {delivered.stderr[-500:]}")
        result, expected = read_result(run.runs / "latest"), read_result(run.reference / "latest")
        run.outcome.wrong += [key for key in ("sweep", "choice", "confirmation") if result[key] != expected[key]]
        run.check_tracking(uri, result)


def prefect_killed(run: FaultRun) -> None:
    """Prefect's server dies under a run: it ends in success or one message; with a server again it goes on."""
    run.prepare(run.draw.choice(("calibrate", "sweep", "confirm")))
    with contextlib.ExitStack() as stack:
        folder = run.folder / "server"
        folder.mkdir()
        api = stack.enter_context(prefect_server(folder, free_port()))
        child = run.start(env={"PREFECT_API_URL": api})
        run.wait_for_stage(child, run.draw.randint(1, 10))
        time.sleep(run.draw.random())
        stack.close()
    run.check_end(run.wait(child))
    run.finish()


def disk_full(run: FaultRun) -> None:
    """The disk fills up when a stage begins; with room again the same command ends well. A tmpfs, or a file limit."""
    missing = run.draw.choice(("dense-tune", "skip-tune", "sweep", "confirm"))
    with small_disk(run.runs) as mounted:
        run.prepare(missing)
        if mounted:
            ballast = run.runs / "ballast"
            fill = {"SKIP_POC_TEST_FILL_AT": f"*/{missing}-*.partial", "SKIP_POC_TEST_BALLAST": str(ballast)}
            child = run.start(env=fill | {"PYTHONPATH": f"{GUARD}{os.pathsep}{ROOT}"})
            run.check_end(run.wait(child))
            ballast.unlink(missing_ok=True)
        else:  # an ordinary user cannot mount: no file may grow beyond 200 KB
            limited = ("-c", "import resource, runpy; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1)); "
                             "runpy.run_module('flows', run_name='__main__')")  # fmt: skip
            run.check_end(run.wait(run.start(program=limited)))
        run.finish()


def clock_jumps(run: FaultRun) -> None:
    """The clock stands weeks before or after that of the interrupted attempt."""
    run.prepare(run.draw.choice(("skip-tune", "sweep", "confirm")))
    child = run.start()
    run.wait_for_stage(child, run.draw.randint(5, 9))
    stop(child)
    points = run.points()
    days = run.draw.choice((-400, -20, 3, 90))
    start = len(run.said())
    if run.check_end(run.wait(run.start("--quiet", program=("-c", CLOCK, str(days)))), start, may_fail=False):
        run.check_result(points)
        if read_result(run.runs / "latest")["data"]["test_openings"] != 1:
            run.outcome.wrong.append("openings miscounted")


def two_at_once(run: FaultRun) -> None:
    """Two processes of the same run: one works, the other waits and finds everything done."""
    run.prepare(run.draw.choice(("calibrate", "sweep", "measure")))
    children = [run.start("--quiet") for _ in range(2)]
    for child in children:
        run.check_end(run.wait(child), may_fail=False)
    run.check_result({})
    if len(list(run.runs.glob("[0-9]*-*/run.json"))) != 1:
        run.outcome.wrong.append("two run folders")


def corrupted(run: FaultRun) -> None:
    """A file of a finished stage is cut, changed, emptied or gone; it is made again, to the same numbers."""
    run.prepare("measure")
    files = [path for path in sorted(run.store.glob("*-*/**/*")) if path.is_file()]
    path = run.draw.choice(files)
    how = run.draw.choice(("cut", "flip", "empty", "remove"))
    content = path.read_bytes()
    if how == "remove":
        path.unlink()
    elif how == "flip" and content:
        at = run.draw.randrange(len(content))
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :])
    else:
        path.write_bytes(content[: len(content) // 2 if how == "cut" else 0])
    run.outcome.fault += f" ({how} {path.relative_to(run.store)})"
    run.finish({})


def read_only(run: FaultRun) -> None:
    """A runs folder that cannot be written is told in one message; once it can, the same command ends well."""
    with small_disk(run.runs) as mounted:
        run.prepare("sweep")
        if mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(run.runs)], check=True)
        else:
            run.runs.chmod(0o500)
        code = run.wait(run.start("--quiet"))
        if run.check_end(code):
            run.outcome.unclear.append("a read-only folder was not noticed")
        if mounted:
            subprocess.run(["mount", "-o", "remount,rw", str(run.runs)], check=True)
        else:
            run.runs.chmod(0o700)
        run.finish()


FAULTS: tuple[Callable[[FaultRun], None], ...] = (
    killed, corrupted, mlflow_killed, disk_full, two_at_once, clock_jumps, prefect_killed, read_only,
)  # fmt: skip


@contextlib.contextmanager
def small_disk(folder: Path) -> Any:
    """Mount a small disk at a folder and yield True, or False where that is not allowed."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    allowed = os.geteuid() == 0 and shutil.which("mount") is not None
    mounted = allowed and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def reference_run(folder: Path, environment: dict[str, str]) -> tuple[Path, Path]:
    """Run the tiny PoC undisturbed; returns its settings and its runs folder."""
    from mlflow.tracking import MlflowClient

    (folder / "poc").mkdir()
    poc = make_tiny_poc(folder / "poc")
    settings = poc.plan(tracking={"experiment": "faults", "log_model": False})
    runs = folder / "runs"
    command = [sys.executable, "-m", "flows", "run", "-c", str(settings), "--runs-dir", str(runs)]
    subprocess.run(command, check=True, env=environment, cwd=folder, stdout=sys.stderr)
    (folder / "empty").mkdir()
    MlflowClient(tracking_uri=f"sqlite:///{folder / 'empty' / 'mlflow.db'}").search_experiments()
    return settings, runs


def campaign(n_runs: int, seed: int, folder: Path) -> list[Outcome]:
    """Run the campaign and return what each run found."""
    outcomes = []
    folder = folder.resolve()
    with prefect_server(folder, free_port()) as api:  # one for all: a temporary one takes ten seconds of every run
        environment = base_environment(folder, {"PREFECT_API_URL": api})
        settings, reference = reference_run(folder, environment)
        for number in range(n_runs):
            fault = FAULTS[number % len(FAULTS)]
            place = folder / f"run-{number:03d}"
            place.mkdir()
            outcome = Outcome(fault.__name__)
            draw = random.Random(seed * 1000 + number)
            started = time.monotonic()
            try:
                fault(FaultRun(place, reference, settings, environment, draw, outcome))
            except (OSError, AssertionError, subprocess.SubprocessError, KeyError) as error:
                outcome.unclear.append(f"{type(error).__name__}: {error}")
            outcome.seconds = time.monotonic() - started
            outcomes.append(outcome)
            bad = outcome.lost_points or outcome.wrong or outcome.unclear
            told = f"lost {outcome.lost_points} wrong {outcome.wrong} unclear {outcome.unclear}" if bad else "survived"
            sys.stderr.write(f"{number + 1}/{n_runs} {outcome.fault}: {told} ({outcome.seconds:.0f} s)\n")
            if not bad:
                shutil.rmtree(place, ignore_errors=True)
    return outcomes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaign, print JSON on the last line, and return 1 when anything was lost, wrong or unclear."""
    parser = argparse.ArgumentParser(description="Disturb runs of a tiny PoC and see what survives.")
    parser.add_argument("--runs", type=int, default=50, help="number of runs; default: 50")
    parser.add_argument("--seed", type=int, default=1, help="seed of all draws; default: 1")
    parser.add_argument("--keep", type=Path, help="empty folder to work in, which is kept")
    arguments = parser.parse_args(argv)
    folder = arguments.keep or _STATE
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    outcomes = campaign(arguments.runs, arguments.seed, folder)
    document = {
        "runs": len(outcomes),
        "lost_points": sum(len(outcome.lost_points) for outcome in outcomes),
        "wrong_runs": sum(bool(outcome.wrong) for outcome in outcomes),
        "unclear_ends": sum(len(outcome.unclear) for outcome in outcomes),
        "seconds": round(time.monotonic() - started, 1),
    }
    shutil.rmtree(_STATE, ignore_errors=True)
    sys.stdout.write(json.dumps(document) + "\n")
    return int(any(document[name] for name in ("lost_points", "wrong_runs", "unclear_ends")))


if __name__ == "__main__":
    sys.exit(main())
