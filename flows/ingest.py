"""From a folder of in-house text to documents with a split, critical spans, and a manifest with hashes.

    folder -> read (+ quarantine) -> normalise -> language -> clusters -> split by cluster -> spans -> two files

A cluster holds everything that says the same: exact copies, near-duplicates (Jaccard similarity of character
shingles >= 0.8) and the Japanese and English version of one page. A split never cuts a cluster, so held-out text has
no near-duplicate in training. Nothing is dropped silently: a file that is not used is in the quarantine list.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.errors import PocError
from flows.terms import KINDS, TermMatcher, find_spans, load_glossary

__all__ = ["Document", "Rejected", "clusters_of", "ingest", "language_of", "normalise", "read_corpus", "split_clusters"]

SCHEMA_VERSION = 1
SUFFIXES = (".txt", ".md")
SPLITS = ("train", "validation", "test")
JAPANESE_SHARE = 0.2
"""From this share of kana and kanji among the letters on, a document is Japanese."""
NEAR_DUPLICATE = 0.8
"""Jaccard similarity from which two documents count as one."""
SHINGLE = 8
"""Length of a shingle. [characters]"""
N_PERMUTATIONS = 64
BAND = 4
"""MinHash values per band: 16 bands of 4 find a pair at Jaccard 0.8 with probability 0.9998."""

NEIGHBOURS = 8
"""How many earlier members of a MinHash band a document is compared with."""

_JAPANESE = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff々]")
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
_LANGUAGE_MARK = re.compile(r"[._-](?:ja|jp|en)$", re.IGNORECASE)
_LANGUAGE_FOLDERS = {"ja", "jp", "en"}

UInt64 = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Document:
    """One text that is used. ``source`` is its path within the corpus folder and serves as its id."""

    source: str
    sha256: str
    n_bytes: int
    language: str
    text: str


@dataclass(frozen=True)
class Rejected:
    """One file or folder that is not used: ``reason`` is a code, ``detail`` says more."""

    source: str
    reason: str
    detail: str


# --- reading ---------------------------------------------------------------------------------------------


def normalise(text: str) -> str:
    """Unicode NFC, line feeds, no white space at line ends, no byte order mark, one line feed at the end."""
    text = unicodedata.normalize("NFC", text.removeprefix("\ufeff"))
    lines = (line.rstrip() for line in re.split(r"\r\n|\r|\n", text))
    return "\n".join(lines).strip("\n") + "\n"


def language_of(text: str) -> str:
    """Return ``ja`` when kana and kanji make up at least ``JAPANESE_SHARE`` of the letters, otherwise ``en``."""
    n_letters = sum(character.isalpha() for character in text)
    return "ja" if len(_JAPANESE.findall(text)) >= max(JAPANESE_SHARE * n_letters, 1) else "en"


def _walk(folder: Path, rejected: list[Rejected]) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        source = Path(error.filename).relative_to(folder).as_posix()
        rejected.append(Rejected(source, "unreadable", error.strerror or type(error).__name__))

    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(files):
            yield Path(parent) / name


def _read(path: Path, source: str, min_characters: int) -> Document | Rejected:
    if path.is_symlink():
        return Rejected(source, "symbolic_link", "only regular files are read")
    if path.suffix.lower() not in SUFFIXES:
        return Rejected(source, "unsupported_type", f"expected {' or '.join(SUFFIXES)}, got {path.suffix or 'none'}")
    try:
        raw = path.read_bytes()
        text = normalise(raw.decode("utf-8"))
    except OSError as error:
        return Rejected(source, "unreadable", error.strerror or type(error).__name__)
    except UnicodeDecodeError as error:
        return Rejected(source, "not_utf8", f"byte {error.start} is not valid UTF-8")
    fault = _fault(text, min_characters)
    if fault is not None:
        return Rejected(source, *fault)
    return Document(source, hashlib.sha256(raw).hexdigest(), len(raw), language_of(text), text)


def _fault(text: str, min_characters: int) -> tuple[str, str] | None:
    if not text.strip():
        return "empty", "no text"
    if _CONTROL.search(text):
        return "not_text", "control characters"
    if len(text) < min_characters:
        return "too_short", f"expected at least {min_characters} characters, got {len(text)}"
    return None


def read_corpus(folder: Path, min_characters: int = 1) -> tuple[list[Document], list[Rejected]]:
    """Read every text file under a folder, in the order of their paths.

    Raises:
        PocError: The folder does not exist.
    """
    if not folder.is_dir():
        raise PocError("the corpus folder does not exist", where=str(folder), todo="give a folder with text files")
    rejected: list[Rejected] = []
    documents: list[Document] = []
    for path in _walk(folder, rejected):
        result = _read(path, path.relative_to(folder).as_posix(), min_characters)
        if isinstance(result, Document):
            documents.append(result)
        else:
            rejected.append(result)
    return documents, rejected


# --- clusters --------------------------------------------------------------------------------------------


def _squeezed(text: str) -> str:
    """Text for comparison: no white space, one width, one case."""
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", text).casefold())


def _shingles(text: str) -> UInt64:
    """Sorted different hashes of all runs of ``SHINGLE`` characters."""
    codes = np.frombuffer(_squeezed(text).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    width = min(SHINGLE, len(codes))
    hashes = np.zeros(len(codes) - width + 1, dtype=np.uint64)
    for offset in range(width):
        # unsigned overflow is the modulus of the polynomial hash
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[offset : offset + len(hashes)]
    return np.unique(hashes ^ (hashes >> np.uint64(29)))


def _signature(shingles: UInt64, factors: UInt64, shifts: UInt64) -> UInt64:
    """MinHash: the smallest value of every permutation, whose agreement estimates the Jaccard similarity."""
    values = [((shingles * a + b) >> np.uint64(20)).min() for a, b in zip(factors, shifts, strict=True)]
    return np.array(values, dtype=np.uint64)


def _jaccard(a: UInt64, b: UInt64) -> float:
    n_common = len(np.intersect1d(a, b, assume_unique=True))
    return n_common / (len(a) + len(b) - n_common)


def _candidates(documents: Sequence[Document]) -> list[tuple[int, int]]:
    """Pairs that share a MinHash band: nearly all pairs at Jaccard >= ``NEAR_DUPLICATE``, and some others."""
    random = np.random.default_rng(0)
    factors = random.integers(0, 2**64, N_PERMUTATIONS, dtype=np.uint64) | np.uint64(1)
    shifts = random.integers(0, 2**64, N_PERMUTATIONS, dtype=np.uint64)
    buckets: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    pairs: set[tuple[int, int]] = set()
    for index, document in enumerate(documents):
        signature = _signature(_shingles(document.text), factors, shifts)
        for start in range(0, N_PERMUTATIONS, BAND):
            bucket = buckets[start, signature[start : start + BAND].tobytes()]
            # the first and the latest members only: thousands of like documents stay linear
            pairs.update((other, index) for other in {*bucket[:1], *bucket[-NEIGHBOURS:]})
            bucket.append(index)
    return sorted(pairs)


def _is_near_duplicate(a: Document, b: Document) -> bool:
    return _jaccard(_shingles(a.text), _shingles(b.text)) >= NEAR_DUPLICATE


def _page_key(source: str) -> str:
    """Path without language folder and language mark: ``ja/a.txt``, ``en/a.md`` and ``a.en.txt`` are one page."""
    path = PurePosixPath(source)
    folders = [part for part in path.parts[:-1] if part.lower() not in _LANGUAGE_FOLDERS]
    return "/".join([*folders, _LANGUAGE_MARK.sub("", path.stem)]).casefold()


def clusters_of(documents: Sequence[Document]) -> list[str]:
    """Cluster name of every document: the smallest source among the documents that say the same."""
    parent = list(range(len(documents)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    def join(i: int, j: int) -> None:
        low, high = sorted((root(i), root(j)), key=lambda k: documents[k].source)
        parent[high] = low

    first: dict[Hashable, int] = {}
    for index, document in enumerate(documents):
        text_hash = hashlib.sha256(_squeezed(document.text).encode()).hexdigest()
        for key in (("text", text_hash), ("page", _page_key(document.source))):
            join(index, first.setdefault(key, index))
    for i, j in _candidates(documents):
        if root(i) != root(j) and _is_near_duplicate(documents[i], documents[j]):
            join(i, j)
    return [documents[root(index)].source for index in range(len(documents))]


# --- split -----------------------------------------------------------------------------------------------


def split_clusters(
    documents: Sequence[Document],
    clusters: Sequence[str],
    *,
    validation_share: float,
    test_share: float,
    seed: int,
) -> dict[str, str]:
    """Split name of every cluster; shares are shares of the characters.

    Within each set of languages the clusters are taken in the order of their seeded hash, first for the test, then
    for the validation; one that would overfill the share stays in training. So every language is held out in its
    share, and one huge document does not swallow a held-out split.

    Raises:
        PocError: There are too few clusters for the splits that were asked for.
    """
    size: Counter[str] = Counter()
    languages: dict[str, set[str]] = defaultdict(set)
    for document, cluster in zip(documents, clusters, strict=True):
        size[cluster] += len(document.text)
        languages[cluster].add(document.language)
    order = sorted(size, key=lambda cluster: hashlib.sha256(f"{seed}\x1f{cluster}".encode()).digest())
    shares = {name: share for name, share in (("test", test_share), ("validation", validation_share)) if share > 0}
    if len(order) < len(shares) + 1:
        raise PocError(
            f"expected at least {len(shares) + 1} different documents to split, got {len(order)}",
            where="corpus",
            todo="add documents, or set the held-out shares to 0; copies and translations count once",
        )
    split: dict[str, str] = {}
    for stratum in sorted({tuple(sorted(languages[cluster])) for cluster in order}):
        members = [cluster for cluster in order if tuple(sorted(languages[cluster])) == stratum]
        total = sum(size[cluster] for cluster in members)
        for name, share in shares.items():
            room = share * total
            for cluster in members:
                if cluster not in split and size[cluster] <= room:
                    split[cluster] = name
                    room -= size[cluster]
    for name in shares:
        if name not in split.values():
            # a small corpus: the smallest cluster of a split that has another, training first, so that none is empty
            now = {cluster: split.get(cluster, "train") for cluster in order}
            spare = [cluster for cluster in order if list(now.values()).count(now[cluster]) > 1]
            split[min(spare, key=lambda cluster: (now[cluster] != "train", size[cluster], cluster))] = name
    return {cluster: split.get(cluster, "train") for cluster in order}


# --- output ----------------------------------------------------------------------------------------------


def _write_atomically(path: Path, lines: Iterable[str]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def _totals(rows: Sequence[Mapping[str, Any]], rejected: Sequence[Rejected]) -> dict[str, Any]:
    n_characters = {name: sum(row["characters"] for row in rows if row["split"] == name) for name in SPLITS}
    by_language: Counter[str] = Counter()
    for row in rows:
        by_language[row["language"]] += row["characters"]
    total = sum(n_characters.values())
    return {
        "n_documents": {name: sum(row["split"] == name for row in rows) for name in SPLITS},
        "n_characters": n_characters,
        "n_bytes": sum(row["bytes"] for row in rows),
        "n_clusters": len({row["cluster"] for row in rows}),
        "n_quarantined": len(rejected),
        "languages": {language: by_language[language] / total for language in ("ja", "en")},
        "n_spans": {
            name: {kind: sum(row["n_spans"][kind] for row in rows if row["split"] == name) for kind in KINDS}
            for name in SPLITS
        },
    }


def ingest(
    corpus_dir: Path,
    glossary: Path | None,
    out_dir: Path,
    *,
    validation_share: float,
    test_share: float,
    seed: int,
    min_characters: int,
) -> dict[str, Any]:
    """Read a corpus, split it, mark its critical spans; write ``documents.jsonl`` and ``manifest.json``.

    Each line of ``documents.jsonl`` has ``document_id``, ``language``, ``split``, ``cluster``, ``text`` and ``spans``
    (``start``, ``end`` [characters of ``text``], ``kind``, ``term``). The manifest is also returned; it has per file
    ``source``, ``sha256`` (of the bytes on disk), ``bytes``, ``characters``, ``language``, ``split``, ``cluster`` and
    the number of spans, then the quarantine list, the totals and one hash over the corpus.

    Raises:
        PocError: The corpus has no usable text, too few documents, or the glossary or a share is wrong.
    """
    if min(validation_share, test_share) < 0 or validation_share + test_share >= 1:
        raise PocError(
            f"expected shares >= 0 with a sum below 1, got {validation_share} and {test_share}",
            where="corpus.validation_share, corpus.test_share",
            todo="lower the held-out shares so that text to train on is left",
        )
    terms = [] if glossary is None else load_glossary(glossary)
    documents, rejected = read_corpus(corpus_dir, min_characters)
    if not documents:
        reasons = ", ".join(f"{reason} {n}" for reason, n in sorted(Counter(r.reason for r in rejected).items()))
        raise PocError(
            f"expected text files ({', '.join(SUFFIXES)}), got no usable one ({reasons or 'the folder is empty'})",
            where=str(corpus_dir),
            todo="put UTF-8 text files into the corpus folder, or lower min_characters",
        )
    clusters = clusters_of(documents)
    split = split_clusters(documents, clusters, validation_share=validation_share, test_share=test_share, seed=seed)
    matcher = TermMatcher.from_glossary(terms)
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    for document, cluster in zip(documents, clusters, strict=True):
        spans = find_spans(document.text, matcher)
        n_spans = Counter(span.kind for span in spans)
        shared = {"language": document.language, "split": split[cluster], "cluster": cluster}
        record = {
            "document_id": document.source,
            **shared,
            "text": document.text,
            "spans": [asdict(span) for span in spans],
        }
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
        rows.append(
            {
                "source": document.source,
                "sha256": document.sha256,
                "bytes": document.n_bytes,
                "characters": len(document.text),
                **shared,
                "n_spans": {kind: n_spans[kind] for kind in KINDS},
            }
        )
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "settings": {
            "validation_share": validation_share,
            "test_share": test_share,
            "seed": seed,
            "min_characters": min_characters,
        },
        "corpus_sha256": hashlib.sha256("".join(f"{r['source']}\0{r['sha256']}\n" for r in rows).encode()).hexdigest(),
        "glossary_sha256": None if glossary is None else hashlib.sha256(glossary.read_bytes()).hexdigest(),
        "n_glossary_terms": len(terms),
        "files": rows,
        "quarantine": [asdict(entry) for entry in rejected],
        "totals": _totals(rows, rejected),
    }
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_atomically(out_dir / "documents.jsonl", lines)
    _write_atomically(out_dir / "manifest.json", [json.dumps(manifest, ensure_ascii=False, indent=1), "\n"])
    return manifest
