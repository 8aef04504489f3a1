"""Where two JSON values differ, as JSON pointers. Numbers that agree to nine digits are the same."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reports.result import pointer

RELATIVE_TOLERANCE = 1e-9
"""Sums in another order differ in the last digits; that is no finding."""


@dataclass(frozen=True)
class Difference:
    """One place where two results differ; a value that is not there is None."""

    path: str
    stored: Any
    recomputed: Any


def differences(stored: Any, recomputed: Any, where: tuple[str | int, ...] = ()) -> Iterator[Difference]:
    """Yield every leaf that differs, in the order of the stored value."""
    if isinstance(stored, dict) and isinstance(recomputed, dict):
        for key in dict.fromkeys([*stored, *recomputed]):
            yield from differences(stored.get(key), recomputed.get(key), (*where, key))
    elif isinstance(stored, list) and isinstance(recomputed, list) and len(stored) == len(recomputed):
        for index, (one, other) in enumerate(zip(stored, recomputed, strict=True)):
            yield from differences(one, other, (*where, index))
    elif not _same(stored, recomputed):
        yield Difference(pointer(*where), stored, recomputed)


def _same(one: Any, other: Any) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    if numbers:
        return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE, abs_tol=1e-12)
    return type(one) is type(other) and bool(one == other)
