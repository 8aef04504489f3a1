"""Rules about the tree itself: sizes, targets, no trace of the machine it was made on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_LINES = 400
ROOMS = ("flows", "kpis", "reports", "skipmodel", "tests")

_MACHINE_PATH = re.compile(rb"(?<![\w.$}])/(?:root|work|home/[a-z][\w-]*|opt/(?:wheels|pypi))(?:/|\b)[\w.-]*")


def tracked_files() -> list[Path]:
    """Return the files that are, or are about to be, in the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        # an unpacked archive without git: what belongs to the tree
        folders = (ROOT / name for name in (*ROOMS, ".ci"))
        found = [*ROOT.glob("*"), *(path for folder in folders for path in folder.rglob("*"))]
        return [path for path in found if path.is_file() and "__pycache__" not in path.parts]
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def test_python_files_stay_small():
    """About 150 lines, never above 400: a larger file holds two ideas."""
    sizes = {
        str(path.relative_to(ROOT)): path.read_text("utf-8").count("\n")
        for room in ROOMS
        for path in (ROOT / room).rglob("*.py")
    }

    assert len(sizes) > 20
    assert {name: size for name, size in sizes.items() if size > MAX_LINES} == {}


def test_rooms_are_two_folders_deep_at_most():
    """Nobody should have to dig for a module."""
    deep = [
        str(path.relative_to(ROOT))
        for room in ROOMS[:4]
        for path in (ROOT / room).rglob("*.py")
        if len(path.relative_to(ROOT).parts) > 3
    ]

    assert deep == []


def test_every_make_target_is_explained():
    """Bare `make` prints a line for each target that people may call."""
    text = (ROOT / "Makefile").read_text("utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    explained = re.findall(r"^([a-z-]+):.*## \S", text, re.MULTILINE)

    assert sorted(set(phony.split()) - {"FORCE"}) == sorted(explained)


def test_make_prints_its_targets():
    """The default target is the help and changes nothing."""
    out = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert "make poc " in out
    assert "make test " in out


@pytest.mark.parametrize("name", ["env", "run"])
def test_scripts_are_sound_shell(name):
    """The scripts parse, and stop at the first failure."""
    script = ROOT / ".ci" / name
    subprocess.run(["bash", "-n", str(script)], check=True)

    assert "set -euo pipefail" in script.read_text("utf-8")


def test_no_path_of_a_machine_is_committed():
    """A path of the machine that wrote a file breaks on every other one, and tells of it."""
    found = {}
    for path in tracked_files():
        content = path.read_bytes()
        corpus = "corpus" in path.parts  # the sample text speaks of paths, as manuals do
        if b"\0" not in content and not corpus and path != Path(__file__).resolve():
            hits = {hit.decode() for hit in _MACHINE_PATH.findall(content)}
            if hits:
                found[str(path.relative_to(ROOT))] = hits

    assert found == {}
