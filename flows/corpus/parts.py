"""Files that were read before: per file the cleaned and masked texts, so that a second run reads only what is new.

A part is named by the hash of the file's bytes and its suffix, in a folder named by the settings that decide the
text. Its first line holds the rows and the size of each text; the texts follow, one after the other, in UTF-8. What
is written here is masked already.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.corpus.names import suffix_of
from flows.corpus.types import FileRef, Rejected

__all__ = ["Parts", "ReadFile", "Row", "locked"]

PASSING = frozenset({"unreadable", "reader_crashed", "reader_timeout"})
"""Reasons that another run may not meet: such a file is read again."""
CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept of a text in memory while the text itself lies in its part."""

    source: str
    n_bytes: int
    """Size of the file, or of the text in UTF-8 where a file gives several. [bytes]"""
    media_type: str
    encoding: str | None
    language: str
    n_characters: int
    text_hash: str
    """Equal for texts that differ in white space, width and case only."""
    signature: bytes | None
    """MinHash signature; None for a text that is too short for one."""
    private: dict[str, int]
    """How often each kind of personal or secret data was masked."""


@dataclass(frozen=True, slots=True)
class ReadFile:
    """What came of one file: rows of its texts, and what of it is not used."""

    source: str
    sha256: str
    """Hash of the file's bytes; empty where they could not be read."""
    part: str
    """Name of the part that holds the texts; empty where nothing was kept."""
    rows: tuple[Row, ...]
    rejected: tuple[Rejected, ...]


@dataclass(frozen=True)
class Parts:
    """The parts of one corpus folder read with one set of settings.

    Args:
        folder: The corpus folder's place in the cache.
        fingerprint: Hash of everything but the file that decides its texts: settings and code.
    """

    folder: Path
    fingerprint: str

    def name(self, ref: FileRef) -> tuple[str, str]:
        """Return the hash of a file's bytes, and the name of its part.

        Raises:
            OSError: The file cannot be read.
        """
        digest = hashlib.sha256()
        # no link that was put in its place since
        with os.fdopen(os.open(ref.path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
        sha256 = digest.hexdigest()
        # the suffix decides how the bytes are read
        suffix = hashlib.sha256(suffix_of(ref.source).encode()).hexdigest()[:8]
        return sha256, f"{sha256}-{suffix}"

    def find(self, source: str, sha256: str, part: str) -> ReadFile | None:
        """Return what is known of a file that was read before, or None."""
        try:
            with self._path(part).open("rb") as file:
                head = json.loads(file.readline())
        except FileNotFoundError:
            return None
        rows = tuple(_row(values, source) for values in head["rows"])
        rejected = tuple(Rejected(source + tail, reason, detail) for tail, reason, detail in head["rejected"])
        return ReadFile(source, sha256, part, rows, rejected)

    def keep(self, read: ReadFile, texts: Sequence[str]) -> None:
        """Write the part of a file, unless nothing came of it and another run may read it better."""
        if not read.rows and any(entry.reason in PASSING for entry in read.rejected):
            return
        start = len(read.source)
        rows = [_values(row) | {"source": row.source[start:]} for row in read.rows]
        rejected = [[entry.source[start:], entry.reason, entry.detail] for entry in read.rejected]
        path = self._path(read.part)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        raw = [text.encode() for text in texts]
        head = {"rows": rows, "rejected": rejected, "sizes": list(map(len, raw))}
        with partial.open("wb") as file:
            file.writelines((json.dumps(head, ensure_ascii=False).encode() + b"\n", *raw))
        os.replace(partial, path)

    def texts(self, part: str) -> Iterator[str]:
        """Yield the texts of a part, in the order of its rows."""
        with self._path(part).open("rb") as file:
            for size in json.loads(file.readline())["sizes"]:
                yield file.read(size).decode()

    def forget_all_but(self, used: set[str]) -> None:
        """Remove the parts of files that are gone, and those of other settings: no text outlives its file here."""
        with contextlib.suppress(FileNotFoundError):
            for other in self.folder.iterdir():
                if other.is_dir() and other.name != self.fingerprint:
                    shutil.rmtree(other)
        for path in (self.folder / self.fingerprint).glob("*/*"):
            if path.name not in used:
                path.unlink(missing_ok=True)

    def _path(self, part: str) -> Path:
        return self.folder / self.fingerprint / part[:2] / part


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Let one process at a time work on a corpus folder's place in the cache; the others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _values(row: Row) -> dict[str, Any]:
    values = dataclasses.asdict(row)
    return values | {"signature": None if row.signature is None else row.signature.hex()}


def _row(values: dict[str, Any], source: str) -> Row:
    signature = values["signature"]
    decoded = None if signature is None else bytes.fromhex(signature)
    return Row(**{**values, "source": source + values["source"], "signature": decoded})
