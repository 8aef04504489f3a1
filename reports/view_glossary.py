"""Glossary: every KPI from the KPI catalog, then the terms a reader outside the field needs."""

from dataclasses import dataclass

from kpis.catalog import CATALOG, Entry
from reports.formatting import kpi_name
from reports.view_parts import Reader

TERMS = (
    "skip_rate",
    "layer",
    "token",
    "router",
    "threshold",
    "dense",
    "perplexity",
    "critical_token",
    "over_skip",
    "flip",
    "non_inferiority",
    "interval",
    "estimated_ceiling",
    "ttft",
    "tpot",
    "utilisation",
    "replica",
    "npv",
    "splits",
)


@dataclass(frozen=True)
class Term:
    """A term, its explanation in one plain sentence, and for a KPI its formula."""

    name: str
    text: str
    formula: str = ""


@dataclass(frozen=True)
class Glossary:
    """Section 用語集."""

    kpis: tuple[Term, ...]
    terms: tuple[Term, ...]


def build(reader: Reader) -> Glossary:
    """Glossary in the reader's language."""
    kpis = tuple(_kpi(reader, entry) for entry in CATALOG)
    terms = tuple(Term(reader.t(f"term.{name}"), reader.t(f"term.{name}.text")) for name in TERMS)
    return Glossary(kpis, terms)


def _kpi(reader: Reader, entry: Entry) -> Term:
    language = reader.catalog.language
    meaning = entry.meaning_ja if language == "ja" else entry.meaning_en
    return Term(kpi_name(entry.id, language), meaning, reader.t("glossary.formula", formula=entry.formula))
