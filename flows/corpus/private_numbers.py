"""Private numbers in text: telephone, My Number, payment card and bank account.

All functions expect text in which full-width digits and marks are half-width already (``places.Plain``).
"""

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from flows.corpus.places import Places
from flows.corpus.private_checks import is_card, is_iban, is_my_number, is_routing_number
from flows.corpus.windows import Span, matches, windows

__all__ = ["find_numbers", "names_my_number"]

_D = r"[-‐‑‒–—―−ー]"
_SEP = rf"(?:[ .]|[ ]?{_D}[ ]?)"
_BEFORE = (
    rf"(?:(?<![0-9A-Za-z_])|(?<=(?i:tel|fax)))(?:(?<![0-9A-Za-z_][./])|(?<=(?i:tel|fax)\.))"
    rf"(?<![0-9A-Za-z_]{_D})(?<![+＋])"
)
_AFTER = rf"(?![0-9A-Za-z_])(?!{_D}[0-9A-Za-z])(?![./][0-9])"
_LONG_RUN = re.compile(rf"[0-9](?:[ ()]{{0,2}}{_D}?[ .()]{{0,2}}[0-9]){{5}}")
_AROUND = 100
"""Patterns run only this far around long runs of digits. [characters]"""

_PHONE_JP = re.compile(
    rf"{_BEFORE}(?:"
    rf"0[789]0{_SEP}?[0-9]{{4}}{_SEP}?[0-9]{{4}}"
    rf"|050{_SEP}[0-9]{{4}}{_SEP}[0-9]{{4}}"
    rf"|0120{_SEP}?[0-9]{{3}}{_SEP}?[0-9]{{3}}|0120{_D}[0-9]{{2}}{_D}[0-9]{{4}}"
    rf"|0(?:800|570|990){_D}[0-9]{{3}}{_D}[0-9]{{3,4}}"
    rf"|0[1-9]{_SEP}[0-9]{{4}}{_SEP}[0-9]{{4}}"
    rf"|0[1-9][0-9]{_SEP}[0-9]{{3}}{_SEP}[0-9]{{4}}"
    rf"|0[1-9][0-9]{{2}}{_SEP}[0-9]{{2}}{_SEP}[0-9]{{4}}"
    rf"|0[1-9][0-9]{{3}}{_SEP}[0-9]{_SEP}[0-9]{{4}}"
    r"|\(0[1-9][0-9]{0,3}\)[ ]?[0-9]{1,4}[- ][0-9]{4}|0[1-9][0-9]{0,3}[ ]?\([0-9]{1,4}\)[ ]?[0-9]{4}"
    rf"){_AFTER}"
)
_PHONE_US = re.compile(
    rf"{_BEFORE}(?:1[-. ])?(?:\([2-9][0-9]{{2}}\)[ ]?|[2-9][0-9]{{2}}([-. ]))[2-9][0-9]{{2}}(?(1)\1|[-. ])[0-9]{{4}}"
    rf"{_AFTER}"
)
_PHONE_UK = re.compile(
    rf"{_BEFORE}(?:\(?02[0-9]\)?[ -][0-9]{{4}}[ -][0-9]{{4}}|\(?01[0-9]1\)?[ -][0-9]{{3}}[ -][0-9]{{4}}"
    rf"|\(?011[0-9]\)?[ -][0-9]{{3}}[ -][0-9]{{4}}|\(?01[0-9]{{3}}\)?[ -][0-9]{{3}}[ -]?[0-9]{{3}}"
    rf"|07[0-9]{{3}}[ -]?[0-9]{{3}}[ -]?[0-9]{{3}}|0[38][0-9]{{2}}[ -][0-9]{{3}}[ -][0-9]{{4}}){_AFTER}"
)
_PHONE_WORLD = re.compile(
    rf"(?<![0-9A-Za-z+])\+[1-9][0-9]{{0,2}}(?:[ .]?\(0?[0-9]{{0,4}}\)[ .]?|{_SEP})?[0-9]{{1,5}}"
    rf"(?:{_SEP}?[0-9]{{2,5}}){{1,4}}{_AFTER}"
)
_PHONE_BARE = re.compile(rf"{_BEFORE}(?:0[1-9][0-9]{{8,9}}|[2-9][0-9]{{2}}[2-9][0-9]{{6}}){_AFTER}")
_PHONE_WORD = re.compile(
    r"(?i)(?:電話|携帯|tel|fax|ファックス|ファクス|☎|℡|連絡先|直通|phone|mobile|cell|call|dial|whatsapp|sms|ring|contact)"
    r"[^0-9\n]{0,16}$"
)
_OTHER_NUMBER = re.compile(
    r"(?i)(?:(?:注文|受注|発注|伝票|管理|製品|商品|部品|契約|会員|社員|従業員|顧客|整理|資産|製造|追跡|送り状|問い?合わ?せ"
    r"|見積書?|請求書?|文書|案件|受付|申請|図面|型式|製番|登録|証明書|認証|識別|機器|郵便|ロット|シリアル|チケット"
    r"|ライセンス|法人)[ ]?(?:番号|no|コード|id)"
    r"|型番|品番|型式|図番|製番|ロット|シリアル|バージョン"
    r"|\b(?:order|invoice|part|serial|lot|model|ticket|case|tracking|sku|po|item|batch|ref|reference|product|catalog|drawing"
    r"|asset|license|firmware|release|driver|version|revision|build|isbn|issn|doi|job|document|doc"
    r"|shipment|bug|id|code|number|no|nr)\b"
    r"|\b(?:p/n|s/n|#))[\s:：.#=は]{0,4}(?:(?:no|number|番号|id|is|code)[\s:：.#=は]{0,4})?[\"'(（「]?$"
)
_MY_NUMBER = re.compile(
    rf"(?<![0-9A-Za-z_.])(?<![0-9]{_D})[0-9]{{4}}([- ]?)[0-9]{{4}}\1[0-9]{{4}}(?![0-9A-Za-z_])(?!{_D}?[0-9])"
)
_MY_NUMBER_ENGLISH = ("my number", "my_number", "mynumber", "individual number")
_MY_NUMBER_WORDS = (
    *("マイナンバー", "個人番号", "特定個人情報"),
    *(form for word in _MY_NUMBER_ENGLISH for form in (word, word.capitalize(), word.title(), word.upper())),
)
_CARD_DIGITS = (
    r"(?:[0-9]{4}(?P<a>[- ]?)[0-9]{4}(?P=a)[0-9]{4}(?P=a)[0-9]{4}|3[0-9]{3}(?P<b>[- ]?)[0-9]{6}(?P=b)[0-9]{4,5}"
    r"|62[0-9]{14,17})(?![0-9A-Za-z_])(?![-.][0-9A-Za-z])"
)
_CARD = re.compile(rf"(?<![0-9A-Za-z_.,])(?<![0-9]-){_CARD_DIGITS}")
_MY_NUMBER_AND_CARD = re.compile(
    rf"(?<![0-9A-Za-z_.])(?<![0-9]{_D})(?P<first>[0-9]{{4}}(?P<gap>[- ]?)[0-9]{{4}}(?P=gap)[0-9]{{4}}){_CARD_DIGITS}"
)
"""Two columns of a table whose border was lost; both check digits keep other long numbers out."""

