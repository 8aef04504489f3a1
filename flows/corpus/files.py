"""From a folder to its files: safely, in the order of their paths, archives unpacked, nothing left out in silence."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from flows.corpus.formats import ARCHIVES, MEDIA_TYPES, supported
from flows.corpus.isolate import Reader
from flows.corpus.limits import Limits
from flows.corpus.names import is_lock_file, source_of, suffix_of
from flows.corpus.types import FileRef, Rejected
from flows.errors import PocError

__all__ = ["source_of", "walk"]


def walk(folder: Path, work: Path, limits: Limits) -> Iterator[FileRef | Rejected]:
    """Yield every file below a folder, or why it is not used.

    Links are not followed, so no loop is entered and nothing outside the folder is read. An archive is replaced by
    its members, which are files in ``work`` until the caller removes them.

    Args:
        folder: The corpus folder.
        work: Existing folder for the members of archives.
        limits: Of sizes and of archives.

    Raises:
        PocError: The folder does not exist.
    """
    if not folder.is_dir():
        raise PocError("the corpus folder does not exist", where=str(folder), todo="give a folder with documents")
    with Reader(limits) as reader:
        for entry in _entries(folder):
            if isinstance(entry, FileRef) and suffix_of(entry.source) in ARCHIVES:
                yield from reader.unpack(entry, work)
            elif isinstance(entry, FileRef):
                yield _checked(entry, limits)
            else:
                yield entry


def _entries(folder: Path) -> Iterator[FileRef | Rejected]:
    refused: list[Rejected] = []

    def refuse(error: OSError) -> None:
        source = source_of(Path(error.filename), folder)
        refused.append(Rejected(source, "unreadable", error.strerror or type(error).__name__))

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in sorted([*names, *links]):
            path = Path(parent) / name
            yield _entry(path, source_of(path, folder))
        yield from refused
        refused.clear()
    yield from refused


def _entry(path: Path, source: str) -> FileRef | Rejected:
    try:
        status = path.lstat()
    except OSError as error:
        return Rejected(source, "unreadable", error.strerror or type(error).__name__)
    if stat.S_ISLNK(status.st_mode):
        return Rejected(source, "symbolic_link", "only regular files are read")
    if not stat.S_ISREG(status.st_mode):
        return Rejected(source, "special_file", "only regular files are read")
    return FileRef(source, path, status.st_size)


def _checked(ref: FileRef, limits: Limits) -> FileRef | Rejected:
    suffix = suffix_of(ref.source)
    if is_lock_file(ref.path.name):
        return Rejected(ref.source, "lock_file", "an Office program left it behind")
    if suffix not in MEDIA_TYPES:
        return Rejected(ref.source, "unsupported_type", f"expected one of {supported()}, got {suffix or 'none'}")
    if ref.n_bytes > limits.max_file_bytes:
        return Rejected(ref.source, "too_large", f"{ref.n_bytes} bytes, more than {limits.max_file_bytes}")
    return ref
