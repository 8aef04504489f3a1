"""Postal addresses of persons and companies: Japan, and moderately the United States and the United Kingdom.

A Japanese address needs a municipality and a number within it (丁目, 番地, 1-2-3); a prefecture or a city alone names
a place, not an address. An English one needs house number, street, and a town, postcode, or a word like "address".
"""

import re
from collections.abc import Iterator

from flows.corpus.places import Places
from flows.corpus.windows import Span, matches

__all__ = ["find_addresses"]

_PREFECTURE = (
    r"(?:北海道|東京都|(?:京都|大阪)府|(?:青森|岩手|宮城|秋田|山形|福島|茨城|栃木|群馬|埼玉|千葉|神奈川|新潟|富山|石川|福井|山梨|長野|岐阜"
    r"|静岡|愛知|三重|滋賀|兵庫|奈良|和歌山|鳥取|島根|岡山|広島|山口|徳島|香川|愛媛|高知|福岡|佐賀|長崎|熊本|大分|宮崎|鹿児島|沖縄)県)"
)
_N = "(?:[0-9]{1,4}|[一二三四五六七八九十]{1,3})"
_D = "[-‐‑‒–—―−ー]"
_KANJI = "一-龥々ヶケ〆"
_TOWN = rf"[{_KANJI}ァ-ヴーぁ-ん]"
_HOUSE = (
    rf"(?P<house>{_N}丁目[ 　]?(?:{_N}(?:{_D}|番地?の?|の)?(?:{_N}号?)?(?:{_D}{_N})?)?"
    rf"|(?:大字|字)?{_N}番地?(?:の?{_N}号?)?(?:{_D}{_N})?"
    rf"|{_N}{_D}{_N}(?:{_D}{_N}){{0,2}}号?)"
)
_BUILDING = (
    r"(?:[ 　][^\s、。,「」（）()0-9]{1,20}(?=[0-9]{1,4}(?:階|号室|[FＦ]))|[ 　,、]{0,2}[^\s、。,「」（）()0-9]{1,20}?"
    r"(?:ビル(?:ディング)?|マンション|ハイツ|コーポ|荘|タワー|レジデンス|メゾン|アパート|ハウス|館|寮))?"
    r"(?:[ 　]?[0-9]{1,4}(?:階|号室|号|[FＦ](?![A-Za-z])))?"
)
_JAPANESE = re.compile(
    rf"(?<=[{_KANJI}ま-みつくばんいえ])[市区町村]"
    r"(?=[^0-9一二三四五六七八九十\n]{0,24}[0-9一二三四五六七八九十])"
    rf"(?P<town>(?:{_TOWN}|(?<!条)[0-9]{{1,2}}条){{0,24}}?)[ 　]?{_HOUSE}(?![0-9])"
    rf"{_BUILDING}"
)
_LEFT = re.compile(
    rf"(?P<zip>〒?[ 　]?(?<![0-9-])[0-9]{{3}}{_D}?[0-9]{{4}}[ 　]{{0,2}}\n?)?(?P<prefecture>{_PREFECTURE}[ 　]?)?"
    rf"(?:[{_KANJI}]{{1,8}}|さいたま|つくば|いわき|ひたちなか|あきる野|かすみがうら|みどり|ふじみ野|うるま|いちき串木野"
    r"|にかほ|つくばみらい|みやま|えびの|たつの)$"
)
_HIRAGANA = re.compile("[ぁ-ん]")
_PLACE_NAMES = re.compile(
    "[のがケヶつ]|みなとみらい|お台場|ひばりが|たまプラーザ|あざみ|すすき|つつじ|さくら|ひかり|みどり|あけぼの|いずみ"
)
_ADDRESS_WORD = re.compile(
    r"(?:住所|所在地|本社|本店|支店|居所|送付先|届け?先|宛先|現住所|自宅|勤務地|会場)[^。\n]{0,12}$"
)
_ZIP = re.compile(rf"〒[ 　]?[0-9]{{3}}{_D}?[0-9]{{4}}(?![0-9])")
_NOT_TOWNS = re.compile(r"[はをにでとも、]|から|まで|より|対応|規模|販|画|コード|番号|第")