_ACCOUNT_JP = re.compile(
    r"(?:普通|当座|貯蓄|定期|口座番号|口座No\.?|\(普\)|\(当\)|普\))(?:預金|口座|番号|No\.?|[ 　:：()第は・、,]){0,6}"
    r"(?P<n>[0-9]{6,8}|[0-9]{3}-[0-9]{4})(?![0-9A-Za-z-])"
)
_ACCOUNT_POST = re.compile(
    r"記号[ 　:：は]{0,3}(?P<n>1[0-9]{4}(?:-[0-9])?[^0-9\n]{0,3}番号[ 　:：は]{0,3}[0-9]{2,8})(?![0-9A-Za-z])"
)
_ACCOUNT_EN = re.compile(
    r"(?i)\b(?:account|acct|a/c)\.?[ ]?(?:number|no\.?|num|#)?[ ]?(?:is|[:=#])?[ ]?"
    r"(?P<n>[0-9]{4}[- ]?[0-9]{4}(?:[- ]?[0-9]{1,4})?|[0-9]{6,12})(?![0-9A-Za-z-])"
)
_BANK_WORD = re.compile(
    r"(?i)\b(?:bank|sort code|routing|aba|iban|swift|bic|branch|checking|savings|deposit|wire|ach|remit"
    r"|transfer|payroll|debit|beneficiary)"
)
_SORT_CODE = re.compile(r"(?i)sort[ -]code[ ]?(?:is|[:=])?[ ]?(?P<n>[0-9]{2}[- ]?[0-9]{2}[- ]?[0-9]{2})(?![0-9-])")
_ROUTING = re.compile(
    r"(?i)(?:routing|aba|rtn)[ ]?(?:transit )?(?:number|no\.?|#)?[ ]?(?:is|[:=])?[ ]?(?P<n>[0-9]{9})(?![0-9A-Za-z-])"
)
_IBAN = re.compile(r"(?<![0-9A-Za-z])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![0-9A-Za-z])")


