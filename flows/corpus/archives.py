"""Unpacks a zip file into a working folder, under names of its own, within limits.

The names that an archive gives its members are used in the manifest only, never as paths.
"""

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path, PurePosixPath

from flows.corpus.formats import ARCHIVES, MEDIA_TYPES, supported
from flows.corpus.limits import HARMLESS_BYTES, Limits
from flows.corpus.names import escapes, is_lock_file, member_name, suffix_of, unused
from flows.corpus.reasons import Refused
from flows.corpus.types import FileRef, Rejected

__all__ = ["unpack"]

ENCRYPTED = 0x1
CHUNK = 2**20
DAMAGED = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, NotImplementedError, ValueError, RuntimeError)
"""What ``zipfile`` raises on archives that are broken or use what it does not know."""


class _Budget:
    """What an archive and the archives in it may still unpack to."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        allowed = max(limits.max_archive_ratio * archive.stat().st_size, HARMLESS_BYTES)
        self._n_bytes = int(min(limits.max_archive_bytes, allowed))
        self._n_members = limits.max_archive_members

    def take(self, members: list[zipfile.ZipInfo]) -> None:
        """Subtract the members of an archive; ``zipfile`` never gives more bytes than a member states."""
        n_bytes = sum(info.file_size for info in members)
        if n_bytes > self._n_bytes:
            raise Refused("archive_bomb", f"it unpacks to {n_bytes} bytes, more than the {self._n_bytes} allowed")
        if len(members) > self._n_members:
            raise Refused("archive_bomb", f"it holds {len(members)} files, more than the {self._n_members} allowed")
        self._n_bytes -= n_bytes
        self._n_members -= len(members)


def unpack(path: Path, source: str, work: Path, limits: Limits) -> list[FileRef | Rejected]:
    """Return the members of an archive, unpacked into ``work``, and those that are not used and why.

    Archives in the archive are unpacked too, down to ``limits.max_archive_depth``. Never empty.

    Args:
        path: The archive.
        source: Its source; a member is ``a.zip!/b/c.txt``.
        work: Existing folder for the members; each archive gets one of its own in it.
        limits: Of sizes, counts, ratio and depth.
    """
    folder = Path(tempfile.mkdtemp(prefix="archive-", dir=work))
    try:
        return list(_members(path, source, folder, limits, _Budget(path, limits), depth=1))
    except Refused as refused:
        return [Rejected(source, refused.reason, refused.detail)]
    except MemoryError:
        return [Rejected(source, "archive_bomb", "its list of members needs too much memory")]
    except DAMAGED as error:
        return [Rejected(source, "damaged", f"{type(error).__name__} in the archive")]
    except OSError as error:
        return [Rejected(source, "unreadable", error.strerror or type(error).__name__)]


def _members(
    path: Path, source: str, folder: Path, limits: Limits, budget: _Budget, depth: int
) -> Iterator[FileRef | Rejected]:
    with zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir()]
        if not members:
            raise Refused("empty", "an archive without files")
        budget.take(members)
        seen: set[str] = set()
        for info in members:
            member = unused(f"{source}!/{member_name(info)}", seen)
            try:
                target = _extract(archive, info, folder, limits, depth)
                if target.suffix in ARCHIVES:
                    yield from _members(target, member, folder, limits, budget, depth + 1)
                    target.unlink()
                else:
                    yield FileRef(member, target, target.stat().st_size)
            except Refused as refused:
                yield Rejected(member, refused.reason, refused.detail)
            except DAMAGED as error:
                yield Rejected(member, "damaged", f"{type(error).__name__} in the archive")


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, folder: Path, limits: Limits, depth: int) -> Path:
    name = member_name(info)
    suffix = suffix_of(name)
    if escapes(name):
        raise Refused("path_traversal", "the name of the member leads out of the archive")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise Refused("symbolic_link", "only regular files are read")
    if is_lock_file(PurePosixPath(name).name):
        raise Refused("lock_file", "an Office program left it behind")
    if info.flag_bits & ENCRYPTED:
        raise Refused("encrypted", "the member needs a password")
    if suffix in ARCHIVES:
        if depth >= limits.max_archive_depth:
            raise Refused("nested_too_deep", f"an archive within {depth} others")
    elif suffix not in MEDIA_TYPES:
        raise Refused("unsupported_type", f"expected one of {supported()}, got {suffix or 'none'}")
    elif info.file_size > limits.max_file_bytes:
        raise Refused("too_large", f"{info.file_size} bytes, more than {limits.max_file_bytes}")
    handle, target = tempfile.mkstemp(suffix=suffix, dir=folder)
    with os.fdopen(handle, "wb") as copy:
        try:
            with archive.open(info) as member:
                shutil.copyfileobj(member, copy, CHUNK)
        except BaseException:
            os.unlink(target)
            raise
    return Path(target)
