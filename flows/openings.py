"""How often the test split was opened: counted from the finished confirmations in the store, not remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.store import read_json


def count_openings(store: Path, confirm_key: str) -> int:
    """Return how many confirmations have read this test split, this one and those before it.

    Two confirmations read the same split when corpus, shares, seed and questions are the same: another threshold,
    training or version of the code looks at the same text again. Later ones do not count, so that a result can be
    computed again from its records.

    Args:
        store: Folder of the finished stages.
        confirm_key: Key of the confirmation that asks.
    """
    own = _record(store, "confirm", confirm_key)
    if own is None:
        return 0
    split = _split(store, own)
    earlier = 0
    for folder in sorted(store.glob("confirm-*")):
        other = _record(store, "confirm", folder.name.removeprefix("confirm-"))
        if other is None or other["key"] == confirm_key or other["created_at"] >= own["created_at"]:
            continue
        earlier += split is not None and _split(store, other) == split
    return 1 + earlier


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
