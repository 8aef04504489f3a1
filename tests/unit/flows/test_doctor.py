"""`skip-poc doctor`: finds what would make a run fail, and says what to do."""

from __future__ import annotations

import json
import shutil
import socket

import pytest

from flows import doctor
from flows.cli import main


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Starting another Python for torch takes seconds; one test does it."""
    monkeypatch.setattr(doctor, "_torch", lambda: iter(()))


def _by_name(findings):
    return {finding.what: finding for finding in findings}


def test_a_fit_machine_has_no_error(tmp_path, capsys):
    """Everything this test environment has is fine, and told as JSON too."""
    assert main(["doctor", "--json", "--runs-dir", str(tmp_path / "runs")]) == 0

    findings = json.loads(capsys.readouterr().out)
    assert {finding["state"] for finding in findings} <= {"ok", "warning"}
    assert {"Python", "torch", "fastapi", "disk", "runs folder", "cores"} <= {finding["what"] for finding in findings}


def test_torch_computes_in_a_process_of_its_own(monkeypatch):
    """The real look: torch adds up, and tells of CUDA or its absence."""
    monkeypatch.undo()
    (finding,) = list(doctor._torch())

    assert finding.what == "CUDA"
    assert finding.state in ("ok", "warning")


def test_a_full_disk_is_an_error(tmp_path, monkeypatch, capsys):
    """Too little room ends in exit code 2 and says what to do."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=10**8))

    assert main(["doctor", "--runs-dir", str(tmp_path)]) == 2
    text = capsys.readouterr().out
    assert "error    disk: 0.1 GB free" in text
    assert "do: free some space" in text


def test_the_package_trap_is_named(monkeypatch):
    """A fastapi with which the Prefect server dies is found by the version this package declares."""
    version = doctor.importlib.metadata.version
    monkeypatch.setattr(
        doctor.importlib.metadata, "version", lambda name: "0.165.0" if name == "fastapi" else version(name)
    )
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ["fastapi<0.151", "torch>=2.9,<3"])
    found = _by_name(doctor._packages())["fastapi"]

    assert found.state == "error"
    assert "<0.151" in found.todo


def test_a_taken_port_is_a_warning(monkeypatch):
    """Somebody listens: the message names another way."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(doctor, "PORTS", {"MLflow": taken.getsockname()[1]})
        (finding,) = list(doctor._ports())

    assert finding.state == "warning"
    assert "--mlflow-port" in finding.todo


def test_a_password_in_an_address_is_an_error(monkeypatch):
    """It would be in every log; the address itself is not repeated."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:hunter2@127.0.0.1:1")
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    (finding,) = list(doctor._environment())

    assert finding.state == "error"
    assert "hunter2" not in str(finding)


def test_what_waits_is_told(tmp_path):
    """Undelivered records and unfinished stages are mentioned."""
    (tmp_path / "20270101-000000-aaaaaaaa" / "spool").mkdir(parents=True)
    (tmp_path / "20270101-000000-aaaaaaaa" / "spool" / "000001.json").write_text("{}")
    (tmp_path / "store" / "sweep-0123.partial").mkdir(parents=True)
    found = _by_name(doctor._leftovers(tmp_path))

    assert found["MLflow"].todo == "skip-poc deliver"
    assert found["unfinished stages"].state == "ok"