_STREET = (
    r"Street|St\.?|Road|Rd\.?|Avenue|Ave\.?|Lane|Ln\.?|Drive|Dr\.?|Boulevard|Blvd\.?|Way|Court|Ct\.?|Place|Pl\.?|Square|Sq\.?"
    r"|Close|Crescent|Terrace|Parkway|Pkwy\.?|Highway|Hwy\.?|Gardens|Row|Mews|Circle|Broadway"
)
_POSTCODE = "(?:[A-Z]{2} [0-9]{5}(?:-[0-9]{4})?|[A-Z]{1,2}[0-9][0-9A-Z]? ?[0-9][A-Z]{2})"
"""Of the United States with the state before it, or of the United Kingdom."""
_ENGLISH = re.compile(
    rf"[0-9](?<![0-9A-Za-z.,/-].)[0-9]{{0,4}}[A-Za-z]?,? (?:[NSEW]\.? |North |South |East |West )?"
    rf"(?:(?:[A-Z][A-Za-z'’.-]{{1,20}}|[0-9]{{1,3}}(?:st|nd|rd|th)) ){{1,3}}(?:{_STREET})(?![A-Za-z])"
    r"(?P<unit>,? ?(?:Suite|Ste\.?|Apt\.?|Apartment|Unit|Floor|Flat|#) ?[0-9A-Za-z-]{1,6}"
    r"|,? [0-9]{1,2}(?:st|nd|rd|th) Floor)?"
    r"(?P<town>,? [A-Z][A-Za-z'’.-]{1,20}(?: [A-Z][A-Za-z'’.-]{1,20}){0,2})??"
    rf"(?P<code>,? (?:[A-Z][a-z]{{2,12}}(?: [A-Z][a-z]{{2,12}})?,? )?{_POSTCODE})?(?![A-Za-z0-9])"
)
_TOWN_EN = re.compile(r",\s[A-Z][a-z]{2,20}(?: [A-Z][a-z]{2,20}){0,2}")
_ADDRESS_WORD_EN = re.compile(
    r"(?i)(?:address|located|lives?|living|resid\w{1,6}|visit|ship\w{0,4}|mail\w{0,4}|deliver\w{0,4}|send|sent|offices?"
    r"|headquarter\w{0,3}|moved|home|house|warehouse|branch|return\w{0,3}|premises|billing|register\w{0,3})[^.\n]{0,24}$"
)
_PO_BOX = re.compile(
    rf"\bP\.?O\.? Box [0-9]{{1,6}}(?:, [A-Z][a-z]{{2,20}}(?: [A-Z][a-z]{{2,20}})?)?(?:,? {_POSTCODE})?"
)


def find_addresses(text: str, places: Places) -> Iterator[Span]:
    """Addresses of a piece of text with half-width digits; spans may overlap."""
    yield from _japanese(text, places)
    for match in matches(_ENGLISH, text, places.figures):
        is_placed = match["unit"] or match["code"] or _TOWN_EN.match(text, match.end())
        if is_placed or _ADDRESS_WORD_EN.search(text[max(0, match.start() - 48) : match.start()]):
            town = None if match["code"] else _TOWN_EN.match(text, match.end())
            yield match.start(), town.end() if town else match.end(), "POSTAL_ADDRESS"
    if places.words and "Box" in text:
        for match in _PO_BOX.finditer(text):
            yield *match.span(), "POSTAL_ADDRESS"


def _japanese(text: str, places: Places) -> Iterator[Span]:
    for match in matches(_JAPANESE, text, places.towns):
        window = max(0, match.start() - 32)
        left = _LEFT.search(text[window : match.start()])
        if left is None:
            continue
        town, house = match["town"], match["house"]
        is_marked = left["zip"] or left["prefecture"] or _ADDRESS_WORD.search(text[window : window + left.start()])
        plain = _PLACE_NAMES.sub("", town)
        has_hiragana = _HIRAGANA.search(plain) is not None
        is_full = "丁目" in house or "番" in house or len(re.findall(_D, house)) >= 2
        is_short = is_full and not has_hiragana and len(town) <= 12
        if (is_marked or is_short) and not _NOT_TOWNS.search(plain):
            yield window + left.start(), match.end(), "POSTAL_ADDRESS"
    for match in matches(_ZIP, text, places.postal_marks):
        yield *match.span(), "POSTAL_ADDRESS"
