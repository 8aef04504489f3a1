from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import time
from pathlib import Path

import pytest

from flows import store as module
from flows.errors import PocError
from flows.store import RunFolder, Store, read_json, sha256_code, sha256_file, sha256_folder, sha256_json, write_json

CODE = ("flows/errors.py",)
RUN = {"plan_sha256": "a" * 64, "code_sha256": "b" * 64, "input_sha256": {"corpus": "c" * 64}}


def _compute(folder: Path) -> None:
    write_json(folder / "out.json", {"value": 1})


def test_finished_stage_is_not_computed_again(tmp_path):
    """The second call finds the folder, the time of the first, and computes nothing."""
    store = Store(tmp_path)

    first = store.run("tune", {"steps": 3}, CODE, _compute)
    second = store.run("tune", {"steps": 3}, CODE, lambda folder: pytest.fail("computed twice"))

    assert (first.reused, second.reused) == (False, True)
    assert (second.path, second.key, second.seconds) == (first.path, first.key, first.seconds)
    assert read_json(second.path / "out.json") == {"value": 1}
    assert store.find("tune", {"steps": 3}, CODE) == second


def test_key_follows_inputs_name_and_code(tmp_path, monkeypatch):
    """Another input, name or source text is another stage; the order of the inputs is not."""
    store = Store(tmp_path)
    key = store.key("tune", {"a": 1, "b": 2}, CODE)

    assert key == store.key("tune", {"b": 2, "a": 1}, CODE)
    assert key != store.key("tune", {"a": 1, "b": 3}, CODE)
    assert key != store.key("other", {"a": 1, "b": 2}, CODE)
    assert key != store.key("tune", {"a": 1, "b": 2}, ("flows/store.py",))


def test_code_hash_covers_a_whole_room(tmp_path, monkeypatch):
    """A changed source, text catalog or template anywhere in the room changes the hash; notes and samples do not."""
    (tmp_path / "room" / "deep").mkdir(parents=True)
    source = tmp_path / "room" / "deep" / "a.py"
    source.write_text("x = 1\n")
    monkeypatch.setattr(module, "CODE_ROOT", tmp_path)

    def fresh_hash():
        sha256_code.cache_clear()
        return sha256_code(("room",))

    first = fresh_hash()
    (tmp_path / "room" / "README.md").write_text("notes\n")
    (tmp_path / "room" / "sample").mkdir()
    (tmp_path / "room" / "sample" / "poc.yaml").write_text("x: 1\n")
    assert fresh_hash() == first
    (tmp_path / "room" / "deep" / "page.j2").write_text("<p>\n")
    second = fresh_hash()
    assert second != first
    source.write_text("x = 2\n")
    assert fresh_hash() not in (first, second)
    with pytest.raises(FileNotFoundError):
        sha256_code(("nowhere.py",))
    sha256_code.cache_clear()


