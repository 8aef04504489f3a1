"""Text for comparison: no white space, one width, one case, as an array of characters.

What two texts have in common is looked for in this form by the exact hash, the sketch and the n-grams, so it is made
once and handed on. A character of the basic plane that stands for itself in any company is looked up in a table;
the few others, with their neighbours, go the way that defines the form.
"""

import functools
import hashlib
import unicodedata

import numpy as np
import numpy.typing as npt

from flows.scan import BEYOND, basic_plane

__all__ = ["Codes", "clinging_characters", "exact_hash", "mix", "ngram_hashes", "squeezed"]

Codes = npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
"""Characters of a squeezed text; 8 bits each where all of it is ASCII, mostly 16 where not."""
UInt64 = npt.NDArray[np.uint64]

_GONE, _SPECIAL = 0, 0xFFFF
"""Of a character that is left out; of one that gives several, lies beyond the plane, or may join with its neighbour."""
_MANY = 64
"""From one such place per this many characters on, the whole text goes the slow way. [characters]"""
_ASCII_SPACE = b"\t\n\v\f\r\x1c\x1d\x1e\x1f "
_ASCII_LOWER = bytes(range(256)).lower()

_FACTOR = 0x9E3779B97F4A7C15
_AT_ONCE = 1 << 14
"""Hashes that are computed at a time: what they need stays in the second cache."""
_MAX_WIDTH = 128


def squeezed(text: str) -> Codes:
    """Return the characters of a text without white space, in one width (NFKC) and one case (case folding)."""
    if text.isascii():
        return np.frombuffer(text.encode().translate(_ASCII_LOWER, _ASCII_SPACE), dtype=np.uint8)
    values = np.take(_table(), basic_plane(text))
    is_special = values == _SPECIAL
    if not is_special.any():
        kept: Codes = values[values != _GONE]
        return kept
    return _with_special(text, values, is_special)


def _with_special(text: str, values: npt.NDArray[np.uint16], is_special: npt.NDArray[np.bool_]) -> Codes:
    at = np.flatnonzero(is_special)
    # a special character may join with the one before it
    is_special[np.maximum(at - 1, 0)] = True
    edges = np.flatnonzero(np.diff(is_special, prepend=False, append=False))
    if len(edges) > 2 + 2 * len(text) // _MANY:
        return _by_definition(text)
    parts: list[Codes] = []
    done = 0
    for start, end in edges.reshape(-1, 2).tolist():
        plain = values[done:start]
        parts += [plain[plain != _GONE], _by_definition(text[start:end])]
        done = end
    return np.concatenate([*parts, values[done:][values[done:] != _GONE]])


def _squeeze(text: str) -> str:
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


def _by_definition(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(_squeeze(text).encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


@functools.cache
def _table() -> npt.NDArray[np.uint16]:
    """Per character of the basic plane the one that becomes of it, ``_GONE`` or ``_SPECIAL``."""
    characters = [chr(code) for code in range(1, BEYOND)]
    # a null has no part in composition and ordering, so each character changes as if it were alone
    alone = unicodedata.normalize("NFKC", "\0".join(characters)).casefold().split("\0")
    values = np.arange(BEYOND + 1, dtype=np.uint16)
    values[0] = _SPECIAL
    for character, folded in zip(characters, alone, strict=True):
        if folded != character or character.isspace():
            one = "".join(folded.split())
            values[ord(character)] = min(ord(one), _SPECIAL) if len(one) == 1 else _SPECIAL if one else _GONE
    values[[ord(character) for character in clinging_characters()]] = _SPECIAL
    return values


@functools.cache
def clinging_characters() -> frozenset[str]:
    """Characters that may join with, or move before, what stands before them: no boundary before them in UAX #15."""
    characters = [chr(code) for code in range(1, BEYOND)]
    joins = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}  # vowels and tails of Hangul
    for decomposed in map(str.split, filter(None, map(unicodedata.decomposition, characters))):
        if len(decomposed) == 2 and decomposed[0][0] != "<":
            joins.add(chr(int(decomposed[1], 16)))
    first = (part[:1] for part in unicodedata.normalize("NFKD", "\0".join(characters)).split("\0"))
    return frozenset(
        character
        for character, start in zip(characters, first, strict=True)
        if start in joins or unicodedata.combining(start)
    )


def exact_hash(codes: Codes) -> str:
    """SHA-256 of a squeezed text in hexadecimal: equal for texts that differ in white space, width or case only."""
    raw = codes.tobytes()
    if codes.dtype != np.uint8:
        encoding = "utf-16-le" if codes.dtype == np.uint16 else "utf-32-le"
        raw = raw.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    return hashlib.sha256(raw).hexdigest()


def mix(hashes: UInt64, spare: UInt64) -> None:
    """Map 64 bits onto 64 bits in place so that every bit depends on every bit (finalizer of splitmix64).

    Args:
        hashes: Any number of them.
        spare: As many, whose values do not matter.
    """
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(hashes, np.uint64(shift), out=spare)
        np.bitwise_xor(hashes, spare, out=hashes)
        np.multiply(hashes, np.uint64(factor), out=hashes)
    np.right_shift(hashes, np.uint64(31), out=spare)
    np.bitwise_xor(hashes, spare, out=hashes)


@functools.cache
def _powers(factor: int) -> UInt64:
    powers = np.full(_AT_ONCE + 2 * _MAX_WIDTH, np.uint64(factor))
    powers[0] = 1
    return np.multiply.accumulate(powers)


def ngram_hashes(codes: Codes, width: int) -> UInt64:
    """One 64-bit hash for each run of ``width`` characters, in the order of the text; empty if it is shorter.

    **Formula**: mix(sum of c_j F^(width - 1 - j) mod 2^64), j within the run. The sums are differences of one running
    sum of c_j F^-j, times a power of F, so the time does not depend on the width.

    Args:
        codes: A squeezed text.
        width: Length of a run, at most 128. [characters]
    """
    n = max(len(codes) - width + 1, 0)
    hashes = np.empty(n, dtype=np.uint64)
    powers, inverses = _powers(_FACTOR), _powers(pow(_FACTOR, -1, 2**64))
    sums = np.zeros(_AT_ONCE + width, dtype=np.uint64)
    spare = np.empty(_AT_ONCE, dtype=np.uint64)
    for start in range(0, n, _AT_ONCE):
        part = hashes[start : start + _AT_ONCE]
        read = len(part) + width - 1
        scaled = sums[1 : read + 1]
        np.multiply(codes[start : start + read], inverses[:read], out=scaled)
        np.add.accumulate(scaled, out=scaled)
        np.subtract(sums[width : read + 1], sums[: len(part)], out=part)
        np.multiply(part, powers[width - 1 : width - 1 + len(part)], out=part)
        mix(part, spare[: len(part)])
    return hashes
