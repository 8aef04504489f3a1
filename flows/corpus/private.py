"""Personal and secret data in text: found by rules, masked with typed placeholders such as ``[EMAIL]``.

Rules find what has a form: they miss what is written in words, and names that are not in the list. How much they
find and how much of it is right is measured on labelled sentences (``private_report``). Masking masked text changes
nothing.
"""

import functools
import re
from bisect import bisect_left, bisect_right, insort
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

from flows.corpus.addresses import find_addresses
from flows.corpus.person_names import NameList
from flows.corpus.places import Places, Plain
from flows.corpus.private_numbers import find_numbers, names_my_number
from flows.corpus.secret_patterns import find_private_keys, find_secrets
from flows.corpus.windows import Span

__all__ = ["TYPES", "find", "mask"]

TYPES = (
    "API_KEY",
    "PASSWORD",
    "EMAIL",
    "POSTAL_ADDRESS",
    "BANK_ACCOUNT",
    "CARD",
    "MY_NUMBER",
    "PHONE",
    "NAME",
)
"""Types of private data; where two overlap, the one that stands first here wins."""

_RANK = {name: rank for rank, name in enumerate(TYPES)}
_MASKED = re.compile(rf"\[(?:{'|'.join(TYPES)})\]")
_CHUNK = 4096
"""Masking looks at pieces of about this length, cut at empty lines. [characters]"""

_AT = re.compile(r"@(?P<domain>(?:[A-Za-z0-9-]{1,63}\.){1,6}[A-Za-z]{2,24})(?![A-Za-z0-9@])")
_LOCAL = re.compile(r"[A-Za-z0-9._%+'-]{1,64}")
_RESERVED = re.compile(
    r"(?i)(?:^|\.)(?:example|invalid|test|localhost|example\.(?:com|org|net|edu|jp|co\.jp|ne\.jp|co\.uk))$"
)
_NOT_DOMAINS = re.compile(
    r"(?i)\.(?:png|jpe?g|gif|svg|webp|ico|css|js|ts|json|py|md|txt|html?|ya?ml|service|socket|timer|target|mount|local)$"
)


def mask(text: str, names: Sequence[str] = ()) -> tuple[str, dict[str, int]]:
    """Text with every private part replaced by its type in brackets, and how many there were of each type.

    Args:
        text: Cleaned text.
        names: Names of persons to mask, as a company lists them (see ``person_names``).
    """
    counts: Counter[str] = Counter()
    is_about_my_number = functools.cache(functools.partial(names_my_number, text))
    pieces = list(_chunks(_replaced(text, list(find_private_keys(text)), counts)))
    unfinished = list(range(len(pieces)))
    # a replaced part may lay bare another one
    while unfinished:
        found = _spans_of_pieces([pieces[at] for at in unfinished], names, is_about_my_number)
        changed = [(at, spans) for at, spans in zip(unfinished, found, strict=True) if spans]
        for at, spans in changed:
            pieces[at] = _replaced(pieces[at], spans, counts)
        unfinished = [at for at, _ in changed]
    return "".join(pieces), dict(counts)


def find(text: str, names: Sequence[str] = ()) -> list[Span]:
    """Private parts of a text in reading order, without overlaps: start, end [characters], type."""
    (spans,) = _spans_of_pieces([text], names, functools.partial(names_my_number, text))
    return _chosen([*find_private_keys(text), *spans], text)


def _chunks(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n\n", start + _CHUNK)
        end = len(text) if end < 0 else end + 2
        yield text[start:end]
        start = end


def _replaced(text: str, spans: Sequence[Span], counts: Counter[str]) -> str:
    if not spans:
        return text
    parts, done = [], 0
    for start, end, name in spans:
        parts += [text[done:start], f"[{name}]"]
        counts[name] += 1
        done = end
    return "".join([*parts, text[done:]])


def _spans_of_pieces(
    pieces: Sequence[str], names: Sequence[str], is_about_my_number: Callable[[], bool]
) -> Iterator[list[Span]]:
    """Yield the private parts of each piece of a text; where they can begin is found for all of them at once."""
    plain = Plain("".join(pieces))
    bounds = list(accumulate(map(len, pieces), initial=0))
    for piece, start, end, places in zip(pieces, bounds[:-1], bounds[1:], plain.pieces(bounds), strict=True):
        spans = _found(plain.text[start:end], places, is_about_my_number) if places.any() else []
        if names:
            spans += _name_list(tuple(names)).find(piece)
        yield _chosen(spans, piece) if spans else spans


def _found(plain: str, places: Places, is_about_my_number: Callable[[], bool]) -> list[Span]:
    return [
        *_emails(plain, places.at_signs),
        *find_secrets(plain, places),
        *find_addresses(plain, places),
        *find_numbers(plain, places, is_about_my_number),
    ]


@functools.lru_cache(maxsize=4)
def _name_list(names: tuple[str, ...]) -> NameList:
    return NameList(names)


def _chosen(spans: Sequence[Span], text: str) -> list[Span]:
    """Spans without overlaps among each other and with what is masked already."""
    # starts and ends of what is taken, in order: a place is free where as many have ended as have started
    starts = [match.start() for match in _MASKED.finditer(text)] if "[" in text else []
    ends = [match.end() for match in _MASKED.finditer(text)] if starts else []
    chosen: list[Span] = []
    for span in sorted(set(spans), key=lambda span: (_RANK[span[2]], span[0], -span[1])):
        start, end, _ = span
        if bisect_left(starts, end) == bisect_right(ends, start):
            insort(starts, start)
            insort(ends, end)
            chosen.append(span)
    return sorted(chosen)


def _emails(text: str, at_signs: Sequence[int]) -> Iterator[Span]:
    for at in at_signs:
        match = _AT.match(text, at)
        if match is None:
            continue
        # read backwards from the sign: forwards, every word of the text would be tried
        local = _LOCAL.match(text[max(0, match.start() - 64) : match.start()][::-1])
        if local is None or _RESERVED.search(match["domain"]) or _NOT_DOMAINS.search(match["domain"]):
            continue
        name = local.group()[::-1].lstrip(".-'%+")
        is_remote = name == "git" and text[match.end() : match.end() + 1] == ":"
        if name and not is_remote:
            yield match.start() - len(name), match.end(), "EMAIL"
