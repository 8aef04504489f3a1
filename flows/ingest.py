"""From a folder of in-house documents to texts with a split, critical spans, and a manifest with hashes.

    folder -> read (+ quarantine) -> clean -> mask -> clusters -> split by cluster -> spans -> two files

A cluster holds everything that says the same: exact copies, near-duplicates and the Japanese and English version of
one page. A split never cuts a cluster, so held-out text has no near-duplicate in training. Nothing is dropped
silently: every file is a document or in the quarantine list. Personal and secret data is masked before anything is
written. How each step is done is in `flows/corpus/`.
"""

import contextlib
import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from flows.corpus.background import background_texts, check_background
from flows.corpus.clean import CleanConfig, language_of
from flows.corpus.contamination import NgramOverlap
from flows.corpus.limits import Limits
from flows.corpus.manifest import check_readable, corpus_sha256, reasons_text, totals, write_manifest
from flows.corpus.manifest import writing_atomically as writing
from flows.corpus.parts import Parts, locked
from flows.corpus.pipeline import (
    Corpus,
    Report,
    boilerplate_lines,
    clusters_of,
    overlaps,
    read_folder,
    write_documents,
)
from flows.corpus.split import SplitRow, split_clusters
from flows.corpus.tasks import Placed, Reading, Writing, Written, written
from flows.corpus.types import Rejected
from flows.errors import PocError
from flows.store import Json, sha256_code, sha256_json
from flows.terms import KINDS, Term, TermMatcher, load_glossary

__all__ = ["ingest", "load_names", "read"]

SCHEMA_VERSION = 2
ROOM = "flows/corpus"
BACKGROUND = "background"
CLEAN = CleanConfig()
LIMITS = Limits()


