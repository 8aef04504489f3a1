"""Making text from outside harmless to look at: titles, owners, tokens and settings are untrusted input.

HTML escaping is Jinja's work. What escaping leaves alone is handled here: control characters, characters that
reverse or hide text, and words long enough to break a layout.
"""

import unicodedata

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
ELLIPSIS = "…"


def clean_text(text: str, limit: int = 200) -> str:
    """Text without control, format and surrogate characters, at most `limit` characters long.

    Line breaks and tabs become spaces; every other character of the Unicode categories Cc, Cf, Cs and Co (NUL,
    right-to-left overrides, zero-width characters, lone surrogates) becomes U+FFFD, so that tampering stays visible.
    """
    short = text[: limit + 1]
    shown = "".join(_visible(character) for character in short)
    return shown if len(short) <= limit else shown[: limit - 1] + ELLIPSIS


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " "
    if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co"}:
        return REPLACEMENT
    return character
