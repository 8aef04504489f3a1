"""The bench's arithmetic and its output; the times themselves are nobody's business here."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import __main__ as bench
from tests.benchmarks.record import file_name, record
from tests.unit.reports import fixtures

TIMES = {"first_run_s": 612.3456, "second_run_s": 14.0, "peak_rss_gib": 3.14159, "cpu": "Xeon", "is_dirty": False}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


@pytest.fixture
def result() -> dict[str, Any]:
    """A hand-made result on a CPU."""
    return fixtures.functional_check_no_go()


def test_a_document_holds_what_a_comparison_needs(result: dict[str, Any]) -> None:
    """Stages in order, decode rows alone, hardware, versions, commit, hashes; it is JSON."""
    document = record(result, **TIMES)

    assert [row["name"] for row in document["stages"]] == [row["name"] for row in result["stages"]]
    assert document["stages"][1] == {"name": "dense-tune", "seconds": 141.2}
    assert len(document["decode"]) == sum(row["phase"] == "decode" for row in result["speed"]) > 0
    assert document["decode"][3]["measured_speedup"] == result["speed"][3]["measured_speedup"]
    assert (document["first_run_s"], document["peak_rss_gib"]) == (612.35, 3.142)
    assert document["hardware"] | {"device": "cpu", "cores": 2, "cpu": "Xeon"} == document["hardware"]
    assert set(document["versions"]) == {"python", "torch", "transformers", "mlflow", "numpy", "prefect"}
    assert document["settings_sha256"] == result["run"]["plan_sha256"]
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_no_path_of_the_machine_is_in_it(result: dict[str, Any]) -> None:
    """The source of the model, folders and addresses stay out."""
    result["model"]["source"] = "/srv/models/base"
    document = record(result, **TIMES)

    assert [text for text in _texts(document) if re.search(r"(^|\s)[/~]\w|://|[A-Z]:\\", text)] == []


@pytest.mark.parametrize(
    ("device", "name", "commit", "expected"),
    [
        ("cpu", "Intel(R) Xeon(R) 2.20GHz", "0123456789abcdef", "stages_2026-11-24_0123456789_cpu.json"),
        ("cuda", "NVIDIA H100 80GB HBM3", None, "stages_2026-11-24_nocommit_nvidia-h100-80gb-hbm3.json"),
    ],
)
def test_file_names_tell_date_commit_and_device(device: str, name: str, commit: str | None, expected: str) -> None:
    """A CPU is `cpu`, whatever its name; a GPU has its own."""
    hardware = {"device": device, "device_name": name}
    assert file_name({"date": "2026-11-24", "commit": commit, "hardware": hardware}) == expected


def test_the_last_line_of_stdout_is_the_document(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs of the same command; the file in the history and the last line say the same."""
    calls: list[tuple[Path, Path]] = []

    def run_once(config: Path, runs: Path) -> float:
        calls.append((config, runs))
        (runs / "latest").mkdir(parents=True, exist_ok=True)
        (runs / "latest" / "result.json").write_text(json.dumps(result), "utf-8")
        return 600.0 / len(calls)

    monkeypatch.setattr(bench, "run_once", run_once)
    assert bench.main(["--config", str(tmp_path / "poc.yaml"), "--history", str(tmp_path / "history")]) == 0

    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    (path,) = (tmp_path / "history").iterdir()
    assert json.loads(path.read_text("utf-8")) == document
    assert path.name == file_name(document)
    assert (document["first_run_s"], document["second_run_s"]) == (600.0, 300.0)
    assert calls[0] == calls[1]
    assert not calls[0][1].exists()


def test_a_failed_run_leaves_no_history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit code of the run is that of the bench, and nothing is written."""
    monkeypatch.setattr(bench.sys, "executable", "false")

    with pytest.raises(SystemExit) as caught:
        bench.main(["--config", str(tmp_path / "poc.yaml"), "--history", str(tmp_path / "history")])
    assert caught.value.code == 1
    assert not (tmp_path / "history").exists()
