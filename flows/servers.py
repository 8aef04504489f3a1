"""`skip-poc ui`: MLflow and Prefect as two child processes on the loopback address."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flows.errors import PocError

HOST = "127.0.0.1"
STOP_AFTER_S = 15.0


def mlflow_command(runs_dir: Path, port: int) -> list[str]:
    """Return the command of the MLflow server over the runs folder's SQLite file."""
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{runs_dir / 'mlflow.db'}"),
        *("--artifacts-destination", str(runs_dir / "mlartifacts")),
    ]


def prefect_command(port: int) -> list[str]:
    """Return the command of the Prefect server; its state is in PREFECT_HOME."""
    return [sys.executable, "-m", "prefect", "server", "start", "--host", HOST, "--port", str(port)]


def server_environment() -> dict[str, str]:
    """Return the environment of both servers: one MLflow process, a Prefect page for any port."""
    return {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PREFECT_SERVER_UI_API_URL": "/api"}


def serve_until_interrupted(runs_dir: Path, mlflow_port: int, prefect_port: int, say: Callable[[str], None]) -> int:
    """Start both servers, print their addresses, and stop them on Ctrl-C or when one of them ends.

    Raises:
        PocError: A port is taken, or a server ended by itself.
    """
    runs_dir = runs_dir.resolve()
    runs_dir.mkdir(parents=True, exist_ok=True)
    ports = {"mlflow-port": mlflow_port, "prefect-port": prefect_port}
    for option, port in ports.items():
        if is_taken(port):
            raise PocError(f"port {port} is in use", where=f"--{option}", todo="stop its owner or name another port")
    commands = {"MLflow": mlflow_command(runs_dir, mlflow_port), "Prefect": prefect_command(prefect_port)}
    children: dict[str, subprocess.Popen[bytes]] = {}
    before = signal.signal(signal.SIGTERM, _interrupt)  # `kill` and service managers stop both as well
    try:
        for name, command in commands.items():
            with log_path(runs_dir, name).open("wb") as log:
                # an own session, so that Ctrl-C reaches us alone and we end them in order
                children[name] = subprocess.Popen(
                    command, env=server_environment(), stdout=log, stderr=log, start_new_session=True
                )
        say("starting, ten seconds or, on a busy machine, half a minute ...")
        _wait_for(children, runs_dir, {"MLflow": mlflow_port, "Prefect": prefect_port})
        say(f"MLflow   http://{HOST}:{mlflow_port}\nPrefect  http://{HOST}:{prefect_port}\nCtrl-C stops both")
        while True:
            _fail_if_ended(children, runs_dir)
            time.sleep(0.5)
    except KeyboardInterrupt:
        say("stopping")
        return 0
    finally:
        stop(children)
        signal.signal(signal.SIGTERM, before)


def is_taken(port: int) -> bool:
    """Tell whether somebody listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0


def stop(children: Mapping[str, subprocess.Popen[bytes]]) -> None:
    """End child processes and their children: politely, then for good."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for child in children.values():
            if child.poll() is None:
                os.killpg(child.pid, number)
        deadline = time.monotonic() + STOP_AFTER_S
        while time.monotonic() < deadline and any(child.poll() is None for child in children.values()):
            time.sleep(0.1)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def log_path(runs_dir: Path, name: str) -> Path:
    """Return the file that takes a server's messages."""
    return runs_dir / f"ui-{name.lower()}.log"


def _wait_for(children: Mapping[str, subprocess.Popen[bytes]], runs_dir: Path, ports: Mapping[str, int]) -> None:
    while not all(is_taken(port) for port in ports.values()):
        _fail_if_ended(children, runs_dir)
        time.sleep(0.3)


def _fail_if_ended(children: Mapping[str, subprocess.Popen[bytes]], runs_dir: Path) -> None:
    for name, child in children.items():
        if child.poll() is not None:
            raise PocError(
                f"the {name} server ended with exit code {child.returncode}",
                where=str(log_path(runs_dir, name)),
                todo="read the messages in that file",
            )
