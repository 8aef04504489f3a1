"""Roadmap: PoC, pilot, production, and the gate between each."""

from dataclasses import dataclass

from reports.view_parts import Reader

STEPS = ("poc", "pilot", "production")
_POSITION = {"go": 1, "conditional_go": 0, "no_go": 0, "no_go_insufficient_evidence": 0}
"""Verdict -> the step that may be under way next."""


@dataclass(frozen=True)
class Step:
    """One step of the way into service."""

    name: str
    scope: str
    gate: str
    status: str
    status_word: str


@dataclass(frozen=True)
class Roadmap:
    """Section ロードマップ."""

    lead: str
    steps: tuple[Step, ...]


def build(reader: Reader) -> Roadmap:
    """Roadmap of a result: a stopped PoC shows the later steps as not open."""
    verdict = reader.value("/verdict/code")
    position = _POSITION[verdict]
    steps = []
    for index, name in enumerate(STEPS):
        status = "done" if index < position else ("later" if index > position else "next" if position else "current")
        if index > 0 and verdict in {"no_go", "no_go_insufficient_evidence"}:
            status = "closed"
        steps.append(
            Step(
                reader.t(f"roadmap.{name}"),
                reader.t(f"roadmap.{name}.scope"),
                reader.t(f"roadmap.{name}.gate"),
                status,
                reader.t(f"roadmap.status.{status}"),
            )
        )
    return Roadmap(reader.t(f"roadmap.lead.{verdict}"), tuple(steps))
