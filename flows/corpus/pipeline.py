"""The way of a folder: read every file into its part, place the texts by their rows, write the parts as documents.

    folder -> files -> parts (text, cleaned, masked) -> rows -> clusters -> split -> documents.jsonl

Texts pass through one at a time; in memory stay one row per text and one name per file.
"""

import contextlib
import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flows.corpus import files
from flows.corpus.clean import LineCounts
from flows.corpus.contamination import NgramOverlap
from flows.corpus.duplicates import cluster, page_key
from flows.corpus.manifest import overlooked
from flows.corpus.names import source_of
from flows.corpus.parts import ReadFile, Row
from flows.corpus.pool import ordered_map
from flows.corpus.tasks import Part, Placed, Places, Reading, Writing, Written
from flows.corpus.types import FileRef, Rejected

__all__ = [
    "Corpus",
    "Report",
    "boilerplate_lines",
    "clusters_of",
    "list_files",
    "overlaps",
    "read_folder",
    "write_documents",
]


@dataclass(frozen=True)
class Done:
    """How far a phase is."""

    phase: str
    """``read`` or ``write``."""
    n_files: int
    of_files: int
    n_bytes: int
    of_bytes: int

    def steps(self) -> tuple[int, int]:
        """Return how much of reading and writing together is done, and how much there is."""
        return self.n_bytes + (self.of_bytes if self.phase == "write" else 0), 2 * self.of_bytes

    def text(self) -> str:
        """Return it in words, such as ``read 12/150 files, 1.3/20.1 MB``."""
        return (
            f"{self.phase} {self.n_files}/{self.of_files} files, {self.n_bytes / 1e6:.1f}/{self.of_bytes / 1e6:.1f} MB"
        )


Report = Callable[[Done], None]
"""Called whenever another file is done."""
UNPACKED = "unpacked"
"""Folder for members of archives while they are read; it holds raw text and is gone when the reading ends."""


@dataclass(frozen=True)
class Listing:
    """The files below a folder, by a listing of their names alone."""

    sources: tuple[str, ...]
    n_bytes: int


@dataclass(frozen=True)
class Corpus:
    """What was read from a folder. Every text is in ``rows`` or has an entry in ``rejected``."""

    reads: tuple[ReadFile, ...]
    rows: tuple[Row, ...]
    """The texts that are used, in the order of ``reads``."""
    rejected: tuple[Rejected, ...]
    min_characters: int

    def is_used(self, row: Row) -> bool:
        """Tell whether a text is long enough."""
        return row.n_characters >= self.min_characters


def list_files(folder: Path, share: float = 1.0) -> Listing:
    """List the files below a folder, or a share of them, links included, without reading or following any of them."""
    sources: list[str] = []
    n_bytes = 0
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in (*names, *links):
            path = Path(parent) / name
            source = source_of(path, folder)
            if not _is_chosen(source, share):
                continue
            sources.append(source)
            with contextlib.suppress(OSError):
                n_bytes += path.lstat().st_size
    return Listing(tuple(sources), n_bytes)


def _is_chosen(source: str, share: float) -> bool:
    """Tell whether a file, or the archive that holds it, is in a sample."""
    digest = hashlib.sha256(source.partition("!/")[0].encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:6], "big") < share * 2**48


def read_folder(
    folder: Path, reading: Reading, min_characters: int, n_workers: int, report: Report, share: float = 1.0
) -> Corpus:
    """Read every file of a folder into its part, where it is not there already.

    Args:
        folder: The corpus folder.
        reading: How files are read, and where their parts are.
        min_characters: Shorter texts go to quarantine.
        n_workers: Processes.
        report: Told how far the reading is.
        share: Share of the files that are read, chosen by their names: a sample of a large folder.
    """
    listing = list_files(folder, share)
    rejected: list[Rejected] = []
    reads = tuple(_read_files(folder, reading, n_workers, rejected, listing, report, share))
    rows: list[Row] = []
    for read in reads:
        rejected.extend(read.rejected)
        for row in read.rows:
            if row.n_characters >= min_characters:
                rows.append(row)
            else:
                rejected.append(_too_short(row.source, min_characters, row.n_characters))
    rejected.extend(overlooked(listing.sources, [*(row.source for row in rows), *(entry.source for entry in rejected)]))
    return Corpus(reads, tuple(rows), tuple(sorted(rejected, key=lambda entry: entry.source)), min_characters)


def _too_short(source: str, expected: int, got: int) -> Rejected:
    return Rejected(source, "too_short", f"expected at least {expected} characters, got {got}")


