"""Check digits and other arithmetic that tells private numbers and secrets from ordinary ones."""

import math
import re
from collections import Counter

__all__ = ["is_card", "is_iban", "is_my_number", "is_placeholder", "is_random", "is_routing_number", "luhn"]

_MY_NUMBER_WEIGHTS = (6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2)
MIN_ENTROPY = 3.0
"""Bits per character from which a string of 16 characters or more may be a key; English words have about 3."""
_PLACEHOLDER = re.compile(
    r"(?i)example|sample|dummy|placeholder|your[_ -]|change_?me|redacted|masked|xxx|\.\.\.|…|\*\*\*|●●|^[<\[{$%]"
)


def luhn(digits: str) -> bool:
    """Whether the last digit is the Luhn check digit of the others (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def is_card(digits: str) -> bool:
    """Whether 14 to 19 digits are a payment card number: prefix and length of a card scheme, and Luhn.

    Visa, Mastercard, American Express, JCB, Diners Club, Discover and UnionPay. Old Visa numbers of 13 digits are left
    out: one in ten Japanese article codes (JAN, which start with 4) would look like one.
    """
    head, n = int(digits[:4]), len(digits)
    schemes = (
        (digits[0] == "4" and n == 16)
        or ((5100 <= head <= 5599 or 2221 <= head <= 2720) and n == 16)
        or (digits[:2] in ("34", "37") and n == 15)
        or (3528 <= head <= 3589 and n == 16)
        or ((3000 <= head <= 3059 or digits[:2] in ("36", "38")) and n == 14)
        or ((head == 6011 or 6440 <= head <= 6599) and n == 16)
        or (digits[:2] == "62" and 16 <= n <= 19)
    )
    return schemes and luhn(digits)


def is_my_number(digits: str) -> bool:
    """Whether 12 digits have the check digit of an Individual Number.

    Check digit = 11 - (sum of P_n Q_n mod 11), or 0 where the remainder is 0 or 1; Q_n = n + 1 for n <= 6 and n - 5
    after that, counted from the right.
    Source: order of the Ministry of Internal Affairs and Communications No. 85 of 2014, article 5.
    """
    if len(digits) != 12:
        return False
    rest = sum(int(digit) * weight for digit, weight in zip(digits, _MY_NUMBER_WEIGHTS, strict=False)) % 11
    return int(digits[11]) == (0 if rest <= 1 else 11 - rest)


def is_iban(text: str) -> bool:
    """Whether letters and digits without blanks are an IBAN: length and remainder 1 modulo 97 (ISO 13616)."""
    if not 15 <= len(text) <= 34:
        return False
    return int("".join(str(int(character, 36)) for character in text[4:] + text[:4])) % 97 == 1


def is_routing_number(digits: str) -> bool:
    """Whether nine digits are a routing number of a bank in the United States (weights 3, 7, 1)."""
    total = sum(int(digit) * weight for digit, weight in zip(digits, (3, 7, 1) * 3, strict=True))
    return total % 10 == 0 and total > 0


def is_placeholder(value: str) -> bool:
    """Whether a value stands for a secret in documentation: ``YOUR_KEY``, ``<token>``, ``xxxx``, ``********``."""
    return _PLACEHOLDER.search(value) is not None or len(set(value)) == 1


def is_random(value: str) -> bool:
    """Whether a string of 16 characters or more looks drawn by chance rather than written: a key, not a name.

    It needs a digit and a letter, ``MIN_ENTROPY`` bits per character, and must not be words joined by marks.
    """
    if not any(c.isdigit() for c in value) or not any(c.isalpha() for c in value):
        return False
    entropy = -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())
    parts = re.split(r"[_.\-/+=:]+", value)
    are_words = all(re.fullmatch(r"[A-Z]?[a-z]+|[A-Z]+|v?\d{1,4}|", part) for part in parts)
    return entropy >= MIN_ENTROPY and not are_words
