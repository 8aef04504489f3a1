"""What the processes of the pool do: read one file into its part, and turn one part into lines of documents.jsonl."""

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from flows.corpus.clean import CleanConfig, clean, drop_lines, language_of
from flows.corpus.contamination import COMPARED, ngrams
from flows.corpus.duplicates import signature
from flows.corpus.isolate import Reader
from flows.corpus.limits import Limits
from flows.corpus.parts import Parts, ReadFile, Row
from flows.corpus.private import mask
from flows.corpus.squeezed import exact_hash, squeezed
from flows.corpus.types import FileRef, Rejected, Text
from flows.terms import Term, TermMatcher, find_spans

__all__ = ["Part", "Placed", "Places", "Reading", "Writing", "Written", "written"]


MAX_CHARACTERS = 2**24
"""Longest text that is used, some twenty books; cleaning and comparing it takes about 0.6 GB. [characters]"""


@dataclass(frozen=True)
class Reading:
    """Reads files: text, cleaned and masked, into their parts.

    Args:
        parts: Where the texts go, and where those of an earlier run are.
        limits: Of file sizes, times and memory.
        clean: Of the text.
        names: Names of people to mask.
    """

    parts: Parts
    limits: Limits
    clean: CleanConfig
    names: tuple[str, ...]

    @contextmanager
    def open(self) -> Iterator[Callable[[FileRef], ReadFile]]:
        """Return the function that reads one file, with a reader process of its own."""
        with Reader(self.limits) as reader:
            yield functools.partial(self._read, reader)

    def _read(self, reader: Reader, ref: FileRef) -> ReadFile:
        try:
            sha256, part = self.parts.name(ref)
        except OSError as error:
            refused = Rejected(ref.source, "unreadable", error.strerror or type(error).__name__)
            return ReadFile(ref.source, "", "", (), (refused,))
        known = self.parts.find(ref.source, sha256, part)
        if known is not None:
            return known
        rows: list[Row] = []
        texts: list[str] = []
        rejected: list[Rejected] = []
        found = reader.read(ref)
        for entry in found:
            if isinstance(entry, Rejected):
                rejected.append(entry)
                continue
            if len(entry.text) > MAX_CHARACTERS:
                detail = f"{len(entry.text)} characters, more than {MAX_CHARACTERS}: split it"
                rejected.append(Rejected(entry.source, "too_large", detail))
                continue
            text, private = mask(clean(entry.text, self.clean), self.names)
            if not text.strip():
                rejected.append(Rejected(entry.source, "empty", "nothing is left of it after cleaning"))
                continue
            n_bytes = ref.n_bytes if len(found) == 1 else len(entry.text.encode())
            rows.append(_row(entry, text, private, n_bytes))
            texts.append(text)
        read = ReadFile(ref.source, sha256, part, tuple(rows), tuple(rejected))
        self.parts.keep(read, texts)
        return read


def _row(found: Text, text: str, private: dict[str, int], n_bytes: int) -> Row:
    codes = squeezed(text)
    sketch = signature(codes)
    return Row(
        source=found.source,
        n_bytes=n_bytes,
        media_type=found.media_type,
        encoding=found.encoding,
        language=language_of(text),
        n_characters=len(text),
        text_hash=exact_hash(codes),
        signature=None if sketch is None else sketch.tobytes(),
        private={kind: n for kind, n in sorted(private.items()) if n},
    )


@dataclass(frozen=True, slots=True)
class Placed:
    """What the writing needs to know of a text."""

    source: str
    language: str
    split: str
    cluster: str


Places = tuple[Placed | None, ...]
"""One place for each text of a part; None leaves the text out."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part to write."""

    name: str
    places: Places
    limit: int | None
    """Limit of the hashes of n-grams that are wanted; None for none of them."""


@dataclass(frozen=True, slots=True)
class Written:
    """A text as it goes into documents.jsonl, or, with an empty line, a text that became too short."""

    line: bytes
    n_characters: int
    n_spans: dict[str, int]
    ngrams: bytes = b""
    """Hashes of the n-grams of training and test text, 8 bytes each, in order."""


@dataclass(frozen=True)
class Writing:
    """Turns parts into lines of documents.jsonl: without the lines that many documents share, with critical spans.

    Args:
        parts: Where the texts are.
        terms: The glossary.
        boilerplate: Hashes of the lines to leave out.
        min_characters: A text that is shorter without these lines is left out.
    """

    parts: Parts
    terms: tuple[Term, ...]
    boilerplate: set[int]
    min_characters: int

    @contextmanager
    def open(self) -> Iterator[Callable[[Part], list[Written | None]]]:
        """Return the function that gives the lines of one part."""
        matcher = TermMatcher.from_glossary(self.terms)
        yield functools.partial(self._write, matcher)

    def _write(self, matcher: TermMatcher, part: Part) -> list[Written | None]:
        return [
            None if place is None else self._line(text, place, matcher, part.limit)
            for place, text in zip(part.places, self.parts.texts(part.name), strict=True)
        ]

    def _line(self, read: str, place: Placed, matcher: TermMatcher, limit: int | None) -> Written:
        text = drop_lines(read, self.boilerplate)
        if len(text) < self.min_characters or not text.strip():
            return Written(b"", len(text), {})
        # without its boilerplate the other language may prevail; the manifest names that of the whole
        language = place.language if text is read else language_of(text)
        return written(text, place, matcher, language, limit if place.split in COMPARED else None)


def written(text: str, place: Placed, matcher: TermMatcher, language: str, limit: int | None) -> Written:
    """Return a text with its critical spans as a line of documents.jsonl, and its n-grams up to a limit if any."""
    spans = find_spans(text, matcher)
    record = {
        "document_id": place.source,
        "language": place.language,
        "split": place.split,
        "cluster": place.cluster,
        "text": text,
        # by hand: dataclasses.asdict takes longer than finding the spans
        "spans": [{"start": s.start, "end": s.end, "kind": s.kind, "term": s.term} for s in spans],
    }
    n_spans = Counter(span.kind for span in spans)
    line = json.dumps(record, ensure_ascii=False).encode() + b"\n"
    return Written(line, len(text), dict(n_spans), b"" if limit is None else ngrams(text, language, limit).tobytes())
