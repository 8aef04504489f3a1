"""What never gets out: no connection leaves the machine, no sentence of the corpus leaves the store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import GUARD, MARKER, PLANTED, PLANTED_IN_TEXT, Finished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_nothing_leaves_the_machine(finished: Finished) -> None:
    """The first run had no network, and no Python of it even tried to look up or reach another machine."""
    attempts = finished.network_log.read_text("utf-8") if finished.network_log.exists() else ""

    assert attempts == ""


def test_the_network_guard_sees_an_attempt(tmp_path: Path) -> None:
    """The watcher that found nothing does find look-ups and connections; loopback it lets pass."""
    log = tmp_path / "network.log"
    program = (
        "import socket\n"
        "calls = [lambda: socket.getaddrinfo('example.com', 443)]\n"
        "calls += [lambda host=host: socket.socket().connect((host, 9)) for host in ('192.0.2.1', '127.0.0.1')]\n"
        "for call in calls:\n    try:\n        call()\n    except OSError as error:\n        print(error)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(GUARD), "SKIP_POC_TEST_NETWORK_LOG": str(log)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)

    assert done.stdout.count("the network is cut off") == 2
    assert [line.split()[0] for line in log.read_text("utf-8").splitlines()] == ["socket.getaddrinfo", "socket.connect"]


def test_no_sentence_of_the_corpus_gets_out(finished: Finished) -> None:
    """Without include_samples neither MLflow, logs, result nor report hold a line of a document or a question.

    `store/` is left out: it holds the working copy of the texts that the stages read, and is not handed on.
    """
    documents = [path.read_text("utf-8") for path in (finished.poc.folder / "corpus").rglob("*.txt")]
    questions = (finished.poc.folder / "questions.jsonl").read_text("utf-8").splitlines()
    lines = {line.strip() for text in documents for line in text.splitlines() if len(line.encode()) >= 50}
    lines |= {json.loads(question)["question"] for question in questions}
    needles = {
        MARKER.encode(),
        *(line.encode() for line in lines),
        *(json.dumps(line)[1:-1].encode() for line in lines),
    }
    outside = [path for path in finished.runs.rglob("*") if path.is_file() and "store" not in path.parts]
    names = {path.name for path in outside}
    (working_copy,) = finished.runs.glob("store/ingest-*/documents.jsonl")

    assert len(needles) > 200
    assert MARKER in working_copy.read_text("utf-8")
    assert names >= {"mlflow.db", "prefect.db", "result.json", "report.html"}
    for name, content in [*((str(path), path.read_bytes()) for path in outside), ("output", finished.output.encode())]:
        assert [needle for needle in needles if needle in content] == [], name


def test_no_planted_secret_is_found_anywhere(finished: Finished) -> None:
    """Passwords of the environment, and one in a document, stand in no file of the runs folder and in no output."""
    needles = [secret.encode() for secret in (*PLANTED.values(), PLANTED_IN_TEXT)]
    files = [path for path in finished.runs.rglob("*") if path.is_file()]
    documents = [path.read_text("utf-8") for path in (finished.poc.folder / "corpus").rglob("*.txt")]

    assert any(PLANTED_IN_TEXT in text for text in documents)
    assert len(files) > 50
    for name, content in [*((str(path), path.read_bytes()) for path in files), ("output", finished.output.encode())]:
        assert [needle for needle in needles if needle in content] == [], name


def test_run_data_is_for_its_owner_alone(finished: Finished) -> None:
    """Every file of the runs folder is 0600 at most, every folder 0700."""
    open_to_others = [
        str(path) for path in (finished.runs, *finished.runs.rglob("*"))
        if not path.is_symlink() and path.stat().st_mode & 0o077
    ]  # fmt: skip

    assert open_to_others == []


def test_nothing_that_is_loaded_can_execute_code(finished: Finished) -> None:
    """Weights are safetensors: no pickle, by name or by content, lies in the runs folder."""
    files = [path for path in finished.runs.rglob("*") if path.is_file()]

    assert [path.name for path in files if path.suffix in {".bin", ".pt", ".pth", ".pkl", ".pickle"}] == []
    # a pickle of protocol 2 and later begins with its opcode and ends with the stop opcode
    heads = [(path, path.read_bytes()) for path in files if "prefect" not in path.parts]
    assert [path.name for path, content in heads if content[:1] == b"\x80" and content[-1:] == b"."] == []
