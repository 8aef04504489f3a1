"""Reader of HTML: what a person sees on the page, without menus, scripts and styles."""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from flows.corpus.decode import decode
from flows.corpus.limits import Limits
from flows.corpus.reasons import Refused
from flows.corpus.rows import row_text

__all__ = ["html_text", "read_html"]

UNSEEN = (
    "head, script, style, noscript, template, svg, math annotation, iframe, object, canvas, audio, video, select, "
    "button, nav, footer, [hidden], [aria-hidden=true], [role=navigation], [role=banner], [role=contentinfo], "
    "[role=search], [style*='display:none'], [style*='display: none']"
)
ITEMS = "hr, li, tr, td, th, dt, dd"
"""Elements that end where the next one begins."""
BLOCKS = "div, summary, figcaption, caption, legend, address"
PARAGRAPHS = (
    "p, h1, h2, h3, h4, h5, h6, table, ul, ol, dl, pre, blockquote, section, article, main, aside, header, form, "
    "fieldset, figure, details"
)
DATA_TABLES = "table:not(:has(table))"
"""A table that holds another one lays out the page; the inner one holds the data."""

# noncharacters of Unicode: no text holds them, unlike the private use area
_BREAK = "\ufdd0"
_PARAGRAPH = "\ufdd1"
_VERBATIM = "\ufdd2"
_MARKS = (_BREAK, _PARAGRAPH, _VERBATIM)
_OWN = re.compile("[\ufdd0-\ufdd2]")
_DECLARED = re.compile(
    rb"""(?i)<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})|<\?xml[^>]{0,100}?encoding\s*=\s*["']([\w.:-]{1,40})"""
)
_ENTITIES = re.compile(r"<!DOCTYPE[^>]*\[|<!ENTITY", re.IGNORECASE)
_HEAD = 4096
"""Where an encoding or entities are declared. [bytes or characters]"""


def read_html(raw: bytes, limits: Limits) -> tuple[str, str]:
    """Return the visible text of a page, its title first, and its encoding.

    Raises:
        Refused: ``xml_entities`` when the page defines entities, and what ``decode`` raises.
    """
    del limits
    match = _DECLARED.search(raw, 0, _HEAD)
    declared = (match.group(1) or match.group(2)).decode("ascii") if match else None
    text, encoding = decode(raw, declared)
    if _ENTITIES.search(text, 0, _HEAD):
        raise Refused("xml_entities", "the document type defines entities")
    return html_text(text), encoding


def html_text(html: str) -> str:
    """Return the visible text: a line per block, a blank line between paragraphs, tables as rows with bars."""
    tree = LexborHTMLParser(_OWN.sub("", html) if any(mark in html for mark in _MARKS) else html)
    root, title = tree.root, tree.css_first("head > title")
    heading = " ".join(title.text().split()) if title is not None else ""
    if root is None:
        return ""
    for node in tree.css(UNSEEN):
        node.decompose()
    for node in tree.css("br"):
        node.replace_with(_BREAK)
    for node in tree.css("pre"):
        lines = node.text().replace(_BREAK, "\n").strip("\n").split("\n")
        node.replace_with(_PARAGRAPH + _BREAK.join(_VERBATIM + line for line in lines) + _PARAGRAPH)
    for selector, mark in ((BLOCKS, _BREAK), (PARAGRAPHS, _PARAGRAPH)):
        for node in tree.css(selector):
            node.insert_before(mark)
            node.insert_after(mark)
    for table in tree.css(DATA_TABLES):
        table.replace_with(_BREAK.join(_rows(table)))
    for node in tree.css(ITEMS):
        node.insert_before(_BREAK)
    paragraphs = [_lines(part) for part in root.text().split(_PARAGRAPH) if part and not part.isspace()]
    body = "\n\n".join([paragraph for paragraph in paragraphs if paragraph])
    return f"{heading}\n\n{body}" if heading and not body.startswith(heading) else body


def _lines(paragraph: str) -> str:
    if _BREAK not in paragraph and not paragraph.startswith(_VERBATIM):
        return " ".join(paragraph.split())
    lines = []
    for part in paragraph.split(_BREAK):
        if part.startswith(_VERBATIM):
            lines.append(part[1:].rstrip())
        elif words := part.split():
            lines.append(" ".join(words))
    return "\n".join(lines)


def _rows(table: LexborNode) -> Iterator[str]:
    for group in table.iter():
        if group.tag == "caption":
            yield " ".join(_plain(group).split())
        for row in group.iter():
            if row.tag == "tr":
                yield row_text([_plain(cell) for cell in row.iter() if cell.tag in {"td", "th"}])


def _plain(node: LexborNode) -> str:
    return _OWN.sub(" ", node.text())
