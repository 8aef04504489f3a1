"""Roadmap: PoC, pilot, production, and the gate between each."""

from dataclasses import dataclass

from reports.view_parts import Reader, Row, State, Table

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
    month: Table


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
    return Roadmap(reader.t(f"roadmap.lead.{verdict}"), tuple(steps), _month(reader))


def _month(reader: Reader) -> Table:
    """The four weeks of the PoC: what is done, what opens the next week, and whether this result has its record."""
    records = (
        bool(reader.value("/plan/registered")),
        any(reader.value(f"/data/n_documents/{split}") for split in ("validation", "test")),
        bool(reader.value("/sweep")),
        bool(reader.value("/speed")),
        reader.value("/confirmation") is not None,
    )
    rows = []
    for week, is_recorded in enumerate(records):
        state = State("pass", "✔", reader.t("month.recorded")) if is_recorded else None
        rows.append(
            Row(
                (
                    reader.prose(f"month.{week}"),
                    reader.prose(f"month.{week}.work"),
                    reader.prose(f"month.{week}.gate"),
                    state or State("not_measured", "–", reader.t("month.open")),
                )
            )
        )
    columns = tuple(reader.t(f"column.month.{name}") for name in ("week", "work", "gate", "record"))
    return Table("month", reader.t("table.month"), columns, tuple(rows), note=reader.t("table.month.note"))
