"""Secrets in text: API keys, tokens, private keys and passwords.

Keys with a known form are found by it. A value after a word such as ``api_key=`` is a key if it looks drawn by
chance; a value after a word such as ``password=`` or ``パスワード：`` is a password unless it stands for one.
"""

import re
from collections.abc import Iterable, Iterator

from flows.corpus.places import Places
from flows.corpus.private_checks import is_placeholder, is_random
from flows.corpus.windows import Span, windows

__all__ = ["find_private_keys", "find_secrets"]

_KNOWN = re.compile(
    r"(?<![A-Za-z0-9_])(?:A[KS]IA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_[A-Za-z0-9_]{30,255}"
    r"|glpat-[A-Za-z0-9_-]{20,64}|xox[abeoprs]-[A-Za-z0-9-]{10,255}|xapp-[A-Za-z0-9-]{10,255}"
    r"|hooks\.slack\.com/services/[A-Za-z0-9/]{20,100}|sk-(?:[a-z]{2,10}[0-9]{0,2}-)?[A-Za-z0-9_-]{20,255}"
    r"|[sr]k_(?:live|test)_[A-Za-z0-9]{16,255}|AIza[0-9A-Za-z_-]{35}|hf_[A-Za-z0-9]{30,64}|npm_[A-Za-z0-9]{36}"
    r"|pypi-[A-Za-z0-9_-]{50,255}|SG\.[A-Za-z0-9_-]{16,32}\.[A-Za-z0-9_-]{16,64}"
    r"|eyJ[A-Za-z0-9_-]{10,4096}\.eyJ[A-Za-z0-9_-]{10,8192}(?:\.[A-Za-z0-9_-]{10,4096})?)"
)
"""Of AWS, GitHub, GitLab, Slack, OpenAI and others like it, Stripe, Google, Hugging Face, npm, PyPI, SendGrid; JWT."""
_BEFORE, _AFTER = 64, 64
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"(?:(?:[A-Za-z0-9+/=\s:,.\\()]|-(?!----)){0,20000}+-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    r"|(?:\s{0,4}[A-Za-z0-9+/=]{32,100}(?=\s|$)){1,400})"
)
_KEY_VALUE = re.compile(
    r"(?i:(?P<public>public[ _-]?|pub_?|公開)?(?:key|token|secret|bearer|credential|キー|トークン|シークレット))"
    r"""(?:(?:s|[_-][A-Za-z0-9_-]{0,20})?["'\])）】]{0,2}[ \t　]{0,3}(?:=>|[:：=＝]|は|[ \t]is[ \t])"""
    r"""|(?<=[Bb]earer)[ \t])[ \t　]{0,3}["'「`]?(?P<value>[A-Za-z0-9+/_=.~-]{16,1024})"""
)
_KNOWN_EXAMPLE = re.compile(r"(?i)example|123456789|abcdefgh|0000000")

_PASSWORD_VALUE = re.compile(
    r"""(?P<word>(?i:password|passwd|passphrase|passcode|pass|pwd|pw|pin)|パスワード|暗証番号)"""
    r"""(?:s|[_-][A-Za-z0-9_-]{1,20}|[0-9]{1,2})?["'\])】]{0,2}(?:（[^）\n]{1,12}）|\([^)\n]{1,12}\))?"""
    r"""(?P<mark>[ \t　]{0,3}(?:=>|[:：](?!/)|[=＝](?!=)|は|>)|[ \t]is[ \t]|[ \t](?=['"!-~])|(?=[「【]))[ \t　]{0,3}"""
    r"""(?:"(?P<double>[^"\n]{4,200})"|'(?P<single>[^'\n]{4,200})'|[「【](?P<bracket>[!-~]{4,100})[」】]"""
    r"""|(?P<bare>[!-;=?-~]{4,200}))"""
)
_NOT_PASSWORDS = re.compile(
    r"(?i)[\"']?(?:string|text|none|null|true|false|required|optional|hidden|password|passwd|secret|enabled|disabled|varchar"
    r"|field|input|type|value|blank|empty|default|prompt|yes|expired|incorrect|invalid|wrong|unknown|unset|never|must)[\"']?"
)
_NEXT_FIELD = re.compile(r"[;&](?=[A-Za-z_ ]{1,30}=)")
_CODE = re.compile(
    r"[A-Za-z_][\w.]*[(\[]|[A-Za-z_]\w*(?:(?:\.|->|::)[A-Za-z_]\w*)+$|[0-9]{4}[-/][0-9]{1,2}[-/][0-9]{1,2}$"
)
_STATED = re.compile(r"[ \t]?(?:です|でし|。|、|」|に(?:変更|設定)|を(?:入力|使)|$|\n)")
_SENTENCE_END = re.compile(r"[.,]?(?:\s|$)")
_USER_INFO = re.compile(r"://[^\s:/@\"'<>]{0,64}:(?P<value>[^\s/@\"'<>]{3,128})@")
_COMMANDS = (
    ("mysql", re.compile(r"mysql(?:dump|admin)?[^\n]{0,80}? -p(?P<value>[!-~]{4,64})")),
    ("curl", re.compile(r"curl[^\n]{0,80}? -u [\"']?[^\s:\"']{1,64}:(?P<value>[^\s\"']{3,64})")),
    ("sshpass", re.compile(r"sshpass -p ?[\"']?(?P<value>[^\s\"']{3,64})")),
    ("dentified", re.compile(r"[Ii]dentified by '(?P<value>[^'\n]{3,64})'")),
    ("DENTIFIED", re.compile(r"IDENTIFIED BY '(?P<value>[^'\n]{3,64})'")),
)


