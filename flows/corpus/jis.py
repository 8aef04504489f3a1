"""Japanese text in EUC and in ISO-2022-JP with the characters that Windows adds to the standard.

Python's codecs follow JIS X 0208 to the letter and refuse the circled digits, the company signs and the kanji of
names that every mail program and every editor on Windows writes. Here the rows are read as CP932 reads them.
"""

import functools
import re

__all__ = ["decode_euc", "decode_iso2022"]

_ESCAPE = re.compile(rb"\x1b(\$[@B]|\$\(D|\([BJI])")
_EUC = re.compile(rb"[\x00-\x7f]+|\x8e[\xa1-\xdf]|\x8f[\xa1-\xfe]{2}|[\xa1-\xfe]{2}")
_NONE = {b"", *(bytes((lead,)) for lead in range(0xA1, 0xFF))}
_HIGH = bytes(byte | 0x80 if 0x21 <= byte <= 0x7E else byte for byte in range(256))


@functools.cache
def _pairs() -> dict[bytes, str]:
    """Characters of CP932 by their two bytes in EUC."""
    table: dict[bytes, str] = {}
    for row in range(1, 95):
        for cell in range(1, 95):
            lead = (row + 1) // 2 + (0x80 if row <= 62 else 0xC0)
            trail = cell + 0x9E if row % 2 == 0 else cell + (0x3F if cell <= 63 else 0x40)
            try:
                table[bytes((row + 0xA0, cell + 0xA0))] = bytes((lead, trail)).decode("cp932")
            except UnicodeDecodeError:
                continue
    return table


def decode_euc(raw: bytes) -> str:
    """Return the text of EUC-JP bytes, the rows 13 and 89 to 92 read as CP932 reads them.

    Raises:
        UnicodeDecodeError: A byte belongs to no character.
    """
    try:
        return raw.decode("euc_jp")
    except UnicodeDecodeError:
        return "".join(_characters(raw))


def _characters(raw: bytes) -> list[str]:
    pairs = _pairs()
    found: list[str] = []
    position = 0
    while position < len(raw):
        match = _EUC.match(raw, position)
        piece = match.group() if match else b""
        if piece not in pairs and piece[:1] in _NONE:
            raise UnicodeDecodeError("euc_jp", raw, position, position + 1, "no character")
        found.append(pairs.get(piece) or piece.decode("euc_jp"))
        position += len(piece)
    return found


def decode_iso2022(raw: bytes) -> str:
    """Return the text of ISO-2022-JP bytes, half-width kana and the characters of Windows included.

    Raises:
        UnicodeDecodeError: A byte belongs to no character.
    """
    try:
        return raw.decode("iso2022_jp_ext")
    except UnicodeDecodeError:
        pass
    found: list[str] = []
    mode, start = b"(B", 0
    for match in (*_ESCAPE.finditer(raw), None):
        end = match.start() if match else len(raw)
        found.append(_segment(raw[start:end], mode))
        if match:
            mode, start = match.group(1), match.end()
    return "".join(found)


def _segment(raw: bytes, mode: bytes) -> str:
    if mode in (b"(B", b"(J"):
        return raw.decode("ascii")
    high = raw.translate(_HIGH)
    if mode == b"(I":
        return high.decode("cp932")
    if mode == b"$(D":
        high = re.sub(rb"([\xa1-\xfe]{2})", rb"\x8f\1", high)
    return decode_euc(high)
