"""Facts from the manual's tables: directives (name, description, default, context, module) and glossary terms."""

import re
from dataclasses import dataclass

from lxml import html

from flows.sample.build_pages import cell_text, is_japanese, tidy

__all__ = ["MUST_PASS_DIRECTIVES", "SAFETY_DIRECTIVES", "Directive", "directives_of", "glossary_rows"]

SAFETY_DIRECTIVES = (  # noqa: SIM905 (one name a line would hide the table)
    "Allow AllowOverride AuthBasicProvider AuthType AuthUserFile CGIPassAuth Deny FileETag KeepAliveTimeout "
    "LimitRequestBody LimitRequestFields LimitRequestFieldSize LimitRequestLine Options Order ProxyRequests "
    "Require RequestReadTimeout Satisfy ServerSignature ServerTokens SSLCipherSuite SSLEngine SSLProtocol "
    "SSLVerifyClient SSLVerifyDepth SuexecUserGroup TimeOut TraceEnable UserDir"
).split()
"""Directives whose wrong use opens or stops a server: their names may not be skipped."""

MUST_PASS_DIRECTIVES = (  # noqa: SIM905 (one name a line would hide the table)
    "AllowOverride AuthType LimitRequestBody Options Order ProxyRequests Require Satisfy ServerTokens SSLEngine "
    "SSLProtocol SSLVerifyClient TimeOut TraceEnable"
).split()
"""Directives whose question items a model must still answer after the change."""

SECURITY_TERMS = (  # noqa: SIM905 (one name a line would hide the table)
    "accesscontrol authentication certificate certificatsigningrequest certificationauthority cipher ciphertext "
    "digitalsignature export-crippled hash htaccess https messagedigest passphrase plaintext privatekey publickey "
    "publickeycryptography securesocketslayer symmetriccryptophraphy transportlayersecurity x.509"
).split()
READINGS = {
    "アクセス制御": "あくせすせいぎょ",
    "認証": "にんしょう",
    "証明書": "しょうめいしょ",
    "証明書署名リクエスト": "しょうめいしょしょめいりくえすと",
    "証明局": "しょうめいきょく",
    "暗号文": "あんごうぶん",
    "設定ディレクティブ": "せっていでぃれくてぃぶ",
    "設定ファイル": "せっていふぁいる",
    "デジタル署名": "でじたるしょめい",
    "動的共有オブジェクト": "どうてききょうゆうおぶじぇくと",
    "環境変数": "かんきょうへんすう",
    "輸出強度削減": "ゆしゅつきょうどさくげん",
    "完全修飾ドメイン名": "かんぜんしゅうしょくどめいんめい",
    "正規表現": "せいきひょうげん",
    "平文": "ひらぶん",
    "秘密鍵": "ひみつかぎ",
    "公開鍵": "こうかいかぎ",
    "公開鍵暗号": "こうかいかぎあんごう",
    "対称暗号": "たいしょうあんごう",
}
EXTRA_ALIASES = {"証明局": ["認証局"], "バーチャルホスト": ["仮想ホスト"], "apache2.conf": ["httpd.conf"]}
MISSPELT_IDS = {"regularexpresion": "regularexpression"}
UNCOUNTED = ("Access Control", "Authentication", "Plaintext", "Ciphertext", "graphy", "Hosting", "s")
NOT_AN_ALIAS = {"env-variable", "Regex"}


@dataclass(frozen=True)
class Directive:
    """One directive table of one language; empty strings where the manual says nothing."""

    name: str
    language: str
    document: str
    description: str
    syntax: str
    default: str
    context: str
    module: str

    @property
    def bare_name(self) -> str:
        """Name without the angle brackets of a section directive."""
        return self.name.strip("<>")


