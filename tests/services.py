"""Real services for tests: Prefect server and worker, MLflow server, PostgreSQL, each a process of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
START_TIMEOUT_S = 240.0
"""Services start in seconds; a machine that others use too may take minutes."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S, every_s: float = 0.25) -> None:
    """Wait until something holds, and fail with its name otherwise."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(every_s)


def answers(address: str) -> bool:
    """Tell whether an HTTP address answers with success."""
    with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5) as answer:
        return bool(answer.status == 200)
    return False


@contextlib.contextmanager
def process(
    command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None, cwd: Path | None = None,
    user: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:  # fmt: skip
    """Run a process in a session of its own while the block runs, and end all of it afterwards."""
    with log.open("ab") as file:
        child = subprocess.Popen(
            command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True, cwd=cwd, user=user,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
    try:
        yield child
    finally:
        kill(child, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(20)
        kill(child, signal.SIGKILL)
        child.wait()


def kill(child: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> None:
    """Send a signal to a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, number)


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int, backend: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's server over a SQLite file or another backend, with artifacts through its proxy."""
    store = backend or f"sqlite:///{folder / 'server.db'}"
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1",
        "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    env = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with process(command, folder / "mlflow-server.log", env=env, cwd=folder) as child:
        wait_until(lambda: answers(f"http://{HOST}:{port}/health") or child.poll() is not None, "MLflow's server")
        assert child.poll() is None, (folder / "mlflow-server.log").read_text("utf-8", "replace")[-2000:]
        yield child


@contextlib.contextmanager
def prefect_server(folder: Path, port: int) -> Iterator[str]:
    """Run Prefect's server with a scheduler that looks every second, and yield the address of its API."""
    env = {
        "PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
        "PREFECT_SERVER_UI_API_URL": "/api",
    }  # fmt: skip
    (folder / "prefect").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]
    with process(command, folder / "prefect-server.log", env=env, cwd=folder) as child:
        api = f"http://{HOST}:{port}/api"
        wait_until(lambda: answers(f"{api}/health") or child.poll() is not None, "Prefect's server")
        assert child.poll() is None, (folder / "prefect-server.log").read_text("utf-8", "replace")[-2000:]
        yield api


def postgres_user() -> str | None:
    """Return the user to run PostgreSQL as: it refuses root. None is this user."""
    return "nobody" if os.geteuid() == 0 else None


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL in a temporary folder, and yield the address of an empty database.

    The caller skips where `postgres` and `initdb` are not installed.
    """
    user = postgres_user()
    folder = Path(tempfile.mkdtemp(prefix="skip-poc-pg-"))
    if user is not None:
        shutil.chown(folder, user)
    port = free_port()
    try:
        subprocess.run(
            ["initdb", "-D", str(folder / "data"), "-U", "mlflow", "-A", "trust", "-E", "UTF8", "--no-sync"],
            check=True, capture_output=True, user=user, cwd=folder,
        )  # fmt: skip
        command = ["postgres", "-D", str(folder / "data"), "-p", str(port), "-h", HOST, "-k", str(folder), "-F"]
        log = Path(tempfile.gettempdir()) / f"{folder.name}.log"
        with process(command, log, user=user, cwd=folder):
            wait_until(lambda: _ready(folder, port), "PostgreSQL")
            yield f"postgresql://mlflow@{HOST}:{port}/postgres"
        log.unlink(missing_ok=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _ready(folder: Path, port: int) -> bool:
    import psycopg2

    with contextlib.suppress(psycopg2.Error):
        psycopg2.connect(host=HOST, port=port, user="mlflow", dbname="postgres").close()
        return True
    return False
