"""One file to its texts: chooses the reader by suffix and first bytes, and turns every fault into a rejection.

Readers take whatever a file holds, from well-meant to hostile, so nothing that a library raises leaves this module.
What a library does below Python - a crash, endless work, all the memory - is the business of ``isolate``.
"""

import io
import os
import re
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

from flows.corpus.decode import without_controls
from flows.corpus.formats import MEDIA_TYPES, OFFICE, supported
from flows.corpus.limits import Limits
from flows.corpus.names import suffix_of
from flows.corpus.reasons import Refused
from flows.corpus.types import FileRef, Rejected, Text

__all__ = ["read", "read_part"]

Found = list[Text | Rejected]
Read = Callable[[bytes, Limits], tuple[str, str | None]]

PDF = b"%PDF-"
PDF_HEAD = 1024
"""Where the mark of a PDF may stand. [bytes]"""
ZIP = b"PK\x03\x04"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""First bytes of old Office files, and of new ones with a password."""
_MAIN_PARTS = {"word/": ".docx", "xl/": ".xlsx", "ppt/": ".pptx"}
_HALVES = re.compile("[\ud800-\udfff]")


def read(ref: FileRef, limits: Limits) -> Found:
    """Return what a file holds: its texts, and what of it is not used and why. Never empty, never raises.

    Args:
        ref: The file; the suffix of its source says how it is read.
        limits: Of its size and of the length of its lines.
    """
    suffix = suffix_of(ref.source)
    try:
        if suffix == ".mbox":
            return _guarded(ref.source, suffix, lambda: _mail_box(ref, limits))
        _check_suffix(suffix)
        raw = _bytes(ref.path, limits)
    except Refused as refused:
        return [Rejected(ref.source, refused.reason, refused.detail)]
    except OSError as error:
        return [Rejected(ref.source, "unreadable", error.strerror or type(error).__name__)]
    except MemoryError:
        return [Rejected(ref.source, "too_large", "it needs more memory than one file may take")]
    return read_part(raw, ref.source, limits)


def read_part(raw: bytes, source: str, limits: Limits) -> Found:
    """Return what the bytes of a file or of an attachment hold; as ``read``."""
    suffix = suffix_of(source)
    return _guarded(source, suffix, lambda: _texts(raw, source, suffix, limits))


def _guarded(source: str, suffix: str, call: Callable[[], Found]) -> Found:
    try:
        with warnings.catch_warnings():
            # libraries warn of oddities of the file, sometimes quoting it
            warnings.simplefilter("ignore")
            return call()
    except Refused as refused:
        return [Rejected(source, refused.reason, refused.detail)]
    except MemoryError:
        return [Rejected(source, "too_large", "it needs more memory than one file may take")]
    except RecursionError:
        return [Rejected(source, "damaged", f"nested too deep for the reader of {suffix}")]
    except Exception as error:
        # the libraries raise anything, from KeyError to their own, on files that break their format
        return [Rejected(source, "damaged", f"{type(error).__name__} in the reader of {suffix}")]


def _check_suffix(suffix: str) -> None:
    if suffix not in MEDIA_TYPES:
        raise Refused("unsupported_type", f"expected one of {supported()}, got {suffix or 'none'}")


def _bytes(path: Path, limits: Limits) -> bytes:
    # no link that was put in its place since, and no pipe that would wait for a writer
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Refused("special_file", "not a regular file")
        if os.fstat(file.fileno()).st_size > limits.max_file_bytes:
            raise Refused("too_large", f"more than {limits.max_file_bytes} bytes")
        return file.read(limits.max_file_bytes)


def _mail_box(ref: FileRef, limits: Limits) -> Found:
    from flows.corpus.readers_mail import read_mail_box

    if ref.path.lstat().st_size > limits.max_file_bytes:
        raise Refused("too_large", f"more than {limits.max_file_bytes} bytes")
    if not ref.path.lstat().st_size:
        raise Refused("empty", "no bytes")
    found = read_mail_box(ref.path, ref.source, limits, lambda raw, source: read_part(raw, source, limits))
    return [_finished(entry, limits) for entry in found]


def _texts(raw: bytes, source: str, suffix: str, limits: Limits) -> Found:
    _check_suffix(suffix)
    if not raw:
        raise Refused("empty", "no bytes")
    kind = _kind(raw, suffix)
    if kind == ".eml":
        from flows.corpus.readers_mail import read_mail

        found = read_mail(raw, source, limits, lambda part, name: read_part(part, name, limits))
        return [_finished(entry, limits) for entry in found]
    text, encoding = _reader(kind)(raw, limits)
    return [_finished(Text(source, text, MEDIA_TYPES[kind], encoding), limits)]


def _kind(raw: bytes, suffix: str) -> str:
    """The suffix whose reader fits the first bytes: a Word file named ``.txt`` is a Word file."""
    if raw.startswith(OLE):
        raise _ole(raw, suffix)
    if raw.startswith(PDF) or (suffix == ".pdf" and PDF in raw[:PDF_HEAD]):
        return ".pdf"
    if raw.startswith(ZIP):
        return _package(raw, suffix)
    if suffix == ".pdf" or suffix in OFFICE:
        raise Refused("damaged", f"its first bytes are not those of {suffix}")
    return suffix


def _package(raw: bytes, suffix: str) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as package:
            for name in package.namelist():
                for start, kind in _MAIN_PARTS.items():
                    if name.startswith(start):
                        return kind
    except (zipfile.BadZipFile, ValueError, OSError):
        if suffix in OFFICE:
            raise Refused("damaged", "not a complete zip file: the file may be cut off") from None
    raise Refused("damaged" if suffix in OFFICE else "not_text", f"a zip file without the parts of {suffix}")


def _ole(raw: bytes, suffix: str) -> Refused:
    import msoffcrypto

    if msoffcrypto.OfficeFile(io.BytesIO(raw)).is_encrypted():
        return Refused("encrypted", "it needs a password")
    if suffix in OFFICE:
        return Refused("unsupported_type", f"an Office file from before 2007; save it as {suffix}")
    return Refused("not_text", "an Office file from before 2007")


def _reader(kind: str) -> Read:
    # each library is loaded with the first file that needs it
    if kind == ".pdf":
        from flows.corpus.readers_pdf import read_pdf

        return read_pdf
    if kind in OFFICE:
        from flows.corpus import readers_office as office

        return {".docx": office.read_docx, ".xlsx": office.read_xlsx, ".pptx": office.read_pptx}[kind]
    if MEDIA_TYPES[kind] == "text/html":
        from flows.corpus.readers_html import read_html

        return read_html
    from flows.corpus import readers_text as text

    return {
        "text/csv": text.read_csv,
        "text/tab-separated-values": text.read_tsv,
        "application/json": text.read_json,
        "application/jsonl": text.read_json_lines,
    }.get(MEDIA_TYPES[kind], text.read_plain)


def _finished(entry: Text | Rejected, limits: Limits) -> Text | Rejected:
    """A text that can be stored as UTF-8, or why it is none."""
    if isinstance(entry, Rejected):
        return entry
    text = entry.text
    if not _is_whole(text):
        text = _HALVES.sub("\ufffd", text)
    try:
        _check_lines(text, limits)
        text = without_controls(text)
    except Refused as refused:
        return Rejected(entry.source, refused.reason, refused.detail)
    if not text.strip():
        return Rejected(entry.source, "empty", "no text")
    return Text(entry.source, text, entry.media_type, entry.encoding)


def _is_whole(text: str) -> bool:
    """Whether a text has no half of a character; encoding it takes a tenth of the time of looking for them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_lines(text: str, limits: Limits) -> None:
    position, longest = 0, limits.max_line_characters
    while len(text) - position > longest:
        # the last line end within reach: one step per million characters, not per line
        end = text.rfind("\n", position, position + longest + 1)
        if end < 0:
            raise Refused("line_too_long", f"a line of more than {longest} characters at character {position}")
        position = end + 1
