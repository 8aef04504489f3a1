"""Whole paragraphs from lines that were broken at a fixed width.

A block is what stands between empty lines. Two lines of it belong together when the first word of the second would
not have fitted on the first: that is how text is wrapped, and not how lists, headings, addresses, tables and code
look. Widths are in columns; a Japanese character takes two.
"""

import re
from collections.abc import Sequence
from itertools import groupby, pairwise

__all__ = ["join_wrapped_lines"]

MIN_WIDTH = 40
MAX_WIDTH = 130
"""Widths at which text is wrapped; blocks that are narrower or wider are left alone. [columns]"""
SLACK = 0.88
"""Share of the width that a full line takes at least, with the word that did not fit: proportional fonts differ."""
SENTENCE_END = tuple(".!?:;。．！？：；」』)）")

_ITEM = re.compile(
    r"\s*(?:[-*+•・●○■□◆◇▪–—※→>#|]\s*\S|[(（]?[0-9０-９]{1,3}[.)）．、:：](?![0-9])|[(（]?[A-Za-z][.)）]\s|[①-⓿❶-➓]"
    r"|第[0-9０-９一二三四五六七八九十百]+[章節条項部]|[【〔<〈《]|[0-9]{4}[-/.年][0-9]|[0-9]{1,2}:[0-9]{2}"
    r"|[\w.\-]{1,40}\s?[=：]|\S{1,40}:(?:\s|$)|=== |\+\+\+)"
    r"|\u3000"
)
"""Starts a line of its own: list items, headings, quotes, log lines, settings, fields, an indented paragraph."""
_ALONE = re.compile(r"\s*[#>|]")
"""A line that nothing is joined to: heading, quote, table row."""
_CODE_ENDS = (";", "{", "}", "\\", ">")
_COLUMN_MARKS = ",\t|;"
_WORD = re.compile(r"\s*([!-~\u00c0-\u024f]+)")
_CJK = re.compile(r"[\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uff00-\uffef]")
_HYPHENATED = re.compile(r"([^\W\d_]{2,})-$")
_WORD_START = re.compile(r"[^\W\d_]+")
_FENCES = ("```", "~~~")
_MIN_LOWER_CASE = 0.4
"""Share of the continuation lines of Latin prose that start in lower case, or after a comma or hyphen, at least."""


def join_wrapped_lines(text: str) -> str:
    """Text with the wrapped lines of each paragraph joined: by a blank, or by nothing next to Japanese.

    Each joined paragraph is set off by empty lines. What is between code fences stays as it is.
    """
    words = set(text.split()) if "-\n" in text else set()
    has_fences = any(fence in text for fence in _FENCES)
    blocks = []
    fenced = False
    for block in text.strip("\n").split("\n\n"):
        n_fences = 0
        if has_fences:
            n_fences = sum(line.lstrip().startswith(_FENCES) for line in block.split("\n"))
        if fenced or n_fences:
            fenced ^= n_fences % 2 == 1
            blocks.append(block)
        else:
            blocks.append(_joined(block, words))
    return "\n\n".join(blocks)


def _width(line: str) -> int:
    """Columns: 1 for ASCII, 2 for what takes three bytes in UTF-8, as nearly all Japanese does."""
    return len(line) if line.isascii() else (len(line) + len(line.encode("utf-8", "surrogatepass"))) // 2


def _joined(block: str, words: set[str]) -> str:
    """Block with its wrapped lines joined, and what stays apart of it looked at again."""
    if "\n" not in block:
        return block
    lines = block.split("\n")
    joins = _joins(block, lines)
    if not any(joins):
        return block
    paragraphs = [[lines[0]]]
    for line, join in zip(lines[1:], joins, strict=True):
        if join:
            paragraphs[-1].append(line)
        else:
            paragraphs.append([line])
    parts = []
    for is_single, group in groupby(paragraphs, key=lambda paragraph: len(paragraph) == 1):
        if is_single:
            parts.append(_joined("\n".join(paragraph[0] for paragraph in group), words))
        else:
            parts.extend(_one_line(paragraph, words) for paragraph in group)
    return "\n\n".join(parts)


def _joins(block: str, lines: Sequence[str]) -> list[bool]:
    """Whether each line but the first belongs to the line before it."""
    none = [False] * (len(lines) - 1)
    widths = [_width(line) for line in lines]
    width = max(widths)
    if not MIN_WIDTH <= width <= MAX_WIDTH or _is_table(lines):
        return none
    is_code = [_is_code(line) for line in lines]
    joins, is_latin, is_prose = list(none), list(none), list(none)
    for at, (line, following) in enumerate(pairwise(lines)):
        if is_code[at] or is_code[at + 1] or not _would_not_fit(widths[at], following, width):
            continue
        if _ITEM.match(following) or _ALONE.match(line) or _is_indented_more(line, following):
            continue
        joins[at] = True
        is_latin[at] = not _meets_cjk(line, following)
        is_prose[at] = line[-1] in ",-" or following.lstrip()[:1].islower()
    if not any(join and not line.endswith(SENTENCE_END) for join, line in zip(joins, lines, strict=False)):
        return none
    if sum(is_prose) < _MIN_LOWER_CASE * sum(is_latin):
        return [join and not latin for join, latin in zip(joins, is_latin, strict=True)]
    return joins


def _is_code(line: str) -> bool:
    """Whether a line is code or a row of a table laid out with blanks: indented, columns, a call, a statement."""
    if line.startswith(("    ", "\t")) or line.endswith(_CODE_ENDS) or "   " in line or "\t" in line:
        return True
    before_bracket = line[line.rfind("(") - 1] if line.endswith(")") else " "
    return line.count("|") > 1 or (before_bracket.isascii() and before_bracket.isalnum())


def _is_table(lines: Sequence[str]) -> bool:
    return any(lines[0].count(mark) >= 2 and len({line.count(mark) for line in lines}) == 1 for mark in _COLUMN_MARKS)


def _would_not_fit(taken: int, following: str, width: int) -> bool:
    word = _WORD.match(following)
    needed = 2 if word is None else min(1 + len(word[1]), width // 2)
    return taken + needed > SLACK * width


def _is_indented_more(line: str, following: str) -> bool:
    indent = len(line) - len(line.lstrip())
    return len(following) - len(following.lstrip()) > indent and _ITEM.match(line) is None


def _meets_cjk(line: str, following: str) -> bool:
    if line.isascii() and following.isascii():
        return False
    return _CJK.match(line[-1]) is not None or _CJK.match(following.lstrip()) is not None


def _one_line(lines: Sequence[str], words: set[str]) -> str:
    """Joined lines; a hyphen at a line end goes where the solid word stands elsewhere in the text."""
    parts = [lines[0]]
    for line, following in pairwise(lines):
        start = following.lstrip()
        hyphenated = _HYPHENATED.search(line) if line.endswith("-") else None
        if hyphenated and start[:1].islower():
            tail = _WORD_START.match(start)
            if tail and hyphenated[1] + tail[0] in words:
                parts[-1] = parts[-1][:-1]
        elif not _meets_cjk(line, following):
            parts.append(" ")
        parts.append(start)
    return "".join(parts)
