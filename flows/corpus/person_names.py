"""Names of persons from a list that a company gives.

An entry is masked wherever it stands as written, with or without the blank between Japanese family and given name.
A Japanese entry of one or two characters (森, 山田) is masked only where an honorific or title follows, since it is
part of many words; of an entry with a blank (山田 太郎) the family name is masked in the same way. A Latin entry must
stand as whole words and in its case; of one with a blank also "Smith, John" and "Mr. Smith" are masked.
"""

import re
from collections.abc import Iterator, Sequence

from flows.corpus.windows import Span

__all__ = ["NameList"]

_HONORIFIC = re.compile(
    r"[ 　]?(?:様|さま|さん|氏|殿|君|くん|ちゃん|先生|先輩|(?:代表)?取締役|社長|会長|専務|常務|部長|次長|課長|係長|主任"
    r"|室長|所長|店長|工場長|支店長|リーダー|マネージャー|教授|博士|弁護士)"
)
_TITLE = re.compile(r"(?:Mr|Mrs|Ms|Miss|Dr|Prof|Sir)\.? $")
_WORD = "[A-Za-z0-9_]"


class NameList:
    """A list of names; the time to find them does not grow with its length."""

    def __init__(self, names: Sequence[str]) -> None:
        self._alone: set[str] = set()
        self._with_title: set[str] = set()
        for name in (" ".join(name.split()) for name in names):
            if name.isascii():
                self._add_latin(name)
            elif name:
                self._add_japanese(name)
        known = self._alone | self._with_title
        self._lengths = sorted({len(name) for name in known}, reverse=True)
        first = "".join(sorted({re.escape(name[0]) for name in known}))
        self._first = re.compile(f"[{first}]") if first else None

    def _add_latin(self, name: str) -> None:
        given, _, family = name.rpartition(" ")
        if given:
            self._alone |= {name, f"{family}, {given}"}
            self._with_title.add(family)
        elif len(name) > 1:
            self._alone.add(name)

    def _add_japanese(self, name: str) -> None:
        family, _, given = name.partition(" ")
        if given:
            self._alone |= {name, family + given, f"{family}\u3000{given}"}
        (self._alone if not given and len(family) > 2 else self._with_title).add(family)

    def find(self, text: str) -> Iterator[Span]:
        """Names of a text; spans may overlap."""
        if self._first is None:
            return
        for match in self._first.finditer(text):
            start = match.start()
            for length in self._lengths:
                name = text[start : start + length]
                if self._stands(text, start, name):
                    yield start, start + length, "NAME"
                    break

    def _stands(self, text: str, start: int, name: str) -> bool:
        end = start + len(name)
        if name not in self._alone and name not in self._with_title:
            return False
        if name.isascii():
            is_word = not re.match(_WORD, text[start - 1 : start] or " ") and not re.match(_WORD, text[end : end + 1])
            return is_word and (name in self._alone or _TITLE.search(text[max(0, start - 6) : start]) is not None)
        return name in self._alone or _HONORIFIC.match(text, end) is not None