def _read_files(
    folder: Path,
    reading: Reading,
    n_workers: int,
    rejected: list[Rejected],
    listing: Listing,
    report: Report,
    share: float,
) -> Iterator[ReadFile]:
    under_way: deque[FileRef] = deque()
    unpacked = reading.parts.folder / UNPACKED
    # a run that was killed may have left it behind
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir(mode=0o700, parents=True)

    def jobs() -> Iterator[FileRef]:
        for entry in files.walk(folder, unpacked, reading.limits):
            if isinstance(entry, Rejected):
                rejected.append(entry)
            elif _is_chosen(entry.source, share):
                under_way.append(entry)
                yield entry

    try:
        n_files = n_bytes = 0
        for read in ordered_map(reading, jobs(), n_workers, _crashed):
            ref = under_way.popleft()
            if ref.path.is_relative_to(unpacked):
                ref.path.unlink(missing_ok=True)
            else:
                n_files, n_bytes = n_files + 1, n_bytes + ref.n_bytes
            yield read
            report(Done("read", n_files, len(listing.sources), n_bytes, listing.n_bytes))
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _crashed(ref: FileRef) -> ReadFile:
    entry = Rejected(ref.source, "reader_crashed", "the process that cleaned its text ended")
    return ReadFile(ref.source, "", "", (), (entry,))


def clusters_of(rows: Sequence[Row]) -> list[str]:
    """Return the cluster name of every row: the smallest source among the texts that say the same."""
    return cluster(
        [row.source for row in rows],
        [None if row.signature is None else np.frombuffer(row.signature, dtype=np.uint64) for row in rows],
        [row.text_hash for row in rows],
        [page_key(row.source) for row in rows],
    )


def boilerplate_lines(corpus: Corpus, reading: Reading, min_share: float) -> set[int]:
    """Return the hashes of the lines that at least a share of the documents have in common."""
    counts = LineCounts()
    for read in corpus.reads:
        for row, text in zip(read.rows, reading.parts.texts(read.part) if read.rows else (), strict=True):
            if corpus.is_used(row):
                counts.add(text)
    return counts.boilerplate(min_documents_share=min_share)


def write_documents(
    corpus: Corpus,
    placed: Iterable[Placed],
    writing: Writing,
    n_workers: int,
    report: Report,
    ngrams: NgramOverlap | None = None,
) -> Iterator[tuple[Placed, Written | None]]:
    """Yield the line of every used text, in the order of the rows; None for one that could not be written.

    Args:
        corpus: What was read.
        placed: Where each of ``corpus.rows`` belongs.
        writing: How parts become lines.
        n_workers: Processes.
        report: Told how far the writing is.
        ngrams: Given the n-grams of every line for the check of contamination; None makes none.
    """
    places = iter(placed)
    reads = [read for read in corpus.reads if any(map(corpus.is_used, read.rows))]
    of_bytes = sum(row.n_bytes for read in reads for row in read.rows)
    under_way: deque[tuple[ReadFile, Places]] = deque()

    def jobs() -> Iterator[Part]:
        for read in reads:
            own = tuple(next(places) if corpus.is_used(row) else None for row in read.rows)
            under_way.append((read, own))
            yield Part(read.part, own, None if ngrams is None else ngrams.limit)

    n_files = n_bytes = 0
    for lines in ordered_map(writing, jobs(), n_workers, lambda job: [None] * len(job.places)):
        read, own = under_way.popleft()
        for place, line in zip(own, lines, strict=True):
            if place is not None:
                if ngrams is not None and line is not None and line.line:
                    ngrams.add(place.split, place.source, np.frombuffer(line.ngrams, dtype=np.uint64))
                yield place, line
        n_files, n_bytes = n_files + 1, n_bytes + sum(row.n_bytes for row in read.rows)
        report(Done("write", n_files, len(reads), n_bytes, of_bytes))


def overlaps(ngrams: NgramOverlap) -> tuple[dict[str, float | None], dict[str, float | int | None]]:
    """Return how much of each test document stands in training text word for word, and the sums over all of them."""
    counts = ngrams.counts()
    shares = {name: found / looked_at if looked_at else None for name, (found, looked_at) in counts.items()}
    n_found, n_all = (sum(column) for column in zip(*counts.values(), strict=True)) if counts else (0, 0)
    return shares, {
        "share": n_found / n_all if n_all else None,
        "max_share": max((share for share in shares.values() if share is not None), default=None),
        "n_ngrams": n_all,
        "sampled_share": ngrams.sampled_share,
    }
