"""The reading process: what a file does to it stays there."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from flows.corpus.isolate import Reader
from flows.corpus.limits import Limits
from flows.corpus.types import FileRef, Rejected, Text
from tests.unit.flows.corpus.documents import english

MIB = 2**20


@pytest.fixture
def good(tmp_path: Path) -> FileRef:
    path = tmp_path / "good.txt"
    path.write_text(english(1))
    return FileRef("good.txt", path, path.stat().st_size)


def ref(path: Path, raw: bytes) -> FileRef:
    path.write_bytes(raw)
    return FileRef(path.name, path, len(raw))


def reason(found: list[Text | Rejected]) -> str:
    (entry,) = found
    assert isinstance(entry, Rejected)
    return entry.reason


def readers() -> list[psutil.Process]:
    """Processes of readers; a test beside this one may have started others that stay."""
    return [child for child in psutil.Process().children() if "flows.corpus.isolate" in child.cmdline()]


def test_text_travels_unchanged(tmp_path: Path) -> None:
    """Every character and every field arrives, half characters replaced."""
    raw = '{"a": "\\ud800 😀 か\u3099 \\u0000"}'.encode() + b" " * 3000
    with Reader(Limits()) as reader:
        found = reader.read(ref(tmp_path / "a.json", raw))

    assert found == [Rejected("a.json", "not_text", "control character at character 7")]

    with Reader(Limits()) as reader:
        found = reader.read(ref(tmp_path / "a.json", raw.replace(b"\\u0000", b"")))

    assert found == [Text("a.json", "\ufffd 😀 か\u3099 ", "application/json", "utf-8")]


def test_dead_process_is_replaced(good: FileRef) -> None:
    """Its file is rejected with how it ended; the next file is read."""
    with Reader(Limits()) as reader:
        assert isinstance(reader.read(good)[0], Text)
        (child,) = readers()
        child.kill()

        assert reader.read(good) == [Rejected("good.txt", "reader_crashed", "the reader ended with signal 9")]
        assert isinstance(reader.read(good)[0], Text)


def test_endless_work_is_ended(tmp_path: Path, good: FileRef) -> None:
    """A page of elements within each other takes the parser quadratic time."""
    with Reader(Limits(seconds_per_file=5.0)) as reader:
        assert reason(reader.read(ref(tmp_path / "deep.html", b"<div>" * 400_000))) == "reader_timeout"
        assert isinstance(reader.read(good)[0], Text)


def test_hunger_for_memory_is_stopped(tmp_path: Path, good: FileRef) -> None:
    """One wide character makes a text four times its size: it is too large, and the next one is read."""
    raw = "😀".encode() + b"x" * 999 + b"\n"
    with Reader(Limits(memory_bytes=400 * MIB)) as reader:
        assert reason(reader.read(ref(tmp_path / "wide.txt", raw + (b"x" * 999 + b"\n") * 90_000))) == "too_large"
        assert isinstance(reader.read(good)[0], Text)


def test_large_text_needs_a_few_times_its_size(tmp_path: Path) -> None:
    """64 MiB of lines are read within 400 MiB of address space, the interpreter included."""
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        for seed in range(64):
            file.write((english(seed) * 2000)[: MIB - 1].encode() + b"\n")
    with Reader(Limits(memory_bytes=400 * MIB)) as reader:
        (entry,) = reader.read(FileRef("large.txt", path, path.stat().st_size))

    assert isinstance(entry, Text)
    assert len(entry.text) == 64 * MIB


def test_no_process_stays(good: FileRef) -> None:
    """The process ends with its context, and none is started for nothing."""
    with Reader(Limits()) as reader:
        reader.read(good)
    with Reader(Limits()):
        pass

    assert readers() == []
