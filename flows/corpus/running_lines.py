"""Headers, footers and page numbers: lines that run along the edge of the pages of a text.

A line at the top or bottom of a page is a running line when the same words stand there on enough pages, or when it
has a number that goes up by one from page to page ("3", "- 3 -", "Page 3 of 10", "第3頁"). A total at the foot of a
table, which differs from page to page in another way, stays.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

__all__ = ["join_pages"]

EDGE = 3
"""Lines at the top and at the bottom of a page that may be running lines."""
MIN_SHARE = 0.4
"""Share of the pages from which a line is running: headers of left and right pages may differ."""
MIN_PAGES = 3
"""Pages from which on a line is running; two are enough for a page number without other words."""
SENTENCE_END = tuple("。．.!?！？：:」』")

_NUMBER = re.compile(r"\d{1,5}")
_PAGE_NUMBER = re.compile(
    r"(?i)(?:page|p\.?|第|[-－‐‑–—―−(（\[])*\0(?:頁|ページ|(?:[/／]|of)\d{1,5}|[-－‐‑–—―−)）\]])*"
)
_COUNTED = re.compile(r"(?i)(?:chapter|section|step|figure|table|part|no\.|章|節|条|項|図|表|手順|例)\0|\0[章節条項]")
"""A number that goes up with the pages since each has one chapter, not since it is their number."""
_MAX_RUNNING = 150
"""A longer line is text. [characters]"""


def join_pages(pages: Sequence[Sequence[str]], *, drop: bool) -> str:
    """One text of the lines of all pages, without running lines if ``drop``.

    Pages are parted by an empty line where a sentence ends there, otherwise by a line feed.
    """
    text: list[str] = []
    for lines in _without_running_lines(pages) if drop else pages:
        body = "\n".join(lines).strip("\n")
        if body:
            if text:
                text.append("\n\n" if text[-1].endswith(SENTENCE_END) else "\n")
            text.append(body)
    return "".join(text)


def _without_running_lines(pages: Sequence[Sequence[str]]) -> list[list[str]]:
    n_pages: Counter[tuple[str, str, int | None]] = Counter()
    for number, lines in enumerate(pages):
        n_pages.update({key for _, keys in _edge_lines(number, lines) for key in keys})
    needed = MIN_SHARE * len(pages)
    running = {
        key for key, n in n_pages.items() if n >= max(needed, 2 if _PAGE_NUMBER.fullmatch(key[1]) else MIN_PAGES)
    }
    kept = []
    for number, lines in enumerate(pages):
        dropped = {at for at, keys in _edge_lines(number, lines) if running.intersection(keys)}
        kept.append([line for at, line in enumerate(lines) if at not in dropped])
    return kept


def _edge_lines(number: int, lines: Sequence[str]) -> Iterator[tuple[int, list[tuple[str, str, int | None]]]]:
    """Place and keys of the lines at the edges of page ``number``.

    A key is the edge, the words, and None or what the number in the words is ahead of the page.
    """
    filled = [at for at, line in enumerate(lines) if line.strip()]
    edges = [("top", at) for at in filled[:EDGE]] + [("bottom", at) for at in filled[-EDGE:]]
    for edge, at in edges:
        words = "".join(lines[at].split())
        if len(words) <= _MAX_RUNNING:
            keys: list[tuple[str, str, int | None]] = [(edge, words, None)]
            for match in _NUMBER.finditer(words):
                rest = f"{words[: match.start()]}\0{words[match.end() :]}"
                if not _COUNTED.search(rest) and not rest.endswith("。"):
                    keys.append((edge, rest, int(match.group()) - number))
            yield at, keys
