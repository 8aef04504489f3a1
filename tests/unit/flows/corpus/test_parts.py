"""The cache of read files: what goes in comes out, under any name of the file, and nothing outlives its file."""

from pathlib import Path

import pytest

from flows.corpus.parts import Parts, ReadFile, Row, locked
from flows.corpus.types import FileRef, Rejected


def _ref(path: Path, content: str = "content") -> FileRef:
    path.write_text(content, "utf-8")
    return FileRef(path.name, path, path.stat().st_size)


def _row(source: str) -> Row:
    return Row(source, 7, "text/plain", "utf-8", "ja", 3, "abc", bytes(range(16)), {"EMAIL": 2})


def _kept(parts: Parts, ref: FileRef, *tails: str, reason: str = "empty") -> ReadFile:
    sha256, name = parts.name(ref)
    rows = tuple(_row(ref.source + tail) for tail in tails)
    rejected = (Rejected(f"{ref.source}!/9", reason, "detail"),)
    read = ReadFile(ref.source, sha256, name, rows, rejected)
    parts.keep(read, [f"text of {tail}\nline two" for tail in tails])
    return read


def test_a_part_gives_back_rows_rejections_and_texts(tmp_path: Path) -> None:
    """Everything that is needed of a file later is in its part."""
    parts = Parts(tmp_path / "cache", "f1")
    read = _kept(parts, _ref(tmp_path / "mail.mbox"), "!/0", "!/1")

    assert parts.find(read.source, read.sha256, read.part) == read
    assert list(parts.texts(read.part)) == ["text of !/0\nline two", "text of !/1\nline two"]


def test_a_renamed_file_is_known_under_its_new_name(tmp_path: Path) -> None:
    """The content names the part; sources in it follow the file. Another suffix is read in another way."""
    parts = Parts(tmp_path / "cache", "f1")
    _kept(parts, _ref(tmp_path / "old.txt"), "")
    moved = _ref(tmp_path / "new.txt")
    found = parts.find(moved.source, *parts.name(moved))

    assert found is not None
    assert [row.source for row in found.rows] == ["new.txt"]
    assert [entry.source for entry in found.rejected] == ["new.txt!/9"]
    other = _ref(tmp_path / "new.html")
    assert parts.find(other.source, *parts.name(other)) is None


def test_changed_bytes_and_other_settings_are_unknown(tmp_path: Path) -> None:
    """A part answers for one content and one set of settings."""
    parts = Parts(tmp_path / "cache", "f1")
    read = _kept(parts, _ref(tmp_path / "a.txt"), "")

    assert Parts(tmp_path / "cache", "f2").find(read.source, read.sha256, read.part) is None
    changed = _ref(tmp_path / "a.txt", "changed")
    assert parts.find(changed.source, *parts.name(changed)) is None


@pytest.mark.parametrize("reason", ["unreadable", "reader_crashed", "reader_timeout"])
def test_a_failure_that_may_pass_is_not_kept(tmp_path: Path, reason: str) -> None:
    """A busy machine today must not decide about a file for ever; a damaged file stays damaged."""
    parts = Parts(tmp_path / "cache", "f1")
    passing = _kept(parts, _ref(tmp_path / "a.pdf"), reason=reason)
    lasting = _kept(parts, _ref(tmp_path / "b.pdf", "other"), reason="damaged")

    assert parts.find(passing.source, passing.sha256, passing.part) is None
    assert parts.find(lasting.source, lasting.sha256, lasting.part) == lasting


def test_no_text_outlives_its_file(tmp_path: Path) -> None:
    """Parts of files that are gone, and parts of other settings, are removed."""
    cache = tmp_path / "cache"
    _kept(Parts(cache, "old"), _ref(tmp_path / "a.txt"), "")
    parts = Parts(cache, "f1")
    kept = _kept(parts, _ref(tmp_path / "a.txt"), "")
    _kept(parts, _ref(tmp_path / "b.txt", "gone"), "")
    parts.forget_all_but({kept.part})

    assert [path.name for path in cache.rglob("*") if path.is_file()] == [kept.part]


def test_one_process_at_a_time_works_on_a_folder(tmp_path: Path) -> None:
    """While it is locked, the lock file cannot be locked again."""
    import fcntl

    with (
        locked(tmp_path / "place"),
        (tmp_path / "place" / ".lock").open("w") as other,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
