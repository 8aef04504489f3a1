"""What a person can put right ends in one message - what, where, what to do - and exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.cli import main
from tests.e2e.conftest import Finished, TinyPoc, run_cli, run_here, seed_prefect, snapshot

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _empty_corpus(poc: TinyPoc) -> dict[str, Any]:
    (poc.folder / "nothing").mkdir(exist_ok=True)
    return {"corpus": {"folder": "nothing"}}


def _short_corpus(poc: TinyPoc) -> dict[str, Any]:
    folder = poc.folder / "short"
    folder.mkdir(exist_ok=True)
    for number, word in enumerate(("alpha", "beta", "gamma", "delta")):
        (folder / f"{number}.txt").write_text(f"{word} {word[::-1]}\n", "utf-8")
    return {"corpus": {"folder": "short", "min_characters": 1}, "model": {"block_tokens": 1024}}


def _broken_questions(poc: TinyPoc) -> dict[str, Any]:
    lines = (poc.folder / "questions.jsonl").read_text("utf-8").splitlines()[:3]
    lines[1] = json.dumps(json.loads(lines[1]) | {"answer": 7})
    (poc.folder / "broken.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    return {"corpus": {"questions": "broken.jsonl"}}


def _unsupported_model(poc: TinyPoc) -> dict[str, Any]:
    (poc.folder / "foreign").mkdir(exist_ok=True)
    (poc.folder / "foreign" / "config.json").write_text('{"model_type": "bert"}', "utf-8")
    return {"model": {"base": {"source": "foreign"}}}


CASES: dict[str, tuple[Callable[[TinyPoc], dict[str, Any]], tuple[str, ...]]] = {
    "unknown setting": (lambda _: {"model": {"sweep": {"points": 3}}}, ("model.sweep.points", "bad.yaml")),
    "wrong type": (lambda _: {"model": {"dense_tune": {"steps": "many"}}}, ("model.dense_tune.steps", "many")),
    "out of range": (lambda _: {"corpus": {"test_share": 1.5}}, ("corpus.test_share", "1.5")),
    "no corpus folder": (lambda _: {"corpus": {"folder": "nowhere"}}, ("nowhere", "folder")),
    "empty corpus": (_empty_corpus, ("nothing", "corpus", "min_characters")),
    "too short corpus": (_short_corpus, ("corpus", "block_tokens")),
    "no glossary": (lambda _: {"corpus": {"glossary": "none.csv"}}, ("none.csv",)),
    "no price file": (lambda _: {"cost": {"prices": "none.yaml"}}, ("none.yaml",)),
    "broken questions": (_broken_questions, ("broken.jsonl:2", "answer")),
    "no package of the model": (
        lambda _: {"model": {"base": {"source": "package:no-such-model"}}},
        ("no-such-model", "make env"),
    ),
    "no folder of the model": (
        lambda _: {"model": {"base": {"source": "./missing"}}},
        ("missing", "model.base.source"),
    ),
    "unsupported model": (_unsupported_model, ("bert", "llama")),
    "unknown price": (lambda _: {"cost": {"price": "abacus"}}, ("abacus", "sakura-dok-h100")),
    "unknown price of the service": (lambda _: {"cost": {"api": "oracle"}}, ("oracle", "groq-llama-3.1-8b")),
}


def _one_message(text: str) -> None:
    """A message has one `error:` and neither a traceback nor a page of text."""
    assert text.count("error: ") == 1, text
    assert "Traceback" not in text
    message = text[text.index("error: ") :]
    assert len(message) < 900
    assert len(message.splitlines()) <= 8


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_in_one_message(
    tiny_poc: TinyPoc, variants: Path, case: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """The message names the setting or file and what to do; nothing is printed to stdout, and no stage is made."""
    change, expected = CASES[case]
    settings = tiny_poc.plan("bad.yaml", **change(tiny_poc))
    before = {path.name for path in (variants / "store").glob("*-*")}

    assert main(["run", "-c", str(settings), "--runs-dir", str(variants)]) == 2

    captured = capfd.readouterr()
    _one_message(captured.err)
    assert [part for part in expected if part not in captured.err] == []
    assert captured.out == ""
    finished = {path.name for path in (variants / "store").glob("*-*") if path.suffix != ".partial"}
    assert {name.split("-")[0] for name in finished - before} <= {"ingest", "base"}


def test_a_flag_never_overrules_the_registered_profile(
    tiny_poc: TinyPoc, variants: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """`--profile` that contradicts the plan is refused before anything starts."""
    settings = tiny_poc.plan("registered.yaml", profile="quick")

    assert main(["run", "-c", str(settings), "--profile", "full", "--runs-dir", str(variants)]) == 2

    text = capfd.readouterr().err
    _one_message(text)
    assert "quick" in text
    assert "full" in text


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount small disks, or skip and say how to run these tests."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        allowed = os.geteuid() == 0 and shutil.which("mount") is not None
        if not allowed or subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip("a small disk needs root: sudo make test ARGS=tests/e2e/test_poc_errors.py")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_runs_folder_is_named(
    tiny_poc: TinyPoc, small_disk: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Without the right to write, the message names the folder and --runs-dir."""
    runs = small_disk("ro,size=1m") / "runs"

    assert main(["run", "-c", str(tiny_poc.plan()), "--runs-dir", str(runs)]) == 2

    text = capfd.readouterr().err
    _one_message(text)
    assert str(runs) in text
    assert "--runs-dir" in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; run: make test as an ordinary user")
def test_a_runs_folder_of_somebody_else_is_named(tiny_poc: TinyPoc, tmp_path: Path) -> None:
    """An ordinary user gets the same message for a folder without write permission."""
    (tmp_path / "closed").mkdir(mode=0o500)
    done = run_cli(tiny_poc.plan(), tmp_path / "closed" / "runs", "--quiet")

    assert done.returncode == 2
    _one_message(done.stdout)
    assert "--runs-dir" in done.stdout


def test_a_full_disk_loses_nothing(finished: Finished, small_disk: Callable[[str], Path], tmp_path: Path) -> None:
    """The disk fills up while the dense model is tuned: one message; with room again, the same command ends well."""
    disk = small_disk("size=64m")
    runs, ballast = disk / "runs", disk / "ballast"
    seed_prefect(finished.runs, runs / "prefect")
    env = {"SKIP_POC_TEST_FILL_AT": "*/dense-tune-*.partial", "SKIP_POC_TEST_BALLAST": str(ballast)}
    # the output goes to the disk that is not full
    done = run_cli(finished.settings, runs, "--quiet", env=env, output=tmp_path / "output.txt")
    assert ballast.stat().st_size > 0
    kept = snapshot(runs / "store").items()
    before = {name: value for name, value in kept if not name.startswith(".") and ".partial/" not in name}

    assert done.returncode == 2, done.stdout
    _one_message(done.stdout)
    assert "the disk is full" in done.stdout
    assert "finished stages are kept" in done.stdout
    assert {name.split("-")[0] for name in before} == {"ingest", "base"}

    ballast.unlink()
    run_here(finished.settings, runs)
    assert snapshot(runs / "store").items() >= before.items()
    assert (runs / "latest" / "report.html").is_file()
