"""Readers of Office files: Word, Excel, PowerPoint. Each takes bytes and returns text."""

import datetime
import io
import zipfile
from collections.abc import Iterator
from typing import Any

import docx
import openpyxl
import pptx
from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import iterparse
from pptx.enum.shapes import PP_PLACEHOLDER

from flows.corpus.limits import HARMLESS_BYTES, Limits
from flows.corpus.reasons import Refused
from flows.corpus.rows import row_text
from flows.corpus.word import word_lines

__all__ = ["check_package", "read_docx", "read_pptx", "read_xlsx"]

MAX_ROW = 1_048_576
"""Rows of an Excel sheet."""
FRAME = {PP_PLACEHOLDER.FOOTER, PP_PLACEHOLDER.SLIDE_NUMBER, PP_PLACEHOLDER.DATE, PP_PLACEHOLDER.HEADER}


def check_package(raw: bytes, limits: Limits) -> None:
    """Look into an Office file before its library does.

    Raises:
        Refused: ``archive_bomb`` when its parts unpack to too much, ``xml_entities`` when a part has a document
            type (the standard forbids it), ``damaged`` when it is no complete zip file of XML.
    """
    with zipfile.ZipFile(io.BytesIO(raw)) as package:
        members = package.infolist()
        n_bytes = sum(info.file_size for info in members)
        allowed = min(limits.max_office_bytes, max(limits.max_archive_ratio * len(raw), HARMLESS_BYTES))
        if n_bytes > allowed or len(members) > limits.max_archive_members:
            raise Refused("archive_bomb", f"{len(raw)} bytes unpack to {n_bytes}")
        for info in members:
            if info.filename.lower().endswith((".xml", ".rels")) and info.file_size:
                with package.open(info) as part:
                    _check_xml(part)


def _check_xml(part: Any) -> None:
    try:
        # a document type stands before the first element
        next(iterparse(part, events=("start",), forbid_dtd=True))
    except DefusedXmlException:
        raise Refused("xml_entities", "a part has a document type") from None


def read_docx(raw: bytes, limits: Limits) -> tuple[str, None]:
    """Return paragraphs, text boxes, tables and notes of a Word file; headers and footers are left out."""
    check_package(raw, limits)
    document = docx.Document(io.BytesIO(raw))
    return "\n".join(word_lines(document)).strip("\n"), None


def read_xlsx(raw: bytes, limits: Limits) -> tuple[str, None]:
    """Return the rows of every sheet under its name: the values that Excel computed last, not the formulas."""
    check_package(raw, limits)
    book = openpyxl.load_workbook(io.BytesIO(raw), read_only=True, data_only=True)
    sheets = []
    for sheet in book.worksheets:
        # the stated size may be a lie of millions of empty cells
        sheet.reset_dimensions()
        rows = [line for row in _rows(sheet) if (line := row_text([_cell(value) for value in row]))]
        if rows:
            sheets.append("\n".join([sheet.title, *rows]))
    return "\n\n".join(sheets), None


def _rows(sheet: Any) -> Iterator[tuple[Any, ...]]:
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        if number > MAX_ROW:
            raise Refused("damaged", f"a sheet has more than {MAX_ROW} rows")
        yield row


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, str) and value.startswith("#") and value.endswith(("!", "?", "/A"))):
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else value.isoformat(" ", "minutes")
    return str(value)


def read_pptx(raw: bytes, limits: Limits) -> tuple[str, None]:
    """Return the text of the slides, their tables as rows, their notes after them; a blank line between slides."""
    check_package(raw, limits)
    slides = []
    for slide in pptx.Presentation(io.BytesIO(raw)).slides:
        lines = [line for shape in slide.shapes for line in _shape(shape)]
        if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
            lines.extend(_paragraphs(slide.notes_slide.notes_text_frame))
        slides.append("\n".join(lines))
    return "\n\n".join(text for text in slides if text), None


def _shape(shape: Any) -> Iterator[str]:
    if shape.is_placeholder and shape.placeholder_format.type in FRAME:
        return
    if hasattr(shape, "shapes"):
        for inner in shape.shapes:
            yield from _shape(inner)
    elif shape.has_text_frame:
        yield from _paragraphs(shape.text_frame)
    elif getattr(shape, "has_table", False):
        for row in shape.table.rows:
            line = row_text([cell.text for cell in row.cells if not cell.is_spanned])
            if line:
                yield line


def _paragraphs(frame: Any) -> Iterator[str]:
    for paragraph in frame.paragraphs:
        text = paragraph.text.replace("\v", "\n").strip()
        if text:
            yield text
