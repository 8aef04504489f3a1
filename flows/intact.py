"""Is a finished stage still what was written? Every file with its size and hash, looked at before it is taken again.

A damaged stage - a file gone, cut short or changed - is set aside and computed again, so that no result rests on it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flows.hashes import Json, sha256_file, sha256_json

RECORD = "stage.json"
ALWAYS_HASHED_BELOW_BYTES = 32 * 2**20
"""Larger files, which are weights, are hashed again only when size or time of change differ: that takes seconds."""


def inventory(folder: Path) -> dict[str, dict[str, int | str]]:
    """Return size, hash and time of change of every file of a stage but its record."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != RECORD)
    return {path.relative_to(folder).as_posix(): _facts(path) for path in files}


def sealed(record: Mapping[str, Json]) -> dict[str, Json]:
    """Return the record of a stage with its own hash, so that a change in it is seen too."""
    return {**record, "record_sha256": sha256_json(record)}


def damage(folder: Path) -> str | None:
    """Return what is wrong with a finished stage, or None. A stage without an inventory is taken as it is."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        files: Mapping[str, Mapping[str, Any]] = record.get("files", {})
        if "record_sha256" in record and record.pop("record_sha256") != sha256_json(record):
            return f"{RECORD} has other content than when it was written"
        float(record["seconds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return f"{RECORD} cannot be read"
    for name, facts in files.items():
        path = folder / name
        try:
            stat = path.stat()
        except OSError:
            return f"{name} is missing"
        if stat.st_size != facts["bytes"]:
            return f"{name} has {stat.st_size} bytes instead of {facts['bytes']}"
        untouched = stat.st_size >= ALWAYS_HASHED_BELOW_BYTES and stat.st_mtime_ns == facts["mtime_ns"]
        if not untouched and sha256_file(path) != facts["sha256"]:
            return f"{name} has other content than when it was written"
    return None


def mend(partial: Path) -> list[str]:
    """Remove what an interrupted stage left unreadable - JSON that does not parse, cut weights - and name it."""
    removed = []
    for path in sorted(partial.rglob("*")):
        if path.is_file() and not _readable(path):
            path.unlink()
            removed.append(path.relative_to(partial).as_posix())
    return removed


def _facts(path: Path) -> dict[str, int | str]:
    stat = path.stat()
    return {"bytes": stat.st_size, "sha256": sha256_file(path), "mtime_ns": stat.st_mtime_ns}


def _readable(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text("utf-8"))
        elif path.suffix == ".safetensors":
            return _whole_weights(path)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _whole_weights(path: Path) -> bool:
    """Tell whether a safetensors file is as long as its own header says: 8 bytes of length, header, tensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            return False
        (length,) = struct.unpack("<Q", prefix)
        if length > size - 8:
            return False
        header = json.loads(file.read(length))
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return bool(size == 8 + length + max(ends, default=0))
