"""What became of every file: documents, quarantine, totals, and the checks that they add up."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from flows.corpus.split import SPLITS
from flows.corpus.types import Rejected
from flows.errors import PocError

__all__ = [
    "check_readable",
    "corpus_sha256",
    "overlooked",
    "reasons_text",
    "totals",
    "write_manifest",
    "writing_atomically",
]

NO_TEXT = frozenset({"symbolic_link", "special_file", "lock_file", "unsupported_type", "empty"})
"""Reasons of entries in which no text was to be read: they say nothing about how well the reading went."""
READ_BUT_SHORT = frozenset({"too_short"})
SHOWN = 5


def overlooked(listed: Iterable[str], outcomes: Iterable[str]) -> Iterator[Rejected]:
    """Yield an entry for every listed file from which nothing came: no document, no entry, no member of it.

    Args:
        listed: Sources of all files below the corpus folder, from a listing of its own.
        outcomes: Sources of all documents and of all quarantine entries; a member's source is ``file!/member``.
    """
    covered = set()
    for source in outcomes:
        covered.add(source)
        end = source.find("!/")
        while end >= 0:
            covered.add(source[:end])
            end = source.find("!/", end + 1)
    for source in listed:
        if source not in covered:
            yield Rejected(source, "unreadable", "it was there at the start and not when it was to be read")


def reasons_text(rejected: Iterable[Rejected]) -> str:
    """Return how often each reason occurs, such as ``empty 2, encrypted 1``."""
    return ", ".join(f"{reason} {n}" for reason, n in sorted(Counter(entry.reason for entry in rejected).items()))


def check_readable(n_documents: int, rejected: Sequence[Rejected], max_share: float, where: str) -> None:
    """Stop when too large a part of the texts could not be read: what is left would not stand for the folder.

    **Formula**: share = unreadable / (documents + too short + unreadable), where unreadable is every quarantine entry
    but links, unsupported types, empty files and texts that are too short.

    Raises:
        PocError: The share is above ``max_share``, a share of 0..1.
    """
    unreadable = [entry for entry in rejected if entry.reason not in NO_TEXT | READ_BUT_SHORT]
    n_short = sum(entry.reason in READ_BUT_SHORT for entry in rejected)
    n_texts = n_documents + n_short + len(unreadable)
    if not unreadable or len(unreadable) <= max_share * n_texts:
        return
    names = ", ".join(ascii(entry.source) for entry in unreadable[:SHOWN])
    raise PocError(
        f"{len(unreadable)} of {n_texts} texts cannot be read ({reasons_text(unreadable)}), more than the share of "
        f"{max_share:g} that is allowed; the first are {names}",
        where=where,
        todo="repair or remove these files (`skip-poc check` lists them), or raise corpus.max_unreadable_share",
    )


def corpus_sha256(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return one hash over the sources and bytes of all documents."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row['source']}\0{row['sha256']}\n".encode())
    return digest.hexdigest()


def totals(rows: Sequence[Mapping[str, Any]], rejected: Sequence[Rejected], kinds: Sequence[str]) -> dict[str, Any]:
    """Return the sums over all documents and quarantine entries; shares of languages are shares of characters.

    ``n_entries`` counts files, and the members of archives and mail boxes in place of these; it is always the number
    of documents plus the number of quarantine entries.
    """
    n_characters = {name: sum(row["characters"] for row in rows if row["split"] == name) for name in SPLITS}
    by_language: Counter[str] = Counter()
    private: Counter[str] = Counter()
    for row in rows:
        by_language[row["language"]] += row["characters"]
        private.update(row["private"])
    total = sum(n_characters.values())
    return {
        "n_entries": len(rows) + len(rejected),
        "n_documents": {name: sum(row["split"] == name for row in rows) for name in SPLITS},
        "n_characters": n_characters,
        "n_bytes": sum(row["bytes"] for row in rows),
        "n_clusters": len({row["cluster"] for row in rows}),
        "n_quarantined": len(rejected),
        "reasons": dict(sorted(Counter(entry.reason for entry in rejected).items())),
        "languages": {language: by_language[language] / total for language in ("ja", "en")},
        "media_types": dict(sorted(Counter(row["media_type"] for row in rows).items())),
        "private": dict(sorted(private.items())),
        "n_spans": {
            name: {kind: sum(row["n_spans"][kind] for row in rows if row["split"] == name) for kind in kinds}
            for name in SPLITS
        },
    }


@contextmanager
def writing_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes its name only when all of it is on the disk."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()


def write_manifest(path: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest as JSON, with one line for each entry of its lists."""
    with writing_atomically(path) as file:
        file.writelines(text.encode() for text in _json_with_lines(manifest))


def _json_with_lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "{"
    for number, (key, value) in enumerate(manifest.items()):
        yield f"{',' if number else ''}\n{json.dumps(key)}: "
        if isinstance(value, list):
            for index, entry in enumerate(value):
                yield ("\n, " if index else "[ ") + json.dumps(entry, ensure_ascii=False)
            yield "]" if value else "[]"
        else:
            yield json.dumps(value, ensure_ascii=False, indent=1)
    yield "\n}\n"