def directives_of(content: html.HtmlElement, language: str, document: str) -> list[Directive]:
    """Directive tables of a page whose description is in the page's language."""
    found = []
    for section in content.xpath(".//div[@class='directive-section']"):
        spans, tables = section.xpath("./h2/span[@id]"), section.xpath("./table[@class='directive']")
        if not spans or not tables:
            continue
        cells = _cells(tables[0])
        if (language == "ja") == is_japanese(cells.get("Description", "")):
            found.append(_directive(cell_text(spans[0]), language, document, cells))
    return found


def _cells(table: html.HtmlElement) -> dict[str, str]:
    cells = {}
    for row in table.iter("tr"):
        links = row.xpath("./th/a/@href")
        if links:
            cells[links[0].split("#")[1]] = " ".join(cell_text(td) for td in row.xpath("./td"))
    return cells


def _directive(name: str, language: str, document: str, cells: dict[str, str]) -> Directive:
    default = cells.get("Default", "")
    if default.lower().startswith(name.lower() + " "):
        default = default[len(name) + 1 :]
    default = re.sub(r"\s*(\[\*\]|\([^()]*\))$", "", default).strip('" ')
    return Directive(
        name=name,
        language=language,
        document=document,
        description=cells.get("Description", "").rstrip("。. "),
        syntax=cells.get("Syntax", ""),
        default=default,
        context=cells.get("Context", ""),
        module=cells.get("Module", ""),
    )


def glossary_rows(pages: dict[str, html.HtmlElement]) -> list[dict[str, str]]:
    """Rows of ``glossary.csv`` for the terms of the manual's glossary, ja and en beside each other."""
    terms = {language: _glossary_terms(page) for language, page in pages.items()}
    rows = []
    for term_id in sorted(set(terms["ja"]) | set(terms["en"])):
        for language, other in (("ja", "en"), ("en", "ja")):
            if term_id in terms[language]:
                counterpart = terms[other].get(term_id, [""])[0]
                note = f"{other}: {counterpart}" if counterpart else ""
                rows.append(_term_row(term_id, language, terms[language][term_id], note))
    return rows


def _glossary_terms(page: html.HtmlElement) -> dict[str, list[str]]:
    """Term id -> [term, alias, ...] of one language; the translator's notes are dropped."""
    terms = {}
    for entry in page.iter("dt"):
        ids = entry.xpath(".//a/@id")
        if not ids:
            continue
        text = re.sub(r"\(訳注:[^()]*\)", " ", cell_text(entry))
        aliases = [alias for alias in re.findall(r"\(([^()]+)\)", text) if alias not in NOT_AN_ALIAS]
        term = tidy(re.sub(r"\([^()]*\)", " ", text))
        terms[MISSPELT_IDS.get(ids[0], ids[0])] = [term, *aliases]
    return terms


def _term_row(term_id: str, language: str, names: list[str], note: str) -> dict[str, str]:
    term, aliases = names[0], [*names[1:], *EXTRA_ALIASES.get(names[0], [])]
    if language == "en":
        aliases += _plural(term)
    is_security = term_id in SECURITY_TERMS
    return {
        "term": term,
        "language": language,
        "reading": READINGS.get(term, _hiragana(term) if language == "ja" else ""),
        "aliases": "|".join(aliases),
        "weight": "2.0" if is_security else "1.0",
        "must_not_skip": "true" if is_security else "false",
        "note": note,
        "kind": "glossary",
    }


def _plural(term: str) -> list[str]:
    """Plural of a counted English term, as an alias; terms of more than two words and names have none."""
    if not re.fullmatch(r"[A-Z][a-z]+( [A-Z][a-z]+)?", term) or term.endswith(UNCOUNTED):
        return []
    if term.endswith("y") and term[-2] not in "aeiou":
        return [term[:-1] + "ies"]
    return [term + ("es" if term.endswith("sh") else "s")]


def _hiragana(term: str) -> str:
    """Reading of a term that is all katakana; empty for any other term."""
    if not re.fullmatch(r"[ァ-ヶー]+", term):
        return ""
    return "".join(chr(ord(c) - 0x60) if "ァ" <= c <= "ヶ" else c for c in term)
