"""The text of a Word document, from its XML.

``python-docx`` opens the package; its ``paragraph.text`` leaves out text boxes, inserted changes, content controls
and notes, which are everyday in office documents, so the words are taken from the elements themselves.
"""

from collections.abc import Iterator
from typing import Any

from docx.document import Document
from docx.oxml import parse_xml
from docx.oxml.ns import qn

from flows.corpus.rows import row_text

__all__ = ["word_lines"]

_P, _TABLE, _ROW, _CELL, _TEXT = (qn(f"w:{name}") for name in ("p", "tbl", "tr", "tc", "t"))
_PLAIN = {
    qn("w:tab"): "\t",
    qn("w:br"): "\n",
    qn("w:cr"): "\n",
    qn("w:noBreakHyphen"): "-",
}
_BOX = qn("w:txbxContent")
# deleted and moved text, the reading above a kanji, tab stops, and the copy of a drawing for old programs
_LEFT_OUT = {
    *(qn(f"w:{name}") for name in ("del", "moveFrom", "rt", "pPr", "rPr", "sectPr")),
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
}
_NOTES = ("/footnotes", "/endnotes")


def word_lines(document: Document) -> Iterator[str]:
    """Yield the paragraphs and tables of a document in reading order, then its footnotes and endnotes.

    An empty line follows each paragraph and each table, whose rows are lines.
    """
    yield from _lines(document.element.body)
    for relation in document.part.rels.values():
        if not relation.is_external and relation.reltype.endswith(_NOTES):
            yield from _lines(parse_xml(relation.target_part.blob))


def _lines(parent: Any) -> Iterator[str]:
    for element in parent:
        if element.tag == _P:
            words: list[str] = []
            boxes: list[Any] = []
            _collect(element, words, boxes)
            yield from ("".join(words), "")
            for box in boxes:
                yield from _lines(box)
        elif element.tag == _TABLE:
            yield from (*_rows(element), "")
        elif element.tag not in _LEFT_OUT:
            yield from _lines(element)


def _rows(table: Any) -> Iterator[str]:
    for row in table.iter(_ROW):
        # rows of a table inside a cell belong to that cell
        if next(row.iterancestors(_TABLE)) is table:
            line = row_text([" ".join(_lines(cell)) for cell in _cells(row)])
            if line:
                yield line


def _cells(parent: Any) -> Iterator[Any]:
    for element in parent:
        if element.tag == _CELL:
            yield element
        elif element.tag != _TABLE and element.tag not in _LEFT_OUT:
            yield from _cells(element)


def _collect(parent: Any, words: list[str], boxes: list[Any]) -> None:
    for element in parent:
        if element.tag == _TEXT:
            words.append(element.text or "")
        elif element.tag in _PLAIN:
            words.append(_PLAIN[element.tag])
        elif element.tag == _BOX:
            boxes.append(element)
        elif element.tag not in _LEFT_OUT:
            _collect(element, words, boxes)
