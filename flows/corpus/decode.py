"""From bytes to text: which encoding it is, decided by strict decoding and by how much it looks like language.

UTF-8 proves itself: text in another encoding is almost never valid UTF-8. Among the older encodings every one that
decodes without a fault is a candidate, and the one whose characters are kana, common kanji and punctuation wins.
Shift_JIS is read as CP932, which holds all of it. No byte is ever replaced or left out to make a file readable.
"""

import codecs
import re
from collections.abc import Callable

from flows.corpus.jis import decode_euc, decode_iso2022
from flows.corpus.plausible import PLAUSIBLE, japanese_score, latin_score, wide_score
from flows.corpus.reasons import Refused

__all__ = ["decode", "without_controls"]

MAX_CONTROL_SHARE = 0.001
"""Share of control characters above which bytes are not text; below it they are dropped."""
DECLARED_BONUS = 0.2
"""What the encoding that a page or a mail names is worth beside the look of the text."""
TRUSTED = frozenset(
    {"big5", "cp936", "cp949", "cp950", "euc_kr", "gb18030", "gb2312", "gbk", "koi8-r", "mac-roman"}
    | {f"cp{number}" for number in range(1250, 1259)}
    | {f"iso8859-{number}" for number in range(1, 17)}
)
"""Other encodings that are believed when the document itself names them. Names as ``codecs.lookup`` gives them."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROL_BYTES = bytes({*range(0x20)} - set(b"\t\n\r\f\v\x1b"))
_IS_CONTROL = bytes(byte in _CONTROL_BYTES for byte in range(256))
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f]")
_CONTROLS = [chr(code) for code in range(0x20) if _CONTROL.match(chr(code))]
_CHUNK = 2**20


def decode(raw: bytes, declared: str | None = None) -> tuple[str, str]:
    """Return the text with line feeds as line ends, and the name of its encoding.

    Args:
        raw: The bytes of a text.
        declared: The encoding that the document names, if it does; a help, not a proof.

    Raises:
        Refused: ``not_text`` for binary data, ``unknown_encoding`` when no supported encoding fits.
    """
    text, encoding = _decode(raw, declared)
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return without_controls(text), encoding


def without_controls(text: str) -> str:
    """Return a text without its few control characters.

    Raises:
        Refused: ``not_text``, when they are more than a few.
    """
    # one look per character in C: several times as fast as the pattern
    if not any(control in text for control in _CONTROLS):
        return text
    first = _CONTROL.search(text)
    if first is None:
        return text
    clean = _CONTROL.sub("", text)
    if len(text) - len(clean) > MAX_CONTROL_SHARE * len(text):
        raise Refused("not_text", f"control character at character {first.start()}")
    return clean


def _decode(raw: bytes, declared: str | None) -> tuple[str, str]:
    for mark, encoding in _MARKS:
        if raw.startswith(mark):
            return _strictly(raw[len(mark) :], encoding), encoding
    if b"\0" in raw:
        wide = _best_wide(raw)
        if wide is not None:
            return wide
    if (b"\x1b$" in raw or b"\x1b(I" in raw) and raw.isascii():
        try:
            return decode_iso2022(raw), "iso2022_jp"
        except UnicodeDecodeError as error:
            raise Refused("unknown_encoding", f"ISO-2022-JP with a fault in {error.reason}") from None
    raw = raw.rstrip(b"\x1a")  # the end mark of DOS editors
    binary = _n_controls(raw) > MAX_CONTROL_SHARE * len(raw)
    if not binary:
        try:
            return raw.decode("utf-8"), "utf-8"
        except UnicodeDecodeError as error:
            position = error.start
        older = _best_older(raw, declared)
        if older is not None:
            return older
    wide = _best_wide(raw)
    if wide is not None:
        return wide
    if binary:
        raise Refused("not_text", "control characters")
    raise Refused("unknown_encoding", f"byte {position} is not valid UTF-8, and no older encoding fits")


def _n_controls(raw: bytes) -> int:
    view = memoryview(raw)
    chunks = (bytes(view[start : start + _CHUNK]) for start in range(0, len(raw), _CHUNK))
    # looked up and counted: in half the time of leaving them out
    return sum(chunk.translate(_IS_CONTROL).count(1) for chunk in chunks)


def _strictly(raw: bytes, encoding: str) -> str:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise Refused("unknown_encoding", f"marked as {encoding}, byte {error.start} is not valid") from None


def _best_wide(raw: bytes) -> tuple[str, str] | None:
    """UTF-16 without a mark."""
    if len(raw) % 2 or not raw:
        return None
    found = []
    for encoding in ("utf-16-le", "utf-16-be"):
        sample = raw[: 2 * _SAMPLE].decode(encoding, "replace")
        found.append((wide_score(sample), encoding))
    score, encoding = max(found)
    if score < PLAUSIBLE:
        return None
    try:
        return raw.decode(encoding), encoding
    except UnicodeDecodeError:
        return None


_SAMPLE = 8192
"""Characters that are looked at, from the start, the middle and the end. [characters]"""


def _sample(text: str) -> str:
    if len(text) <= 3 * _SAMPLE:
        return text
    middle = len(text) // 2
    return text[:_SAMPLE] + text[middle : middle + _SAMPLE] + text[-_SAMPLE:]


def _best_older(raw: bytes, declared: str | None) -> tuple[str, str] | None:
    named = _lookup(declared)
    if named in TRUSTED and named is not None:
        try:
            return raw.decode(named), named
        except UnicodeDecodeError:
            named = None
    candidates: tuple[tuple[str, Callable[[bytes], str], Callable[[str], float]], ...] = (
        ("cp932", lambda data: data.decode("cp932"), japanese_score),
        ("euc_jp", decode_euc, japanese_score),
        ("cp1252", lambda data: data.decode("cp1252"), latin_score),
    )
    best: tuple[float, str, str] | None = None
    for encoding, decoder, scorer in candidates:
        try:
            text = decoder(raw)
        except UnicodeDecodeError:
            continue
        score = scorer(_sample(text)) + (DECLARED_BONUS if named == encoding else 0.0)
        if best is None or score > best[0]:
            best = (score, text, encoding)
    if best is None or best[0] < PLAUSIBLE:
        return None
    return best[1], best[2]


def _lookup(declared: str | None) -> str | None:
    """Return Python's name of a declared encoding, CP932 for all that Windows calls Shift_JIS; None if unknown."""
    if declared is None:
        return None
    name = declared.strip().lower()
    if name in {"shift_jis", "shift-jis", "sjis", "x-sjis", "windows-31j", "ms_kanji", "ms932"}:
        return "cp932"
    try:
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        return None