def load_names(path: Path | None) -> tuple[str, ...]:
    """Read the names of people that are masked: a UTF-8 text file, one name a line; None gives none.

    Raises:
        PocError: The file cannot be read.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PocError(
            f"the file of names cannot be read: {reason}", where=str(path), todo="give a UTF-8 text file, a name a line"
        ) from error
    return tuple(sorted({line.strip() for line in lines} - {""}))


def read(
    corpus_dir: Path,
    place: Path,
    *,
    min_characters: int,
    clean: CleanConfig,
    limits: Limits,
    names: Sequence[str],
    n_workers: int = 1,
    report: Report = lambda _: None,
    share: float = 1.0,
) -> tuple[Corpus, Reading]:
    """Read a folder into parts, where they are not there already.

    Args:
        corpus_dir: The documents.
        place: Folder for the parts; the caller holds its lock.
        min_characters: Shorter texts go to quarantine.
        clean: How the text is cleaned.
        limits: Of file sizes, times and memory.
        names: Names of people to mask.
        n_workers: Processes.
        report: Told how far the reading is.
        share: Share of the files that are read, chosen by their names.

    Raises:
        PocError: The folder does not exist.
    """
    if not corpus_dir.is_dir():
        raise PocError("the corpus folder does not exist", where=str(corpus_dir), todo="give a folder with documents")
    decides: Json = {
        "clean": asdict(clean),
        "limits": asdict(limits),
        "names": list(names),
        "code": sha256_code((ROOM,)),
    }
    reading = Reading(Parts(place, sha256_json(decides)[:16]), limits, clean, tuple(names))
    return read_folder(corpus_dir, reading, min_characters, n_workers, report, share), reading


@contextlib.contextmanager
def _place_of(corpus_dir: Path, cache: Path | None) -> Iterator[Path]:
    if cache is None:
        with tempfile.TemporaryDirectory(prefix="skip-poc-parts-") as folder:
            yield Path(folder)
        return
    place = cache / hashlib.sha256(str(corpus_dir.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    with locked(place):
        yield place


def ingest(
    corpus_dir: Path,
    glossary: Path | None,
    out_dir: Path,
    *,
    validation_share: float,
    test_share: float,
    seed: int,
    min_characters: int,
    clean: CleanConfig = CLEAN,
    limits: Limits = LIMITS,
    names: Sequence[str] = (),
    max_unreadable_share: float = 0.2,
    boilerplate_share: float | None = None,
    background: str | None = None,
    background_share: float = 0.15,
    cache: Path | None = None,
    n_workers: int = 1,
    report: Report = lambda _: None,
) -> dict[str, Any]:
    """Read a corpus folder and write ``documents.jsonl`` and ``manifest.json``.

    A line of ``documents.jsonl`` is a document: id, language, split, cluster, text and critical spans. The manifest
    holds a row per document, the quarantine, totals, and hashes of everything that decided the result. The same
    input gives the same bytes.

    Args:
        corpus_dir: The documents, in any subfolders.
        glossary: Glossary CSV, or None.
        out_dir: Where the two files go; made when there is something to write.
        validation_share: Share of the characters on which thresholds are chosen.
        test_share: Share of the characters that only the confirmation sees.
        seed: Decides which clusters are held out, and which background text is taken.
        min_characters: Shorter documents go to quarantine.
        clean: How the text is cleaned.
        limits: Of file sizes, times and memory.
        names: Names of people to mask.
        max_unreadable_share: Share of the texts that may be unreadable.
        boilerplate_share: Lines that at least this share of the documents have are left out; None keeps all lines.
        background: General text to mix into training, see `flows/corpus/background.py`; None for none.
        background_share: Share of it among the training characters of each language.
        cache: Folder for what was read, so that a second run reads only new and changed files; None keeps nothing.
        n_workers: Processes.
        report: Told how far it is.

    Raises:
        PocError: The corpus has no usable text, too few documents, too many that cannot be read, or the glossary or
            a share is wrong.
    """
    if min(validation_share, test_share) < 0 or validation_share + test_share >= 1:
        raise PocError(
            f"expected shares >= 0 with a sum below 1, got {validation_share} and {test_share}",
            where="corpus.validation_share, corpus.test_share",
            todo="lower the held-out shares so that text to train on is left",
        )
    if background is not None:
        check_background(background)
    terms = () if glossary is None else tuple(load_glossary(glossary))
    with _place_of(corpus_dir, cache) as place:
        corpus, reading = read(
            corpus_dir, place, min_characters=min_characters, clean=clean, limits=limits, names=names,
            n_workers=n_workers, report=report,
        )  # fmt: skip
        _check_usable(corpus, max_unreadable_share, corpus_dir)
        clusters = clusters_of(corpus.rows)
        split = split_clusters(
            [SplitRow(row.source, row.n_characters, row.language) for row in corpus.rows], clusters,
            validation_share=validation_share, test_share=test_share, seed=seed,
        )  # fmt: skip
        placed = [
            Placed(row.source, row.language, split[cluster], cluster)
            for row, cluster in zip(corpus.rows, clusters, strict=True)
        ]
        boilerplate = set() if boilerplate_share is None else boilerplate_lines(corpus, reading, boilerplate_share)
        out_dir.mkdir(parents=True, exist_ok=True)
        ngrams = NgramOverlap()
        with writing(out_dir / "documents.jsonl") as file:
            lines = write_documents(
                corpus, placed, Writing(reading.parts, terms, boilerplate, min_characters), n_workers, report, ngrams
            )
            rows, dropped = _write(file, corpus, lines)
            _check_split(rows, {"test": test_share, "validation": validation_share}, corpus_dir)
            mixed_in = _write_background(file, background, background_share, rows, terms, seed, ngrams)
        reading.parts.forget_all_but({read.part for read in corpus.reads})
    overlap, contamination = overlaps(ngrams)
    for row in rows:
        row["overlap"] = overlap.get(row["source"])
    rejected = sorted([*corpus.rejected, *dropped], key=lambda entry: entry.source)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "settings": {
            "validation_share": validation_share,
            "test_share": test_share,
            "seed": seed,
            "min_characters": min_characters,
            "clean": asdict(clean),
            "limits": asdict(limits),
            "n_names": len(names),
            "max_unreadable_share": max_unreadable_share,
            "boilerplate_share": boilerplate_share,
            "background_share": 0.0 if background is None else background_share,
        },
        "corpus_sha256": corpus_sha256(rows),
        "glossary_sha256": None if glossary is None else hashlib.sha256(glossary.read_bytes()).hexdigest(),
        "n_glossary_terms": len(terms),
        "files": rows,
        "quarantine": [asdict(entry) for entry in rejected],
        "totals": totals(rows, rejected, KINDS) | {"n_boilerplate_lines": len(boilerplate)},
        "background": mixed_in,
        "contamination": contamination,
    }
    write_manifest(out_dir / "manifest.json", manifest)
    return manifest


def _check_usable(corpus: Corpus, max_unreadable_share: float, corpus_dir: Path) -> None:
    check_readable(len(corpus.rows), corpus.rejected, max_unreadable_share, str(corpus_dir))
    if not corpus.rows:
        raise PocError(
            f"expected documents, got no usable one ({reasons_text(corpus.rejected) or 'the folder is empty'})",
            where=str(corpus_dir),
            todo="put documents into the corpus folder, or lower corpus.min_characters",
        )


def _check_split(rows: Sequence[Mapping[str, Any]], shares: Mapping[str, float], corpus_dir: Path) -> None:
    empty = {"train", *(name for name, share in shares.items() if share > 0)} - {row["split"] for row in rows}
    if empty:
        raise PocError(
            f"no document is left for {', '.join(sorted(empty))} after lines that many documents share were dropped",
            where=str(corpus_dir),
            todo="add documents, or raise corpus.boilerplate_share",
        )


def _write(
    file: BinaryIO, corpus: Corpus, lines: Iterator[tuple[Placed, Written | None]]
) -> tuple[list[dict[str, Any]], list[Rejected]]:
    """Write the documents; return their manifest rows, and what was left out while writing."""
    sha256 = [read.sha256 for read in corpus.reads for row in read.rows if corpus.is_used(row)]
    rows: list[dict[str, Any]] = []
    dropped: list[Rejected] = []
    for row, file_sha256, (place, document) in zip(corpus.rows, sha256, lines, strict=True):
        if document is None:
            dropped.append(Rejected(row.source, "reader_crashed", "the process that looked for terms ended"))
            continue
        if not document.line:
            detail = f"got {document.n_characters} characters without the lines that many documents share"
            dropped.append(Rejected(row.source, "too_short", detail))
            continue
        file.write(document.line)
        rows.append(
            {
                "source": row.source,
                "sha256": file_sha256,
                "bytes": row.n_bytes,
                "characters": document.n_characters,
                "language": row.language,
                "split": place.split,
                "cluster": place.cluster,
                "media_type": row.media_type,
                "encoding": row.encoding,
                "private": row.private,
                "n_spans": {kind: document.n_spans.get(kind, 0) for kind in KINDS},
            }
        )
    return rows, dropped


def _write_background(
    file: BinaryIO,
    source: str | None,
    share: float,
    rows: Sequence[Mapping[str, Any]],
    terms: Sequence[Term],
    seed: int,
    ngrams: NgramOverlap,
) -> dict[str, int]:
    """Write general text in the languages of the training text; return how much was wanted and how much there was."""
    if source is None:
        return {"n_documents": 0, "n_characters": 0, "n_wanted": 0}
    train = Counter[str]()
    for row in rows:
        train[row["language"]] += row["characters"] * (row["split"] == "train")
    shares = {language: n / train.total() for language, n in train.items() if n}
    n_wanted = round(train.total() * share / (1 - share))
    matcher = TermMatcher.from_glossary(terms)
    n_documents = n_characters = 0
    for text in background_texts(n_wanted, seed, source, shares):
        name = f"{BACKGROUND}/{text.source}"
        place = Placed(name, language_of(text.text), "train", name)
        line = written(text.text, place, matcher, place.language, ngrams.limit)
        ngrams.add_train(np.frombuffer(line.ngrams, dtype=np.uint64))
        file.write(line.line)
        n_documents, n_characters = n_documents + 1, n_characters + len(text.text)
    return {"n_documents": n_documents, "n_characters": n_characters, "n_wanted": n_wanted}
