"""How often the test split was opened: counted from the finished confirmations in the store, not remembered.

Two confirmations read the same split when corpus, shares, seed and questions are the same: another threshold,
training or version of the code looks at the same text again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.store import read_json, write_json

ARCHIVE = ".openings"
"""Folder of the records of confirmations whose files `skip-poc gc` removed: an opening is never forgotten."""


def count_openings(store: Path, confirm_key: str) -> int:
    """Return how many confirmations have read this test split, this one and those before it.

    Later ones do not count, so that a result can be computed again from its records.

    Args:
        store: Folder of the finished stages.
        confirm_key: Key of the confirmation that asks.
    """
    all_of = _openings(store)
    own = all_of.get(confirm_key)
    if own is None:
        return 0
    earlier = [
        other for key, other in all_of.items()
        if key != confirm_key and own["split"] is not None and other["split"] == own["split"] and _is_before(other, own)
    ]  # fmt: skip
    return 1 + len(earlier)


def openings_of(store: Path, ingest_inputs: dict[str, Any], questions: str) -> list[str]:
    """Return the keys of all confirmations that have read a test split, oldest first."""
    split = {"ingest": ingest_inputs, "questions": questions}
    found = [(own.get("sequence") or 0, own["created_at"], key) for key, own in _openings(store).items()
             if own["split"] == split]  # fmt: skip
    return [key for _, _, key in sorted(found)]


def archive(store: Path, confirm_key: str) -> Path | None:
    """Keep what must be known of an opening before its stages are removed; None when there is no such confirmation."""
    own = _openings(store).get(confirm_key)
    if own is None:
        return None
    path = store / ARCHIVE / f"{confirm_key}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, own)
    return path


def _openings(store: Path) -> dict[str, dict[str, Any]]:
    """All openings by key: what was kept by `archive`, and the confirmations that are still there."""
    found: dict[str, dict[str, Any]] = {
        path.stem: read_json(path) for path in sorted((store / ARCHIVE).glob("[0-9a-f]*.json"))
    }
    for folder in sorted(store.glob("confirm-*")):
        key = folder.name.removeprefix("confirm-")
        record = _record(store, "confirm", key)
        if record is not None and not (key in found and found[key]["split"] is not None):
            names = {name: record.get(name) for name in ("key", "created_at", "sequence")}
            found[key] = names | {"split": _split(store, record)}
    return found


def _is_before(other: dict[str, Any], own: dict[str, Any]) -> bool:
    # the number is given when a stage is finished; a clock may have been set back in between
    if other.get("sequence") is not None and own.get("sequence") is not None:
        return bool(other["sequence"] < own["sequence"])
    return bool(other["created_at"] < own["created_at"])


def _record(store: Path, name: str, key: str) -> dict[str, Any] | None:
    path = store / f"{name}-{key}" / "stage.json"
    record: dict[str, Any] | None = read_json(path) if path.is_file() else None
    return record


def _split(store: Path, confirmation: dict[str, Any]) -> dict[str, Any] | None:
    """What decides which text and questions a confirmation reads; None when its earlier stages are gone."""
    sweep = _record(store, "sweep", str(confirmation["inputs"].get("sweep")))
    if sweep is None:
        return None
    ingest = _record(store, "ingest", str(sweep["inputs"].get("ingest")))
    if ingest is None:
        return None
    return {"ingest": ingest["inputs"], "questions": sweep["inputs"].get("questions")}
