"""First screen: the verdict, its reason, what to do next, and the five tiles."""

from dataclasses import dataclass
from typing import Any

from reports import view_cost, view_evidence, view_questions
from reports.formatting import GATE_KINDS
from reports.result import GATE_IDS
from reports.text import clean_text
from reports.view_parts import Callout, Figure, Reader, State

TILE_GATES = ("Q1", "Q4", "S1", "C3", "D1")
VERDICT_ICONS = {"go": "✔", "conditional_go": "!", "no_go": "✖", "no_go_insufficient_evidence": "?"}


@dataclass(frozen=True)
class Tile:
    """One KPI of the first screen."""

    gate_id: Figure
    title: str
    question: str
    value: Figure
    interval: Figure | None
    limit_label: str
    limit: Figure
    state: State
    notes: tuple[str, ...]
    """Why the tile is not a plain pass, and what a reader must know to read its figure."""
    extra: Figure | None = None


@dataclass(frozen=True)
class Conclusion:
    """Everything a manager needs before scrolling."""

    code: str
    icon: str
    word: str
    qualifier: str
    """What stands below the word of the verdict; empty for all but insufficient evidence."""
    reason: str
    other_reasons: tuple[str, ...]
    evidence: State
    banner: Callout | None
    actions: tuple[str, ...]
    who_and_when: str
    """Who decides next and by when."""
    tiles: tuple[Tile, ...]
    title: Figure
    facts: tuple[tuple[str, Figure], ...]
    questions: tuple[view_questions.Answer, ...]


def build(reader: Reader) -> Conclusion:
    """First screen of a result."""
    verdict = reader.value("/verdict")
    family = reader.catalog.family
    reasons = [code for code in dict.fromkeys(verdict["reasons"]) if code != verdict["main_reason"]]
    is_sufficient = verdict["evidence"] == "sufficient"
    return Conclusion(
        code=verdict["code"],
        icon=VERDICT_ICONS[verdict["code"]],
        word=reader.t(f"verdict.{verdict['code']}"),
        qualifier=reader.t("verdict.qualifier") if verdict["code"] == "no_go_insufficient_evidence" else "",
        reason=family("reason", verdict["main_reason"]),
        other_reasons=tuple(family("reason", code) for code in reasons),
        evidence=State(
            "pass" if is_sufficient else "inconclusive",
            "✔" if is_sufficient else "!",
            reader.t(f"evidence.{verdict['evidence']}"),
        ),
        banner=_banner(reader),
        actions=tuple(_action(reader, action) for action in verdict["next_actions"]),
        who_and_when=view_questions.who_and_when(reader),
        tiles=tuple(_tile(reader, GATE_IDS.index(gate_id)) for gate_id in TILE_GATES),
        title=reader.text("/poc/title"),
        facts=(
            (reader.t("fact.organisation"), reader.text("/poc/organisation")),
            (reader.t("fact.owner"), reader.text("/poc/owner")),
            (reader.t("fact.decision_date"), _decision_date(reader)),
            (reader.t("fact.created_at"), reader.figure("datetime", "/run/created_at")),
        ),
        questions=view_questions.build(reader),
    )


def _decision_date(reader: Reader) -> Figure:
    if reader.value("/poc/decision_date") is None:
        return Figure(reader.t("missing.not_set"), ("/poc/decision_date",), "date", is_missing=True)
    return reader.figure("date", "/poc/decision_date")


def _banner(reader: Reader) -> Callout | None:
    if reader.value("/verdict/banner") != "functional_check":
        return None
    codes = reader.value("/run/functional_check_reasons")
    reasons = reader.t("list.separator").join(reader.catalog.family("code", code) for code in codes)
    return Callout(reader.t("banner.title"), reader.t("banner.text", reasons=reasons))


def _action(reader: Reader, action: dict[str, object]) -> str:
    """The sentence of one next action, its parameters formatted by what they are."""
    params = action["params"]
    shown: dict[str, object] = {}
    for name, value in params.items() if isinstance(params, dict) else ():
        if isinstance(value, str) or value is None:
            shown[name] = clean_text(value or "", 80) or reader.t("missing.not_set")
        elif isinstance(value, float) and not value.is_integer():
            shown[name] = f"{value:,.2f}"
        else:
            shown[name] = f"{value:,.0f}"
    return reader.catalog.family("action", str(action["code"]), **shown)


def _notes(reader: Reader, gate: dict[str, Any]) -> tuple[str, ...]:
    parts = [reader.catalog.family("reason", gate["reason"])] if gate["reason"] else []
    if gate["id"] == "C3" and view_cost.is_priced_elsewhere(reader):
        parts.append(reader.t("tile.C3.elsewhere"))
    if gate["id"] == "Q4" and view_evidence.is_zero_by_construction(reader):
        parts.append(reader.t("tile.Q4.guarded"))
    return tuple(parts)


def _tile(reader: Reader, index: int) -> Tile:
    path = f"/gates/{index}"
    gate = reader.value(path)
    kind = GATE_KINDS[gate["unit"]]
    gate_id = gate["id"]
    value = reader.figure(kind, f"{path}/value", reason=f"{path}/reason")
    interval: Figure | None = None
    extra: Figure | None = None
    if not value.is_missing and (gate["low"] is not None or gate["high"] is not None):
        # The quality gates carry two one-sided 95 % bounds, the speed gate one two-sided 95 % interval.
        bounds = "bounds" if gate_id.startswith("Q") else "span"
        interval = reader.figure(f"{bounds}:{kind}", f"{path}/low", f"{path}/high")
    if gate_id == "C3" and reader.value("/cost") is not None and gate["unit"] == "fraction":
        # The gate is the probability of a saving; the reader asks for the yen first.
        extra = value
        saving = "/cost/saving_jpy"
        value = reader.figure("jpy_short", f"{saving}/p50")
        interval = None if value.is_missing else reader.figure("spread:jpy_short", f"{saving}/p10", f"{saving}/p90")
    return Tile(
        gate_id=reader.text(f"{path}/id"),
        title=reader.t(f"tile.{gate_id}"),
        question=reader.t(f"tile.{gate_id}.question"),
        value=value,
        interval=interval,
        limit_label=reader.t("tile.limit.C3" if extra else "tile.limit"),
        limit=reader.figure(f"limit:{kind}:{gate['comparator']}", f"{path}/limit"),
        state=reader.state(gate["state"]),
        notes=_notes(reader, gate),
        extra=extra,
    )
