"""From result.json to the view: frozen dataclasses whose strings are final, tested without any HTML."""

from dataclasses import dataclass
from typing import Any

from reports import (
    view_conclusion,
    view_cost,
    view_details,
    view_evidence,
    view_glossary,
    view_load,
    view_risks,
    view_roadmap,
    view_speed,
)
from reports.messages import Catalog
from reports.view_parts import Reader, Table

SECTIONS = ("conclusion", "evidence", "speed", "cost", "risks", "roadmap", "details", "glossary", "how")


@dataclass(frozen=True)
class ReportView:
    """The whole page, section by section, in reading order."""

    language: str
    page_title: str
    navigation: tuple[tuple[str, str], ...]
    conclusion: view_conclusion.Conclusion
    evidence: view_evidence.Evidence
    speed: view_speed.Speed
    load: Table
    cost: view_cost.Cost
    risks: view_risks.Risks
    roadmap: view_roadmap.Roadmap
    details: view_details.Details
    glossary: view_glossary.Glossary
    footer: str
    marker: str
    """Stands on every screen and printed page: whether in-house text is shown."""


def build_view(result: dict[str, Any], catalog: Catalog) -> ReportView:
    """View of a validated result in the language of the catalog."""
    reader = Reader(result, catalog)
    conclusion = view_conclusion.build(reader)
    details = view_details.build(reader)
    shows_text = details.token_map.shows_text or reader.has("/answer_samples")
    verdict = conclusion.word
    if conclusion.qualifier:
        verdict = catalog.text("verdict.qualified", word=verdict, qualifier=conclusion.qualifier)
    return ReportView(
        language=catalog.language,
        page_title=catalog.text("page.title", title=conclusion.title.text, verdict=verdict),
        navigation=tuple((name, catalog.text(f"section.{name}")) for name in SECTIONS),
        conclusion=conclusion,
        evidence=view_evidence.build(reader),
        speed=view_speed.build(reader),
        load=view_load.build(reader),
        cost=view_cost.build(reader),
        risks=view_risks.build(reader),
        roadmap=view_roadmap.build(reader),
        details=details,
        glossary=view_glossary.build(reader),
        footer=catalog.text("page.footer", run=reader.text("/run/id").text),
        marker=catalog.text("marker.shown" if shows_text else "marker.redacted"),
    )
