"""Names of files and of members of archives and mails, as they stand in the manifest."""

import contextlib
import os
import re
import zipfile
from pathlib import Path, PurePosixPath

__all__ = ["escapes", "is_lock_file", "member_name", "source_of", "suffix_of", "unused"]

UTF8_FLAG = 0x800
_PRIVATE = re.compile("[\uf8f0-\uf8f3\x80]")


def source_of(path: Path, folder: Path) -> str:
    """Return a file's posix path within a folder; bytes that are not UTF-8 are read as CP932, else escaped.

    File servers that once stood in Japan hold names in CP932.
    """
    raw = os.fsencode(path.relative_to(folder).as_posix())
    return _decoded(raw) or raw.decode("utf-8", "backslashreplace")


def _decoded(raw: bytes) -> str | None:
    for encoding in ("utf-8", "cp932"):
        with contextlib.suppress(UnicodeDecodeError):
            name = raw.decode(encoding)
            # CP932 gives private characters to bytes that mean nothing in it
            return None if _PRIVATE.search(name) and encoding == "cp932" else name
    return None


def member_name(info: zipfile.ZipInfo) -> str:
    """Return the name of a member of a zip file with ``/`` between its parts.

    A name without the UTF-8 mark is CP437 by the standard and CP932 in archives made on Japanese Windows.
    """
    name = info.orig_filename
    if not info.flag_bits & UTF8_FLAG:
        name = _decoded(name.encode("cp437")) or name
    return name.replace("\\", "/")


def escapes(name: str) -> bool:
    """Tell whether a member's name leads out of the archive: absolute, with a drive, or through ``..``."""
    return name.startswith("/") or name[1:2] == ":" or ".." in name.split("/") or "\0" in name


def suffix_of(name: str) -> str:
    """Return the suffix in lower case, with its dot; empty when there is none."""
    return PurePosixPath(name).suffix.lower()


def unused(source: str, seen: set[str]) -> str:
    """Return a source that no other member has, ``a (2).txt`` for a second ``a.txt``, and remember it."""
    suffix = PurePosixPath(source).suffix
    stem = source.removesuffix(suffix)
    candidate, number = source, 1
    while candidate in seen:
        number += 1
        candidate = f"{stem} ({number}){suffix}"
    seen.add(candidate)
    return candidate


def is_lock_file(name: str) -> bool:
    """Tell whether a file is what an Office program leaves beside an open document."""
    return name.startswith(("~$", ".~lock."))
