"""Places of a text that are worth a close look, so that slow patterns do not run over all of it."""

import re
from collections.abc import Iterable, Iterator

__all__ = ["Span", "matches", "windows"]

Span = tuple[int, int, str]
"""Start (inclusive), end (exclusive) and type of a private part of a text."""


def windows(hits: Iterable[tuple[int, int]], before: int, after: int, length: int) -> Iterator[tuple[int, int]]:
    """Start and end of windows around hits in reading order, joined where they meet.

    Args:
        hits: Start and end of what was found by a fast pattern.
        before: Characters that a window begins before its hit.
        after: Characters that it ends after it.
        length: Length of the text, which no window passes.
    """
    low, high = 0, -1
    for start, end in hits:
        if high >= 0 and start - before > high:
            yield low, high
            high = -1
        low = max(0, start - before) if high < 0 else low
        high = min(length, end + after)
    if high >= 0:
        yield low, high


def matches(
    pattern: re.Pattern[str], text: str, places: Iterable[int], high: int | None = None
) -> Iterator[re.Match[str]]:
    """Yield the matches that begin at one of the places, from left to right and without overlaps.

    Args:
        pattern: A pattern; it does not match at any other place.
        text: A text.
        places: Places in reading order.
        high: Where the text ends for the pattern; None for its own end.
    """
    end, high = 0, len(text) if high is None else high
    for place in places:
        if place >= end and (match := pattern.match(text, place, high)) is not None:
            yield match
            end = match.end()
