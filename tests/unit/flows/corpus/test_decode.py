"""Decoding: the encoding of old and new files, and what is no text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.corpus.decode import decode
from flows.corpus.reasons import Refused
from tests.unit.flows.corpus.documents import english, japanese

SHORT = (
    "東京都港区",
    "会議資料",
    "議事録(案)",
    "ネットワーク",
    "見積書 No.12",
    "KeepAlive接続を有効にする",
    "第一条　本契約は甲と乙の間で締結する。",
    "ｼｽﾃﾑｴﾗｰが発生しました",
    "注文番号：１２３４",
)
NAMED = {
    "utf-8": "utf-8",
    "utf-8-sig": "utf-8",
    "utf-16-le": "utf-16-le",
    "utf-16-be": "utf-16-be",
    "cp932": "cp932",
    "shift_jis": "cp932",
    "euc_jp": "euc_jp",
    "iso2022_jp_ext": "iso2022_jp",
}
WINDOWS = "①㈱日立 髙橋様 № ㎡"


def refusal(raw: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        decode(raw)
    return caught.value


@pytest.mark.parametrize("encoding", NAMED)
@pytest.mark.parametrize("text", SHORT)
def test_short_texts_of_every_encoding(text: str, encoding: str) -> None:
    """A heading is enough to tell the encodings apart."""
    assert decode(text.encode(encoding)) == (text, NAMED[encoding])


@pytest.mark.parametrize("encoding", NAMED)
@pytest.mark.parametrize("line", [japanese(1), english(2) + "図1を参照。\n"])
def test_long_texts_of_every_encoding(line: str, encoding: str) -> None:
    """Japanese, and English with little Japanese in it, keep every character."""
    text = line * 50

    assert decode(text.encode(encoding)) == (text, NAMED[encoding])


@pytest.mark.parametrize("mark", ["utf-16", "utf-32"])
def test_byte_order_mark_decides(mark: str) -> None:
    """The mark names the encoding and is no part of the text."""
    assert decode(SHORT[0].encode(mark)) == (SHORT[0], f"{mark}-le")


def test_half_width_kana_alone() -> None:
    """Bytes that are also valid EUC-JP read as the words of half-width kana that they are."""
    for text in ("ｼｽﾃﾑｴﾗｰ", "ﾃﾞｰﾀﾍﾞｰｽ", "ｻｰﾊﾞｰ ｾｯﾃｲ ﾌｧｲﾙ"):
        assert decode(text.encode("cp932")) == (text, "cp932")


def test_windows_characters_in_every_japanese_encoding() -> None:
    """Circled digits, company signs and kanji of names are read where the standard codecs refuse them."""
    euc, iso = bytearray(), bytearray(b"\x1b$B")
    for character in WINDOWS.replace(" ", ""):
        lead, trail = character.encode("cp932")
        odd = trail < 0x9F
        row = 2 * (lead - (0x81 if lead < 0xA0 else 0xC1)) + (1 if odd else 2)
        cell = trail - (0x3F if trail < 0x7F else 0x40) if odd else trail - 0x9E
        euc += bytes((row + 0xA0, cell + 0xA0))
        iso += bytes((row + 0x20, cell + 0x20))

    expected = WINDOWS.replace(" ", "")
    assert decode(WINDOWS.encode("cp932")) == (WINDOWS, "cp932")
    assert decode(bytes(iso) + b"\x1b(B") == (expected, "iso2022_jp")
    assert decode(japanese(1).encode("euc_jp") + bytes(euc)) == (japanese(1) + expected, "euc_jp")


@pytest.mark.parametrize(
    "text", ["It’s “fine” – café", "The naïve approach doesn’t work. We’ll see.", "Müller GmbH, Straße 5", "price €5"]
)
def test_western_text_of_windows(text: str) -> None:
    """Accents and quotation marks do not become kanji."""
    assert decode(text.encode("cp1252")) == (text, "cp1252")


def test_declared_encoding_helps_and_does_not_overrule() -> None:
    """A page's own word opens encodings that are not guessed, and is ignored where the bytes prove it wrong."""
    assert decode("Привет".encode("cp1251"), "windows-1251") == ("Привет", "cp1251")
    assert decode("設定".encode(), "shift_jis") == ("設定", "utf-8")
    assert decode("設定".encode("cp932"), "x-unheard-of") == ("設定", "cp932")


def test_line_ends_and_stray_controls() -> None:
    """Line ends become line feeds; the end mark of DOS and one stray control character in a long text go."""
    assert decode(b"a\r\nb\rc\n\x1a") == ("a\nb\nc\n", "utf-8")
    assert decode(b"a" * 2000 + b"\x07") == ("a" * 2000, "utf-8")


@pytest.mark.parametrize("raw", [bytes(range(256)) * 40, b"ab\x00cd" * 30, b"\x7fELF\x02\x01\x01" + b"\0" * 90])
def test_binary_is_not_text(raw: bytes) -> None:
    """Programs and pictures are refused whatever their names say."""
    assert refusal(raw).reason == "not_text"


def test_text_with_a_fault_names_the_byte() -> None:
    """Cut or mixed text is refused with its place, and nothing is replaced to make it fit."""
    whole = japanese(1).encode()

    assert refusal(whole[:-2]).args == (
        "unknown_encoding",
        f"byte {len(whole) - 4} is not valid UTF-8, and no older encoding fits",
    )
    assert refusal(whole + japanese(2).encode("cp932")).reason == "unknown_encoding"
    assert refusal(b"\xef\xbb\xbf\xff").detail == "marked as utf-8, byte 0 is not valid"
    assert refusal(b"\x1b$B\x21").reason == "unknown_encoding"


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1))
def test_utf8_is_never_misread(text: str) -> None:
    """Whatever is valid UTF-8 without control characters comes back as it is."""
    text = text.removeprefix("\ufeff")

    assert decode(text.encode()) == (text, "utf-8")
