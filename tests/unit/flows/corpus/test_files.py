"""From a folder to its files: nothing is left out in silence, nothing leads outside."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.corpus import files
from flows.corpus.isolate import Reader
from flows.corpus.limits import Limits
from flows.corpus.reasons import REASONS
from flows.corpus.types import FileRef, Rejected
from flows.errors import PocError
from tests.unit.flows.corpus import documents as make
from tests.unit.flows.corpus.hostile import make_tree

GOOD = make.english(1).encode()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    return folder


def reasons(found: Iterator[FileRef | Rejected]) -> dict[str, str]:
    return {entry.source: entry.reason if isinstance(entry, Rejected) else "" for entry in found}


@pytest.mark.slow
def test_every_file_of_a_hostile_tree_is_accounted_for(tmp_path: Path, work: Path) -> None:
    """Ordinary files of every type give their text, hostile ones their reason, each source once."""
    expected = make_tree(tmp_path / "corpus")
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(work)}
    limits = Limits()
    got: dict[str, str] = {}
    with Reader(limits) as reader:
        for entry in files.walk(tmp_path / "corpus", work, limits):
            for found in [entry] if isinstance(entry, Rejected) else reader.read(entry):
                assert found.source not in got
                got[found.source] = found.reason if isinstance(found, Rejected) else found.media_type

    assert got == expected
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(work)} == before
    assert {reason for reason in got.values() if "/" not in reason} <= REASONS.keys()


def test_folder_that_is_not_there(tmp_path: Path, work: Path) -> None:
    """The person who named it is told so."""
    with pytest.raises(PocError, match="does not exist"):
        list(files.walk(tmp_path / "nowhere", work, Limits()))


def test_order_is_that_of_the_paths(corpus: Path, work: Path) -> None:
    """Two runs meet the files in the same order, whatever order the disk has."""
    for name in ("b/2.txt", "b/1.txt", "a/3.txt", "z.txt", "c.txt"):
        (corpus / name).parent.mkdir(exist_ok=True)
        (corpus / name).write_bytes(GOOD)

    assert list(reasons(files.walk(corpus, work, Limits()))) == ["c.txt", "z.txt", "a/3.txt", "b/1.txt", "b/2.txt"]


def test_folder_that_may_not_be_read(corpus: Path, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in quarantine as a whole; the superuser of a test machine is never refused, so it is imitated."""
    (corpus / "closed").mkdir()
    scandir = os.scandir

    def guarded(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert reasons(files.walk(corpus, work, Limits())) == {"closed": "unreadable"}


def test_names_in_old_encodings(corpus: Path, work: Path) -> None:
    """Names in CP932, on disk and in archives of Windows, are read as such; others are escaped."""
    (Path(os.fsdecode(os.fsencode(corpus) + b"/" + "資料.txt".encode("cp932")))).write_bytes(GOOD)
    (Path(os.fsdecode(os.fsencode(corpus) + b"/\xff\xfe.txt"))).write_bytes(GOOD)
    raw = make.zip_bytes({"XXXX.txt": GOOD})
    (corpus / "win.zip").write_bytes(raw.replace(b"XXXX", "資料".encode("cp932")))

    assert set(reasons(files.walk(corpus, work, Limits()))) == {"資料.txt", "\\xff\\xfe.txt", "win.zip!/資料.txt"}


def test_files_that_no_reader_is_asked_for(corpus: Path, work: Path) -> None:
    """Unknown types, lock files and files beyond the limit are known by name and size."""
    for name in ("a.mp4", "noname", "~$a.docx", "large.txt"):
        (corpus / name).write_bytes(GOOD)

    assert reasons(files.walk(corpus, work, Limits(max_file_bytes=10))) == {
        "a.mp4": "unsupported_type",
        "large.txt": "too_large",
        "noname": "unsupported_type",
        "~$a.docx": "lock_file",
    }


def test_archive_members_keep_their_text_and_suffix(corpus: Path, work: Path) -> None:
    """Each member is a file in the working folder; two of one name are told apart."""
    with zipfile.ZipFile(corpus / "a.zip", "w") as archive:
        archive.writestr("x/a.md", "one")
        archive.mkdir("empty")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("x/a.md", "two")
    found = list(files.walk(corpus, work, Limits()))

    assert [entry.source for entry in found] == ["a.zip!/x/a.md", "a.zip!/x/a (2).md"]
    paths = [entry.path for entry in found if isinstance(entry, FileRef)]
    assert [path.read_text() for path in paths] == ["one", "two"]
    assert all(path.is_relative_to(work) and path.suffix == ".md" for path in paths)


def test_archive_limits(corpus: Path, work: Path) -> None:
    """Too many members, too many bytes, one member too large, and a ratio no text has."""
    members = {f"{n}.txt": GOOD for n in range(10)}
    (corpus / "a.zip").write_bytes(make.zip_bytes(members))

    assert reasons(files.walk(corpus, work, Limits(max_archive_members=9))) == {"a.zip": "archive_bomb"}
    assert reasons(files.walk(corpus, work, Limits(max_archive_bytes=len(GOOD) * 9))) == {"a.zip": "archive_bomb"}
    assert set(reasons(files.walk(corpus, work, Limits(max_file_bytes=10))).values()) == {"too_large"}


def test_bomb_within_an_archive_spares_the_other_members(corpus: Path, work: Path) -> None:
    """Only the inner archive is refused, and what is unpacked counts for both."""
    bomb = make.zip_bytes({"zeros.txt": b"0" * (64 * 2**20)})
    (corpus / "a.zip").write_bytes(make.zip_bytes({"good.txt": GOOD, "bomb.zip": bomb}))

    assert reasons(files.walk(corpus, work, Limits())) == {"a.zip!/good.txt": "", "a.zip!/bomb.zip": "archive_bomb"}


def test_archive_with_a_password_or_a_fault(corpus: Path, work: Path) -> None:
    """A member that needs a password is encrypted; one whose checksum is wrong is damaged; the others are read."""
    raw = bytearray(make.zip_bytes({"a.txt": GOOD, "b.txt": GOOD}))
    encrypted = bytearray(raw)
    encrypted[encrypted.find(b"PK\x01\x02") + 8] |= 1
    (corpus / "locked.zip").write_bytes(encrypted)
    faulty = bytearray(raw)
    faulty[60] ^= 0xFF
    (corpus / "faulty.zip").write_bytes(faulty)

    assert reasons(files.walk(corpus, work, Limits())) == {
        "faulty.zip!/a.txt": "damaged",
        "faulty.zip!/b.txt": "",
        "locked.zip!/a.txt": "encrypted",
        "locked.zip!/b.txt": "",
    }
