"""Plain text of one manual page: parse the HTML, drop the furniture, join broken Japanese lines."""

import re
from collections.abc import Iterator
from pathlib import Path

from lxml import html

__all__ = ["cell_text", "is_english", "is_japanese", "page_blocks", "read_page", "tidy"]

JA = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u3005\uff66-\uff9f"
WIDE = JA + r"\u3000-\u3004\u3006-\u303f\uff00-\uff65"
JA_LETTER = re.compile(f"[{JA}]")
SPACE_IN_JAPANESE = re.compile(rf"(?<=[{WIDE}]) (?=[{WIDE}])")
SPACE_AT_WIDE_MARK = re.compile(r" (?=[、。，．」』）])|(?<=[、。，．「『（]) ")
SPACE_BEFORE_MARK = re.compile(rf"(?<=[{WIDE}]) (?=[:?!](?:\s|$))")
SPACE_AT_ASCII_MARK = re.compile(r" (?=[,;.)](?:[\s\u3040-\u9fff]|$))|(?<=\() ")

DROP = (
    ".//script|.//style|.//pre|.//button|.//svg|.//form|.//img|.//*[@id='quickview']|.//*[@id='toc']"
    "|.//*[@id='comments_section']|.//*[@id='path']|.//*[@id='footer']|.//*[@id='page-header']"
    "|.//*[contains(concat(' ', @class, ' '), ' top ')]"
    "|.//*[@class='toplang' or @class='bottomlang' or @class='up' or @class='outofdate'"
    " or @class='permalink' or @class='example' or @class='seealso' or @class='related'"
    " or @class='letters' or @class='qref' or @class='figure']"
)
SEE_ALSO_LIST = (
    ".//ul[preceding-sibling::*[1][self::h3 and (normalize-space()='参照' or normalize-space()='See also')]]"
)
STATUS_ROW = ".//table[@class='directive' or @class='module']//tr[th/a[contains(@href, '#Status')]]"
BLOCKS = {"p", "li", "dt", "dd", "h1", "h2", "h3", "h4", "h5", "div", "ul", "ol", "dl", "table", "blockquote"}
UNTRANSLATED = (
    "このディレクティブの解説文書はまだ翻訳されていません",
    "このモジュールの解説文書はまだ翻訳されていません",
    "Documentation for this directive has not yet been translated",
    "The documentation for this directive has not been translated yet",
    "英語版をご覧ください",
)
FURNITURE = {"Bugfix checklist", "トピック", "参照", "See also", "例", "例:", "Example", "Examples", "参考文献"}
LABEL_ONLY = re.compile(r"\[\w+\]|[\W_]+")


def tidy(text: str) -> str:
    """Collapse white space; remove the spaces that joined line breaks left inside Japanese."""
    text = re.sub(r"\s+", " ", text.replace("¶", " ")).strip()
    text = SPACE_IN_JAPANESE.sub("", text)
    text = SPACE_AT_WIDE_MARK.sub("", text)
    text = SPACE_BEFORE_MARK.sub("", text)
    return SPACE_AT_ASCII_MARK.sub("", text)


def is_japanese(text: str, share: float = 0.1) -> bool:
    """True when Japanese letters make up at least ``share`` of the characters that are not spaces."""
    n_letters = len(re.sub(r"\s", "", text))
    return n_letters > 0 and len(JA_LETTER.findall(text)) / n_letters >= share


def is_english(text: str) -> bool:
    """True unless more than 1 in 200 characters is a Latin letter with an accent (a page in another language)."""
    return len(re.findall(r"[\u00c0-\u024f]", text)) * 200 <= len(text)


def read_page(path: Path) -> html.HtmlElement:
    """Content element of a manual page without scripts, boxes, code listings and permalinks."""
    root = html.document_fromstring(path.read_bytes(), parser=html.HTMLParser(encoding="utf-8"))
    content = root.find(".//div[@id='page-content']")
    content = root.body if content is None else content
    for element in content.xpath(f"{DROP}|{SEE_ALSO_LIST}|{STATUS_ROW}"):
        element.drop_tree()
    return content


def cell_text(element: html.HtmlElement) -> str:
    """Text of a table cell or an inline element on one line."""
    for line_break in element.iter("br"):
        line_break.tail = " " + (line_break.tail or "")
    return tidy(element.text_content())


def page_blocks(content: html.HtmlElement, language: str) -> list[str]:
    """Blocks of a page in reading order, one string each; Japanese pages lose their English remains."""
    if language == "ja":
        _drop_untranslated(content)
    blocks = [block for block in _walk(content) if block not in FURNITURE and not LABEL_ONLY.fullmatch(block)]
    blocks = [block for block in blocks if block and not block.startswith(UNTRANSLATED)]
    if language == "ja":
        blocks = [block for block in blocks if JA_LETTER.search(block) or len(block) <= 40]
    return _without_repeats(blocks)


def _drop_untranslated(content: html.HtmlElement) -> None:
    for section in content.xpath(".//div[@class='directive-section']"):
        body = " ".join(cell_text(p) for p in section.xpath(".//p|.//li|.//dd"))
        description = " ".join(cell_text(td) for td in section.xpath(".//table[@class='directive']/tr[1]/td"))
        for notice in UNTRANSLATED:
            body = body.replace(notice, "")
        if not is_japanese(description) and not is_japanese(body):
            section.drop_tree()


def _walk(element: html.HtmlElement) -> Iterator[str]:
    """Depth-first walk that flushes the collected inline text at every block boundary."""
    inline: list[str] = [element.text or ""]
    for child in element:
        if isinstance(child.tag, str) and child.tag == "tr":
            yield _flush(inline)
            yield _row(child)
        elif isinstance(child.tag, str) and (child.tag in BLOCKS or child.tag in {"tbody", "thead"}):
            yield _flush(inline)
            yield from _walk(child)
        elif isinstance(child.tag, str) and child.tag == "br":
            yield _flush(inline)
        elif isinstance(child.tag, str) and child.xpath(".//p|.//li|.//dd|.//tr"):
            yield _flush(inline)
            yield from _walk(child)
        elif isinstance(child.tag, str):
            inline.append(child.text_content())
        inline.append(child.tail or "")
    yield _flush(inline)


def _flush(inline: list[str]) -> str:
    text = tidy("".join(inline))
    inline.clear()
    return text


def _row(row: html.HtmlElement) -> str:
    cells = [cell_text(cell) for cell in row if isinstance(cell.tag, str)]
    cells = [cell for cell in cells if cell]
    if len(cells) == 2 and cells[0].endswith(":"):
        return f"{cells[0]} {cells[1]}"
    return " | ".join(cells)


def _without_repeats(blocks: list[str]) -> list[str]:
    """Drop neighbouring repeats, which removed listings leave behind."""
    return [block for i, block in enumerate(blocks) if i == 0 or block != blocks[i - 1]]
