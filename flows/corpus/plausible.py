"""How much a decoded sample looks like language: the judge between encodings that all decode without a fault."""

import re

__all__ = ["PLAUSIBLE", "japanese_score", "latin_score", "wide_score"]

PLAUSIBLE = 0.55
"""Score from which a decoding is believed."""
MAX_LATIN_SHARE = 0.35
"""Share of letters beyond ASCII that a text in a Latin script has at most."""

# level 1 of JIS X 0208: nearly all kanji of ordinary text; the wrong encoding gives half its kanji from level 2
_LEVEL_1 = "".join(
    bytes((row, cell)).decode("euc_jp", "ignore") for row in range(0xB0, 0xD0) for cell in range(0xA1, 0xFF)
)
_KANA = re.compile("[ぁ-んァ-ヶー]")
_KANJI_1 = re.compile(f"[{re.escape(_LEVEL_1)}々]")
_SYMBOL = re.compile("[\u2010-\u27bf\u3000-\u303f\u3200-\u33ff\uff01-\uff60\uffe0-\uffe6×÷±°´¨§¶Α-ω]|[・ヽヾゝゞ゛゜]")
_HALF = re.compile("[｡-ﾟ]")
_HALF_WORDS = re.compile("[ﾞﾟｰﾝｧ-ｯ]")
_HALF_MARKS = re.compile("[｡-･]")
_VOICED_WRONGLY = re.compile("(?<![ｳｶ-ﾄﾊ-ﾎ])ﾞ|(?<![ﾊ-ﾎ])ﾟ")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_ALONE = re.compile(r"(?<=[A-Za-z])[^\x00-\x7f](?![^\x00-\x7f])|(?<![^\x00-\x7f])[^\x00-\x7f](?=[A-Za-z])")
_RUN = re.compile(r"[^\x00-\x7f]{3,}")
_LATIN = re.compile("[à-öø-ÿœšžß‘’“”–—…•€£©®™°±·«»\xa0]")
_LATIN_CAPITAL = re.compile("[À-ÖØ-Þ¡-¿ŒŠŽŸ]")
_PRINTABLE = re.compile(r"[\t\n\r\f -~À-ÿ‘’“”–—…•€]")


def _share(pattern: re.Pattern[str], text: str, n: int) -> float:
    return len(pattern.findall(text)) / n


def japanese_score(text: str) -> float:
    """Return how much the characters beyond ASCII look like Japanese, 0 to 1.

    Kana count most, then kanji of level 1; half-width kana count where they form words. Kanji that stand alone
    beside Latin letters are what the accents and quotation marks of Western text become.
    """
    n = len(_NOT_ASCII.findall(text))
    if n == 0:
        return 0.0
    half = _share(_HALF, text, n)
    score = (
        _share(_KANA, text, n)
        + 0.9 * _share(_SYMBOL, text, n)
        + 0.8 * _share(_KANJI_1, text, n)
        + (0.85 if _has_half_width_words(text) else 0.35) * half
    )
    alone = len(_ALONE.findall(text)) / n
    return score * 0.7 if alone > 0.5 and n < MAX_LATIN_SHARE * len(text) else score


def _has_half_width_words(text: str) -> bool:
    n = len(_HALF.findall(text))
    return (
        n > 0
        and _share(_HALF_WORDS, text, n) >= 0.1
        and _share(_HALF_MARKS, text, n) <= 0.3
        and _share(_VOICED_WRONGLY, text, n) <= 0.02
    )


def latin_score(text: str) -> float:
    """Return how much the characters beyond ASCII look like accents and quotation marks of Western text, 0 to 0.8."""
    n = len(_NOT_ASCII.findall(text))
    if n == 0 or n > MAX_LATIN_SHARE * len(text):
        return 0.0
    score = 0.8 * _share(_LATIN, text, n) + 0.3 * _share(_LATIN_CAPITAL, text, n)
    # accents and quotation marks stand between ASCII letters; Japanese comes in runs
    in_runs = sum(map(len, _RUN.findall(text))) / n
    return score * 0.5 if in_runs > 0.2 else score


def wide_score(text: str) -> float:
    """Return the share of characters that texts in Japanese and English are made of, 0 to 1; 0 below 0.8."""
    if not text:
        return 0.0
    n = len(text)
    share = sum(_share(pattern, text, n) for pattern in (_PRINTABLE, _KANA, _KANJI_1, _HALF, _SYMBOL))
    return share if share >= 0.8 else 0.0
