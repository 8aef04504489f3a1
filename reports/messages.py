"""The two message catalogs: every word the report prints, in Japanese and English.

A key is looked up strictly; a missing one is an error, never an empty string. Codes that come out of
result.json are looked up in *families* (`reason.`, `action.`, `control.`, ...): a code written by a newer
kpis than this report is shown as its code and marked so, because a finished PoC must still be readable.
"""

import json
import string
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from reports.errors import CatalogError

LANGUAGES = ("ja", "en")
CATALOG_FOLDER = Path(__file__).with_name("catalogs")
FAMILIES = (
    "action",
    "class",
    "code",
    "control",
    "factor",
    "metric",
    "phase",
    "reason",
    "routing",
    "rule",
    "split",
    "stage",
)


@lru_cache(maxsize=len(LANGUAGES))
def messages(language: str) -> MappingProxyType[str, str]:
    """All messages of one language, read-only.

    Raises:
        CatalogError: when the language has no catalog.
    """
    if language not in LANGUAGES:
        raise CatalogError(f"expected a language of {LANGUAGES}, got {language!r} (report.language); choose one")
    loaded = json.loads((CATALOG_FOLDER / f"{language}.json").read_text(encoding="utf-8"))
    return MappingProxyType(loaded)


class _Dashes(dict[str, object]):
    """Parameters of a code message; one that the result does not carry is shown as a dash."""

    def __missing__(self, key: str) -> str:
        return "—"


class Catalog:
    """Messages of one language, remembering which were used (the tests refuse unused ones)."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.used: set[str] = set()
        self._messages = messages(language)

    def text(self, key: str, **params: object) -> str:
        """The message of a key, with its parameters filled in.

        Raises:
            CatalogError: when the key is missing or a parameter of the message is not given.
        """
        template = self._template(key)
        try:
            return template.format(**params)
        except (KeyError, IndexError, ValueError) as error:
            raise CatalogError(
                f"expected parameters for {template!r}, got {sorted(params)} at {key} "
                f"(reports/catalogs/{self.language}.json); pass the missing one"
            ) from error

    def family(self, prefix: str, code: str, **params: object) -> str:
        """The message of a code out of result.json, or the code itself marked as unexplained."""
        key = f"{prefix}.{code}"
        if key not in self._messages:
            return self.text("unknown.code", code=code)
        self.used.add(key)
        return string.Formatter().vformat(self._messages[key], (), _Dashes(params))

    def has(self, key: str) -> bool:
        """Whether the catalog holds a key."""
        return key in self._messages

    def _template(self, key: str) -> str:
        if key not in self._messages:
            raise CatalogError(
                f"expected a message for {key!r}, found none in reports/catalogs/{self.language}.json; add it"
            )
        self.used.add(key)
        return self._messages[key]
