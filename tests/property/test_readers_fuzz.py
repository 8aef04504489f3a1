"""Every reader on whatever bytes come: a file ends as text or as a rejection, never as an exception.

`READER_FUZZ_EXAMPLES=800` runs 800 cases in each of the 13 tests, more than ten thousand together.
"""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.corpus import archives
from flows.corpus.decode import decode
from flows.corpus.formats import MEDIA_TYPES
from flows.corpus.limits import Limits
from flows.corpus.readers import read, read_part
from flows.corpus.reasons import REASONS, Refused
from flows.corpus.types import FileRef, Rejected, Text
from tests.unit.flows.corpus import documents as make

EXAMPLES = int(os.environ.get("READER_FUZZ_EXAMPLES", "20"))
LIMITS = Limits(max_file_bytes=2**20, max_line_characters=10_000, max_archive_bytes=2**20)
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


@functools.cache
def valid(suffix: str) -> bytes:
    """A small valid file of the type."""
    rows = [["品名", "数"], ["ねじ", "3"]]
    makers = {
        ".docx": lambda: make.docx_bytes("はじめに\nText", rows),
        ".xlsx": lambda: make.xlsx_bytes({"計画": rows}),
        ".pptx": lambda: make.pptx_bytes("題", "body", "notes", rows),
        ".pdf": lambda: make.japanese_pdf_bytes(["一頁目", "page two"]),
        ".html": "<meta charset=utf-8><title>題</title><table><tr><td>a<td><p>b</table><pre>x</pre><ul><li>c".encode,
        ".csv": lambda: '品名,数\n"ね, じ",3\n'.encode("cp932"),
        ".json": '[{"a": "品名", "b": [1, "x"]}]'.encode,
        ".jsonl": lambda: '{"a": "品名"}\n{"b": ["x"]}\n'.encode("euc_jp"),
        ".eml": lambda: make.mail_bytes("件名", "本文", {"添付.txt": b"text", "b.docx": valid(".docx")}, "<p>本文"),
        ".zip": lambda: make.zip_bytes({"a.txt": b"text", "b/c.md": b"text", "d.zip": make.zip_bytes({"e.txt": b"x"})}),
    }
    return makers[suffix]()


BINARY = (".docx", ".xlsx", ".pptx", ".pdf")
MARKED = (".html", ".csv", ".json", ".jsonl", ".eml")


@st.composite
def mutated(draw: st.DrawFn, raw: bytes) -> bytes:
    """The bytes with a few of them changed, cut out, doubled or cut off."""
    data = bytearray(raw)
    for _ in range(draw(st.integers(1, 6))):
        position = draw(st.integers(0, max(len(data) - 1, 0)))
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(["set", "remove", "insert", "repeat", "cut"])):
            case "set":
                data[position : position + 1] = draw(st.binary(min_size=1, max_size=1))
            case "remove":
                del data[position : position + length]
            case "insert":
                data[position:position] = draw(st.binary(max_size=20))
            case "repeat":
                data[position:position] = data[position : position + length] * draw(st.integers(1, 50))
            case _:
                del data[max(position, 1) :]
    return bytes(data)


def check(found: list[Text | Rejected], source: str) -> None:
    """What every reader promises about its answer."""
    assert found
    assert all(entry.source == source or entry.source.startswith(f"{source}!/") for entry in found)
    for entry in found:
        if isinstance(entry, Rejected):
            assert entry.reason in REASONS
            assert entry.detail
        else:
            entry.text.encode()
            assert entry.text.strip()
            assert entry.media_type in MEDIA_TYPES.values()
            assert not any(chr(code) in entry.text for code in (*range(9), *range(14, 32)))


@pytest.mark.parametrize("suffix", [*BINARY, *MARKED])
def test_readers_survive_mutated_files(suffix: str) -> None:
    """A valid file with damage anywhere in it."""
    raw = valid(suffix)

    @fuzz
    @given(mutated(raw))
    def run(data: bytes) -> None:
        check(read_part(data, f"a{suffix}", LIMITS), f"a{suffix}")

    (first, *_) = read_part(raw, f"a{suffix}", LIMITS)
    assert isinstance(first, Text)
    run()


@fuzz
@given(
    st.binary(max_size=300), st.sampled_from(sorted(MEDIA_TYPES)), st.sampled_from([b"", b"%PDF-1.7\n", b"PK\x03\x04"])
)
def test_readers_survive_any_bytes(data: bytes, suffix: str, head: bytes) -> None:
    """Bytes that are no file of the type, with and without its first bytes."""
    source = "a.txt" if suffix == ".mbox" else f"a{suffix}"
    check(read_part(head + data, source, LIMITS), source)


@fuzz
@given(mutated(b"From a@example.com Mon Jan  1 00:00:00 2024\nSubject: x\n\nbody\n\nFrom b\nTo: y\n\nmore\n"))
def test_mail_boxes_survive(data: bytes) -> None:
    """Mail boxes with damaged messages."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mbox"
        path.write_bytes(data)
        check(read(FileRef("a.mbox", path, len(data)), LIMITS), "a.mbox")


def test_archives_survive() -> None:
    """Zip files with damage: members are rejected or lie in the working folder with their stated size."""

    @fuzz
    @given(mutated(valid(".zip")))
    def run(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.zip"
            path.write_bytes(data)
            work = Path(folder) / "work"
            work.mkdir()
            found = archives.unpack(path, "a.zip", work, LIMITS)
            assert found
            assert len({entry.source for entry in found}) == len(found)
            for entry in found:
                if isinstance(entry, FileRef):
                    assert entry.path.resolve().is_relative_to(work.resolve())
                    assert entry.path.stat().st_size == entry.n_bytes
                else:
                    assert entry.reason in REASONS

    run()


ENCODINGS = ("utf-8", "utf-16", "utf-16-le", "cp932", "euc_jp", "iso2022_jp", "cp1252")


@fuzz
@given(st.text(max_size=200), st.sampled_from(ENCODINGS), st.data())
def test_decoding_survives(text: str, encoding: str, data: st.DataObject) -> None:
    """Damaged text of every encoding is text or refused, and never has other characters put in."""
    raw = data.draw(mutated(text.encode(encoding, "ignore") + b" "))
    declared = data.draw(st.sampled_from([None, "shift_jis", "utf-7", "hex", "\x00", "iso-8859-5"]))
    try:
        decoded, name = decode(raw, declared)
    except Refused as refused:
        decoded, name = "", refused.reason
    assert name in REASONS or "x".encode(name)
    decoded.encode()