def find_private_keys(text: str) -> Iterator[Span]:
    """Blocks of private keys, also cut off ones; the only pattern that runs over empty lines."""
    if "PRIVATE KEY" in text:
        for match in _PRIVATE_KEY.finditer(text):
            yield match.start(), match.end(), "API_KEY"


def find_secrets(text: str, places: Places) -> Iterator[Span]:
    """API keys, tokens and passwords of a piece of text; spans may overlap."""
    for start, end in windows(places.keys, _BEFORE, _AFTER, len(text)):
        yield from _keys(text, start, end)
    yield from _passwords_after_words(text, places.hints)
    if places.at_signs and "://" in text:
        for match in _USER_INFO.finditer(text):
            if not is_placeholder(match["value"]) and not _NOT_PASSWORDS.fullmatch(match["value"]):
                yield *match.span("value"), "PASSWORD"
    if places.words:
        for mark, pattern in _COMMANDS:
            if mark in text:
                for match in pattern.finditer(text):
                    if not is_placeholder(match["value"]):
                        yield *match.span("value"), "PASSWORD"


def _keys(text: str, low: int, high: int) -> Iterator[Span]:
    for match in _KNOWN.finditer(text, low, high):
        if not is_placeholder(match.group()) and not _KNOWN_EXAMPLE.search(match.group()):
            yield *match.span(), "API_KEY"
    for match in _KEY_VALUE.finditer(text, low, high):
        value = match["value"].rstrip(".-")
        is_secret = is_random(value) and not is_placeholder(value) and not _KNOWN_EXAMPLE.search(value)
        if is_secret and not match["public"]:
            yield match.start("value"), match.start("value") + len(value), "API_KEY"


def _passwords_after_words(text: str, hints: Iterable[int]) -> Iterator[Span]:
    for start in hints:
        match = _PASSWORD_VALUE.match(text, start)
        if match is None:
            continue
        word = match["word"].lower()
        if word in ("pass", "pwd", "pw", "pin") and re.match("[A-Za-z]", text[start - 1 : start]):
            continue
        group = str(match.lastgroup)
        value = match[group]
        mark = match["mark"].strip(" \t　")
        if group == "bare":
            value = _NEXT_FIELD.split(value)[0].rstrip(",;(")
            if value.endswith((".", ")")) and _SENTENCE_END.match(text, match.start(group) + len(value)):
                value = value[:-1]
        end = match.start(group) + len(value)
        is_option = not mark and text[max(0, start - 2) : start] == "--"
        is_assigned = mark != "" or is_option or group == "bracket"
        if is_assigned and _is_password(value, mark, group, word, text[end : end + 4]):
            yield match.start(group), end, "PASSWORD"


def _is_password(value: str, mark: str, group: str, word: str, after: str) -> bool:
    if len(value) < 4 or is_placeholder(value) or _NOT_PASSWORDS.fullmatch(value):
        return False
    is_pin = word in ("pin", "暗証番号")
    if is_pin:
        return value.isdigit() and 4 <= len(value) <= 8
    if group != "bare":
        return mark in (":", "：", "=", "＝", "=>") or any(not c.isalpha() for c in value)
    if _CODE.match(value) or (value.strip("-+~").replace("-", "").isdigit() and len(value) < 6):
        return False
    n_kinds = len({"digit" if c.isdigit() else "letter" if c.isalpha() else "mark" for c in value})
    if mark in ("は", "is"):
        is_stated = _STATED.match(after) is not None or (mark == "is" and _SENTENCE_END.match(after) is not None)
        return is_stated and n_kinds >= 2 and any(c.isdigit() for c in value)
    return n_kinds >= 2 or value.isdigit() or mark in ("=", "＝") or not after.strip(" ")[:1].isalnum()