_ACCOUNTS = (
    ("普当貯定口", _ACCOUNT_JP),
    ("記", _ACCOUNT_POST),
    (("code",), _SORT_CODE),
    (("rout", "aba", "rtn"), _ROUTING),
    (("acc", "a/c"), _ACCOUNT_EN),
)
"""Patterns of accounts, and what one of stands in lower case in each match: without k, s and i, which other letters
than their capitals match too."""


def find_numbers(text: str, places: Places, is_about_my_number: Callable[[], bool]) -> Iterator[Span]:
    """Telephone, card, bank account and My Numbers; spans may overlap.

    Args:
        text: A piece of text.
        places: Where patterns are tried in it.
        is_about_my_number: Whether the document names My Numbers somewhere; without that no twelve digits are one.
    """
    runs = (match.span() for match in matches(_LONG_RUN, text, places.long_numbers))
    for start, end in windows(runs, _AROUND, _AROUND, len(text)):
        figures = _within(places.figures, start, end)
        yield from _accounts(text, figures, start, end)
        for match in matches(_MY_NUMBER, text, figures, end):
            if is_my_number(_digits(match.group())) and is_about_my_number():
                yield *match.span(), "MY_NUMBER"
        for match in matches(_MY_NUMBER_AND_CARD, text, figures, end):
            first, card = match["first"], text[match.end("first") : match.end()]
            if is_my_number(_digits(first)) and is_card(_digits(card)) and is_about_my_number():
                yield *match.span("first"), "MY_NUMBER"
                yield match.end("first"), match.end(), "CARD"
        for match in matches(_CARD, text, figures, end):
            if is_card(_digits(match.group())):
                yield *match.span(), "CARD"
        yield from _phones(text, figures, _within(places.opens, start, end), end)


def _within(places: Sequence[int], low: int, high: int) -> Sequence[int]:
    return places[bisect_left(places, low) : bisect_left(places, high)]


def names_my_number(text: str) -> bool:
    """Whether a document speaks of My Numbers at all."""
    return any(word in text for word in _MY_NUMBER_WORDS)


def _digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _phones(text: str, figures: Sequence[int], opens: Sequence[int], high: int) -> Iterator[Span]:
    begins = sorted([*figures, *opens]) if opens else figures
    for pattern, places in (
        (_PHONE_WORLD, opens), (_PHONE_JP, begins), (_PHONE_UK, begins), (_PHONE_US, begins), (_PHONE_BARE, figures),
    ):  # fmt: skip
        for match in matches(pattern, text, places, high):
            start, end = match.span()
            digits = _digits(match.group())
            before = text[max(0, start - 24) : start]
            is_called = _PHONE_WORD.search(before) is not None
            if not is_called and (pattern is _PHONE_BARE or _OTHER_NUMBER.search(before)):
                continue
            if pattern is _PHONE_WORLD and not 9 <= len(digits) <= 15:
                continue
            # 000-0000 and the like stand for a number
            if len(set(digits[-7:])) > 1:
                yield start, end, "PHONE"


def _accounts(text: str, figures: Sequence[int], low: int, high: int) -> Iterator[Span]:
    around = text[low:high].lower()
    for words, pattern in _ACCOUNTS:
        if any(word in around for word in words):
            for match in pattern.finditer(text, low, high):
                if pattern is _ROUTING and not is_routing_number(match["n"]):
                    continue
                if pattern is _ACCOUNT_EN and not _BANK_WORD.search(text, max(0, match.start() - 80), match.end() + 80):
                    continue
                yield *match.span("n"), "BANK_ACCOUNT"
    countries = (figure - 2 for figure in figures if figure - 2 >= low and text[figure - 2 : figure].isupper())
    for match in matches(_IBAN, text, countries, high):
        end = match.end()
        while end - match.start() >= 15:
            if is_iban(text[match.start() : end].replace(" ", "")):
                yield match.start(), end, "BANK_ACCOUNT"
                break
            # a word in capitals may follow the number
            end = max(text.rfind(" ", match.start(), end), match.start())
