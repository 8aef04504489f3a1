"""Readers of formats that are text: plain text, HTML, tables of values, JSON. Each takes bytes and returns text."""

import csv
import functools
import io
import json
from collections.abc import Iterable
from typing import Any

from flows.corpus.decode import decode
from flows.corpus.limits import Limits
from flows.corpus.reasons import Refused
from flows.corpus.rows import row_text

__all__ = ["read_csv", "read_json", "read_json_lines", "read_plain", "read_tsv"]

DELIMITERS = ",;\t"


def read_plain(raw: bytes, limits: Limits) -> tuple[str, str]:
    """Return the text of a plain file, Markdown included, as it stands, and its encoding."""
    del limits
    return decode(raw)


def read_csv(raw: bytes, limits: Limits) -> tuple[str, str]:
    """Return one readable row per row of values; the delimiter is the one that the first line holds most of."""
    text, encoding = decode(raw)
    head = text[: text.find("\n")]
    return _rows(text, max(DELIMITERS, key=head.count), limits), encoding


def read_tsv(raw: bytes, limits: Limits) -> tuple[str, str]:
    """Return one readable row per row of tab-separated values."""
    text, encoding = decode(raw)
    return _rows(text, "\t", limits), encoding


def _rows(text: str, delimiter: str, limits: Limits) -> str:
    csv.field_size_limit(limits.max_line_characters)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return "\n".join(line for row in reader if (line := row_text(row)))
    except csv.Error:
        # quotation marks that do not pair up: the lines as they stand are still readable
        return text


def read_json(raw: bytes, limits: Limits) -> tuple[str, str]:
    """Return the string values of a JSON document, one per line, a blank line between the items of its outer list."""
    del limits
    text, encoding = decode(raw)
    value = _parse(text, "")
    items = value if isinstance(value, list) else [value]
    return _paragraphs(items), encoding


def read_json_lines(raw: bytes, limits: Limits) -> tuple[str, str]:
    """Return the string values of JSON lines, one per line, a blank line between the records."""
    del limits
    text, encoding = decode(raw)
    lines = enumerate(io.StringIO(text), start=1)
    return _paragraphs(_parse(line, f"line {number}, ") for number, line in lines if not line.isspace()), encoding


def _parse(text: str, place: str) -> Any:
    try:
        return _decoder().decode(text)
    except json.JSONDecodeError as error:
        where = place or f"line {error.lineno}, "
        raise Refused("damaged", f"not JSON: {where}column {error.colno}") from None
    except RecursionError:
        raise Refused("damaged", f"not JSON: {place}nested too deep") from None


@functools.cache
def _decoder() -> json.JSONDecoder:
    def nothing(_: str) -> None:
        return None

    # values alone, in their order, so that a key that appears twice loses nothing; numbers are not text
    return json.JSONDecoder(
        object_pairs_hook=lambda pairs: [value for _, value in pairs],
        parse_int=nothing,
        parse_float=nothing,
        parse_constant=nothing,
    )


def _paragraphs(items: Iterable[Any]) -> str:
    return "\n\n".join(part for item in items if (part := "\n".join(_strings(item))))


def _strings(value: Any) -> Iterable[str]:
    left = [value]
    while left:
        item = left.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, list):
            left.extend(reversed(item))
