"""The README's operating chapter, line by line: its shell blocks are executed, its filters are searched with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from tests.e2e.conftest import ROOT, Finished
from tests.services import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

README = (ROOT / "README.md").read_text("utf-8")
SHELL = re.findall(r"^```sh operating\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
FILTERS = re.findall(r"^```text filters\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[0].splitlines()


def _environment(folder: Path) -> Path:
    """Make `.venv/bin` with the product's command and Python's own, as an installation has them."""
    binaries = folder / ".venv" / "bin"
    binaries.mkdir(parents=True)
    scripts = Path(sysconfig.get_path("scripts"))
    (binaries / "python").symlink_to(sys.executable)
    for name, module in (("skip-poc", "flows"), ("prefect", "prefect"), ("mlflow", "mlflow")):
        target = scripts / name
        command = f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n'
        (binaries / name).write_text(command, "utf-8")
        (binaries / name).chmod(0o755)
        assert target.name == name
    return binaries


def test_the_shell_blocks_run_as_they_stand(finished: Finished, tmp_path: Path) -> None:
    """Servers, deployments, worker, two weeks through the API, status, runs, gc, deliver; only the ports are others."""
    _environment(tmp_path)
    (tmp_path / "my-poc").symlink_to(finished.poc.folder)
    finished.poc.plan(month={"stop_without_enough_items": False, "stop_when_speed_is_refuted": False})
    (tmp_path / "prefect.yaml").write_bytes((ROOT / "prefect.yaml").read_bytes())
    prefect_port, mlflow_port = str(free_port()), str(free_port())
    ports = f"skip-poc ui --prefect-port {prefect_port} --mlflow-port {mlflow_port}"
    text = "\n".join(SHELL).replace("4200", prefect_port).replace("skip-poc ui", ports)
    script = f"set -euo pipefail\ntrap 'kill $(jobs -p)' EXIT\n{text}\necho all blocks are through\n"
    environment = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = tmp_path / "blocks.log"
    with log.open("wb") as file:
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=environment, stdout=file, stderr=file, check=False, timeout=1500
        )
    output = log.read_text("utf-8", "replace")

    assert done.returncode == 0, output[-3000:]
    assert "all blocks are through" in output
    assert "W1 pass" in output
    assert "a dry run" in output
    assert "nothing waits" in output
    (plan,) = (tmp_path / "runs" / "months").glob("january/plan.json")
    assert plan.stat().st_mode & 0o077 == 0


def test_the_filters_are_understood_and_find_what_they_say(finished: Finished) -> None:
    """MLflow takes every filter string of the README; the one for sweep points finds exactly those."""
    client = MlflowClient(tracking_uri=f"sqlite:///{finished.runs / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("skiplayer-poc: Tiny PoC")
    found = {text: client.search_runs([experiment.experiment_id], text) for text in FILTERS}
    points = client.search_runs([experiment.experiment_id], "tags.kind = 'sweep point'")
    wanted = {run.info.run_id for run in points
              if run.data.metrics["ppl_rise"] < 0.02 and run.data.metrics["skip_rate"] > 0.05}  # fmt: skip
    (sweep,) = [text for text in FILTERS if "sweep point" in text]

    assert len(FILTERS) >= 6
    assert {run.info.run_id for run in found[sweep]} == wanted
    assert len(points) == len(finished.result["sweep"])
    assert all("mlflow.parentRunId" in run.data.tags for run in points)
