"""Risks and limits: what was not measured, what the test could not have seen, what differs from the plan."""

from dataclasses import dataclass

from reports.text import clean_text
from reports.view_parts import Callout, Reader, Row, Table

RISKS = ("critical", "no_gain", "leakage", "few_items", "price", "privacy", "engine", "staff")
RISK_LEVELS = {
    "critical": ("medium", "high"),
    "no_gain": ("high", "medium"),
    "leakage": ("low", "high"),
    "few_items": ("high", "medium"),
    "price": ("medium", "medium"),
    "privacy": ("low", "high"),
    "engine": ("medium", "medium"),
    "staff": ("medium", "medium"),
}
"""Risk -> default likelihood and impact of the risk register (proposals for the owner to correct)."""


@dataclass(frozen=True)
class Risks:
    """Section リスクと限界."""

    profile: Callout
    profile_tone: str
    not_measured: Table
    detection: Table
    deviations: tuple[str, ...]
    register: Table


def build(reader: Reader) -> Risks:
    """Risk section of a result."""
    deviations = tuple(clean_text(str(text), 300) for text in reader.value("/plan/deviations"))
    tone = "warn" if reader.value("/run/profile") == "quick" else "info"
    return Risks(_profile(reader), tone, _not_measured(reader), _detection(reader), deviations, _register(reader))


def _profile(reader: Reader) -> Callout:
    """What the profile of this run means for what may be claimed."""
    profile = reader.value("/run/profile")
    text = reader.t(
        f"profile.{profile}.text",
        used=reader.figure("count", "/data/train_tokens_used").text,
        available=reader.figure("count", "/data/train_tokens_available").text,
        dense_steps=reader.figure("count", "/model/dense_tune/n_steps").text,
        skip_steps=reader.figure("count", "/model/skip_tune/n_steps").text,
    )
    return Callout(reader.t("profile.title", profile=profile), text)


def _not_measured(reader: Reader) -> Table:
    rows = [
        Row(
            (
                reader.figure("kpi", f"/gates/{index}/id"),
                reader.state(gate["state"]),
                reader.remark(gate["reason"]),
            )
        )
        for index, gate in enumerate(reader.value("/gates"))
        if gate["state"] == "not_measured"
    ]
    columns = tuple(reader.t(f"column.{name}") for name in ("kpi", "state", "reason"))
    return Table(
        "not-measured",
        reader.t("table.not_measured"),
        columns,
        tuple(rows),
        empty=reader.t("empty.not_measured"),
    )


def _detection(reader: Reader) -> Table:
    """Gates whose number of cases was too small, or that the data left open, with the number needed."""
    rows = []
    for index, gate in enumerate(reader.value("/gates")):
        path = f"/gates/{index}"
        needs_more = gate["required_n"] is not None and (gate["n"] or 0) < gate["required_n"]
        if gate["state"] == "inconclusive" or needs_more:
            rows.append(
                Row(
                    (
                        reader.figure("kpi", f"{path}/id"),
                        reader.optional("count", f"{path}/n"),
                        reader.optional("count", f"{path}/required_n"),
                        reader.remark(gate["reason"]),
                    )
                )
            )
    columns = tuple(reader.t(f"column.{name}") for name in ("kpi", "n", "required_n", "reason"))
    return Table(
        "detection",
        reader.t("table.detection"),
        columns,
        tuple(rows),
        note=reader.t("table.detection.note") if rows else "",
        empty=reader.t("empty.detection"),
    )


def _register(reader: Reader) -> Table:
    rows = tuple(
        Row(
            (
                reader.prose(f"risk.{risk}"),
                reader.prose(f"level.{RISK_LEVELS[risk][0]}"),
                reader.prose(f"level.{RISK_LEVELS[risk][1]}"),
                reader.prose(f"risk.{risk}.sign"),
                reader.prose(f"risk.{risk}.response"),
            )
        )
        for risk in RISKS
    )
    columns = tuple(reader.t(f"column.{name}") for name in ("risk", "likelihood", "impact", "sign", "risk_response"))
    return Table("risk-register", reader.t("table.risks"), columns, rows, note=reader.t("table.risks.note"))