def test_folder_hash_follows_no_link_and_takes_any_name(tmp_path):
    """What lies outside a folder has no part in its hash; a name in an old encoding has."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    first = sha256_folder(folder)
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    (folder / "outside.txt").symlink_to(tmp_path / "outside.txt")
    (tmp_path / "outside.txt").write_text("x")
    assert sha256_folder(folder) == first

    (folder / "資料.txt".encode("cp932").decode("utf-8", "surrogateescape")).write_text("b")
    assert sha256_folder(folder) != first


def test_interrupted_stage_goes_on_from_its_files(tmp_path):
    """What a stopped computation wrote is there at the next attempt, and the stage is not finished before."""
    store = Store(tmp_path)

    def stopped(folder: Path) -> None:
        write_json(folder / "row-0.json", 0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.run("sweep", {}, CODE, stopped)
    assert store.find("sweep", {}, CODE) is None

    seen = []
    result = store.run("sweep", {}, CODE, lambda folder: seen.extend(p.name for p in folder.iterdir()))

    assert seen == ["row-0.json"]
    assert read_json(result.path / "stage.json")["resumed"] is True
    assert sorted(p.name for p in result.path.iterdir()) == ["row-0.json", "stage.json"]


def _compute_slowly(root: str, started, computed) -> None:
    def compute(folder: Path) -> None:
        started.set()
        time.sleep(0.3)
        with computed.get_lock():
            computed.value += 1

    Store(Path(root)).run("slow", {}, CODE, compute)


def test_second_process_waits_and_reuses(tmp_path):
    """Two runs at once do not work on the same stage: the second waits and takes the result."""
    context = multiprocessing.get_context("fork")
    started, computed = context.Event(), context.Value("i", 0)
    other = context.Process(target=_compute_slowly, args=(str(tmp_path), started, computed))
    other.start()
    assert started.wait(30)
    waited = []

    result = Store(tmp_path, on_wait=waited.append).run("slow", {}, CODE, lambda folder: pytest.fail("twice"))
    other.join(30)

    assert result.reused
    assert waited == ["slow"]
    assert computed.value == 1


@pytest.mark.parametrize(("code", "expected"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "no permission")])
def test_disk_errors_are_told_and_nothing_is_lost(tmp_path, code, expected):
    """A full or forbidden disk says where and what to do; the partial folder stays."""

    def compute(folder: Path) -> None:
        write_json(folder / "kept.json", 1)
        raise OSError(code, os.strerror(code))

    with pytest.raises(PocError, match=expected):
        Store(tmp_path).run("tune", {}, CODE, compute)

    (partial,) = tmp_path.glob("tune-*.partial")
    assert (partial / "kept.json").exists()


def test_full_disk_without_errno_is_recognised(tmp_path, monkeypatch):
    """A full disk that torch reports as a RuntimeError is told by the free space."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage._replace(free=4096))

    def compute(folder: Path) -> None:
        raise RuntimeError("file write failed")

    with pytest.raises(PocError, match="the disk is full"):
        Store(tmp_path).run("tune", {}, CODE, compute)


def test_defect_keeps_its_own_error(tmp_path):
    """An error that is not about the disk is not renamed."""

    def compute(folder: Path) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Store(tmp_path).run("tune", {}, CODE, compute)


def test_json_is_sorted_utf8_and_refuses_nan(tmp_path):
    """Files are the same bytes for the same value; a missing number must be null."""
    path = tmp_path / "x.json"

    write_json(path, {"b": "日本語", "a": (1, 2)})

    assert path.read_text("utf-8") == '{\n "a": [\n  1,\n  2\n ],\n "b": "日本語"\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path)["b"] == "日本語"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_unreadable_json_names_the_file(tmp_path):
    """A missing or broken file is told by name."""
    with pytest.raises(PocError, match=r"gone\.json is missing"):
        read_json(tmp_path / "gone.json")
    (tmp_path / "cut.json").write_text('{"a": ')
    with pytest.raises(PocError, match=r"cut\.json is not valid JSON"):
        read_json(tmp_path / "cut.json")


def test_hashes_are_the_usual_ones(tmp_path):
    """Anybody can check them with sha256sum."""
    (tmp_path / "abc").write_bytes(b"abc")

    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea")
    assert sha256_json({"b": 1, "a": [1, None]}) == sha256_json(json.loads('{"a":[1,null],"b":1}'))


def test_run_folder_is_taken_again_for_the_same_plan(tmp_path):
    """The same plan, code and inputs go on in their folder; any difference makes a new one."""
    first = RunFolder.open(tmp_path, **RUN)
    again = RunFolder.open(tmp_path, **RUN)
    other = RunFolder.open(tmp_path, **{**RUN, "code_sha256": "d" * 64})

    assert (first.reused, again.reused, other.reused) == (False, True, False)
    assert (again.path, again.created_at) == (first.path, first.created_at)
    assert other.path != first.path
    assert first.id.endswith("-aaaaaaaa")


def test_newest_matching_folder_wins(tmp_path):
    """Of several folders of one plan the newest is taken."""
    first = RunFolder.open(tmp_path, **RUN)
    newer = tmp_path / f"29990101-000000-{'a' * 8}"
    shutil.copytree(first.path, newer)

    assert RunFolder.open(tmp_path, **RUN).path == newer


def test_latest_moves_atomically(tmp_path):
    """`latest` follows the newest run, also when it exists; a real folder of that name is not touched."""
    first = RunFolder.open(tmp_path, **RUN)
    other = RunFolder.open(tmp_path, **{**RUN, "plan_sha256": "e" * 64})

    assert first.make_latest().resolve() == first.path
    assert other.make_latest().resolve() == other.path
    assert os.readlink(tmp_path / "latest") == other.id

    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    with pytest.raises(PocError, match="is a folder"):
        first.make_latest()
