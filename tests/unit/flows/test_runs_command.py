"""Listing and removing runs: what is kept, what goes, and that an opening of the test split is never forgotten."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flows.cli import main
from flows.openings import count_openings, openings_of
from flows.runs_command import find_garbage, find_runs, remove, table
from flows.store import Store, write_json

CODE = ("flows/errors.py",)
OLD_S = 100 * 86400.0
INGEST = {"corpus": "c"}


def _age(path: Path) -> None:
    then = time.time() - OLD_S
    for file in (*path.rglob("*"), path):
        os.utime(file, (then, then))


def _run(runs: Path, name: str, stages: dict[str, str], *, done: bool = True) -> Path:
    folder = runs / name
    folder.mkdir(parents=True)
    write_json(
        folder / "run.json", {"run_key": name, "created_at": "2027-01-04T07:00:00+09:00", "plan_sha256": "a" * 64}
    )
    rows = [{"name": stage, "key": key} for stage, key in stages.items()]
    write_json(folder / "result.json", {"verdict": {"code": "no_go"}, "stages": rows})
    if done:
        write_json(folder / "done.json", {})
    return folder


@pytest.fixture
def runs(tmp_path):
    """An old run with its own confirmation, a new one that shares ingest and sweep, stages older than both."""
    store = Store(tmp_path / "store")

    def make(name: str, **inputs: str) -> str:
        return store.run(name, inputs, CODE, lambda folder: write_json(folder / "x.json", 1)).key

    ingest = make("ingest", **INGEST)
    sweep = make("sweep", ingest=ingest, questions="q")
    old, new = make("confirm", sweep=sweep, threshold="1"), make("confirm", sweep=sweep, threshold="2")
    _run(tmp_path, "20260101-000000-aaaaaaaa", {"ingest": ingest, "sweep": sweep, "confirm": old})
    fresh = _run(tmp_path, "20270101-000000-bbbbbbbb", {"ingest": ingest, "sweep": sweep, "confirm": new})
    (tmp_path / "latest").symlink_to(fresh.name)
    for path in (tmp_path / "20260101-000000-aaaaaaaa", *store.root.glob("*-*")):
        _age(path)
    return tmp_path


def test_runs_are_listed_with_state_and_verdict(runs):
    """Done, waiting for MLflow, unfinished or damaged; one line each."""
    (runs / "20270101-000000-bbbbbbbb" / "spool").mkdir()
    (runs / "20270101-000000-bbbbbbbb" / "spool" / "000001.json").write_text("{}")
    _run(runs, "20270102-000000-cccccccc", {}, done=False)
    broken = _run(runs, "20270103-000000-dddddddd", {})
    (broken / "run.json").write_text("{")

    assert [run.state for run in find_runs(runs)] == ["done", "delivering", "unfinished", "damaged"]
    assert table(find_runs(runs)).splitlines()[1].split() == [
        "20260101-000000-aaaaaaaa", "2027-01-04T07:00", "aaaaaaaa", "done", "no_go"]  # fmt: skip


def test_only_what_nothing_rests_on_goes(runs):
    """The old run and its confirmation go; what the latest run needs stays, however old."""
    garbage = find_garbage(runs, 30)

    assert [path.name for path in garbage.runs] == ["20260101-000000-aaaaaaaa"]
    assert [path.name.split("-")[0] for path in garbage.stages] == ["confirm"]
    assert find_garbage(runs, 200).paths == []


def test_a_dry_run_removes_nothing(runs, capsys):
    """Without --delete every file stays, and each path is named."""
    before = sorted(runs.rglob("*"))

    assert main(["gc", "--runs-dir", str(runs)]) == 0
    assert sorted(runs.rglob("*")) == before
    assert "would remove 20260101-000000-aaaaaaaa" in capsys.readouterr().out


def test_a_removed_opening_is_still_counted(runs):
    """The test split was opened twice; removing the first confirmation does not make the second one the first."""
    (new,) = [run.stages for run in find_runs(runs) if run.path.name.startswith("2027")]
    key = next(name.removeprefix("confirm-") for name in new if name.startswith("confirm-"))
    store = runs / "store"
    assert count_openings(store, key) == 2

    assert main(["gc", "--runs-dir", str(runs), "--delete"]) == 0

    assert len(list(store.glob("confirm-*"))) == 1
    assert count_openings(store, key) == 2
    assert openings_of(store, INGEST, "q")[-1] == key
    assert len(find_runs(runs)) == 1


def test_undelivered_and_running_runs_are_kept(runs):
    """Records that MLflow lacks, and a run that another process holds, are no garbage."""
    old = runs / "20260101-000000-aaaaaaaa"
    (old / "spool").mkdir()
    (old / "spool" / "000001.json").write_text("{}")
    _age(old)

    assert find_garbage(runs, 30).paths == []


def test_nothing_outside_the_runs_folder_is_removed(runs, tmp_path_factory):
    """A link in the store is not followed."""
    outside = tmp_path_factory.mktemp("outside")
    (outside / "kept.txt").write_text("x")
    link = runs / "store" / "tune-0123456789abcdef"
    link.symlink_to(outside)
    os.utime(link, (0, 0), follow_symlinks=False)
    _age(outside)
    garbage = find_garbage(runs, 30)

    if link in garbage.stages:
        with pytest.raises(Exception, match="no folder of the runs folder"):
            remove(runs, garbage, lambda _: None)
    assert (outside / "kept.txt").exists()
