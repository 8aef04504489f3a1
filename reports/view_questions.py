"""Ten questions a manager asks, each with its answer in a few words and the place where it is explained."""

from dataclasses import dataclass
from typing import Any

from reports.formatting import GATE_KINDS, format_figure
from reports.result import GATE_IDS
from reports.text import clean_text
from reports.view_parts import Reader, State


@dataclass(frozen=True)
class Answer:
    """One question, its answer, and the id of the element that explains it."""

    question: str
    answer: str
    place: str
    state: State | None = None


def build(reader: Reader) -> tuple[Answer, ...]:
    """The ten questions in the order in which they are asked."""
    t = reader.t
    return (
        Answer(t("ask.go"), _verdict(reader), "conclusion"),
        _gate(reader, "Q1", "ask.quality", "gates"),
        _gate(reader, "Q4", "ask.critical", "gates"),
        _gate(reader, "S1", "ask.speed", "speed"),
        _saving(reader),
        _gate(reader, "C4", "ask.payback", "cost"),
        Answer(t("ask.simpler"), _rivals(reader), "rivals"),
        Answer(t("ask.untested"), _untested(reader), "risks"),
        Answer(t("ask.risks"), t("ask.risks.answer"), "risk-register"),
        Answer(t("ask.next"), who_and_when(reader), "roadmap"),
    )


def _verdict(reader: Reader) -> str:
    code = reader.value("/verdict/code")
    word = reader.t(f"verdict.{code}")
    if code == "no_go_insufficient_evidence":
        word = reader.t("verdict.qualified", word=word, qualifier=reader.t("verdict.qualifier"))
    return word


def _gate(reader: Reader, gate_id: str, question: str, place: str) -> Answer:
    path = f"/gates/{GATE_IDS.index(gate_id)}"
    gate: dict[str, Any] = reader.value(path)
    never = gate_id == "C4" and reader.value("/cost") is not None
    shown = reader.figure(
        GATE_KINDS[gate["unit"]], f"{path}/value", missing="missing.not_recovered" if never else "missing.label"
    )
    state = reader.state(gate["state"])
    # "not measured" is said once, by the state
    text = "" if shown.is_missing and gate["state"] == "not_measured" else shown.text
    return Answer(reader.t(question), text, place, state)


def _saving(reader: Reader) -> Answer:
    gate = reader.value(f"/gates/{GATE_IDS.index('C3')}")
    text = ""
    if reader.value("/cost") is not None:
        saving = reader.value("/cost/saving_jpy/p50")
        text = format_figure("jpy_short", [abs(saving)], reader.catalog)
        text = reader.t("ask.saving.less" if saving > 0 else "ask.saving.more", amount=text)
    return Answer(reader.t("ask.saving"), text, "cost", reader.state(gate["state"]))


def _rivals(reader: Reader) -> str:
    rivals = reader.value("/rivals") if reader.has("/rivals") else []
    if not rivals:
        return reader.t("ask.simpler.unknown")
    better = [reader.catalog.family("control", rival["name"]) for rival in rivals if rival["state"] == "better"]
    if better:
        return reader.t("ask.simpler.yes", names=reader.t("list.separator").join(better))
    measured = any(rival["state"] != "not_measured" for rival in rivals)
    return reader.t("ask.simpler.no" if measured else "ask.simpler.unknown")


def _untested(reader: Reader) -> str:
    names = [gate["id"] for gate in reader.value("/gates") if gate["state"] == "not_measured"]
    if not names:
        return reader.t("ask.untested.none")
    return reader.t("ask.untested.some", n=len(names), names=reader.t("list.separator").join(names))


def who_and_when(reader: Reader) -> str:
    """Who decides next and by when, from the plan."""
    owner = clean_text(str(reader.value("/poc/owner") or ""), 60) or reader.t("missing.not_set")
    day = reader.value("/poc/decision_date")
    shown = reader.t("missing.not_set") if day is None else reader.figure("date", "/poc/decision_date").text
    return reader.t("ask.next.answer", owner=owner, day=shown)
