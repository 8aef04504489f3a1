"""The weekly history: several results of one PoC side by side, oldest first, and what differs between their plans."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reports.chart_style import Words
from reports.charts_history import Point, history_chart
from reports.formatting import GATE_KINDS
from reports.messages import Catalog
from reports.result import GATE_IDS
from reports.text import clean_text
from reports.view_conclusion import VERDICT_ICONS
from reports.view_parts import Cell, Chart, Figure, Prose, Reader, Row, State, Table

GATES = ("Q1", "Q2", "Q4", "S1", "C3", "D1")
CHARTED = (("Q1", 100.0, "pt"), ("S1", 1.0, "×"))
MAX_DIFFERENCES = 60
_STATES = {"go": "pass", "conditional_go": "inconclusive", "no_go": "fail", "no_go_insufficient_evidence": "info"}
_UNIMPORTANT = ("report.", "tracking.")


@dataclass(frozen=True)
class History:
    """The page of several runs."""

    language: str
    page_title: str
    lead: str
    runs: Table
    gates: Table
    charts: tuple[Chart, ...]
    plan: Table
    footer: str
    marker: str


def build_history(results: Sequence[dict[str, Any]], catalog: Catalog) -> History:
    """View of validated results, which are put in the order of their time."""
    ordered = sorted(results, key=lambda result: (result["run"]["created_at"], result["run"]["id"]))
    reader = Reader({"runs": ordered}, catalog)
    title = reader.text(f"/runs/{len(ordered) - 1}/poc/title").text
    return History(
        language=catalog.language,
        page_title=reader.t("history.title", title=title),
        lead=reader.t("history.lead", n=len(ordered)),
        runs=_runs(reader, len(ordered)),
        gates=_gates(reader, len(ordered)),
        charts=tuple(_chart(reader, ordered, *charted) for charted in CHARTED),
        plan=_plan(reader, ordered),
        footer=reader.t("history.footer"),
        marker=reader.t("marker.redacted"),
    )


def _runs(reader: Reader, n: int) -> Table:
    rows = []
    for index in range(n):
        path = f"/runs/{index}"
        code = reader.value(f"{path}/verdict/code")
        word = reader.t(f"verdict.{code}")
        if code == "no_go_insufficient_evidence":
            word = reader.t("verdict.qualified", word=word, qualifier=reader.t("verdict.qualifier"))
        rows.append(
            Row(
                (
                    reader.figure("datetime", f"{path}/run/created_at"),
                    State(_STATES[code], VERDICT_ICONS[code], word),
                    reader.code("reason", reader.value(f"{path}/verdict/main_reason")),
                    reader.text(f"{path}/run/profile"),
                    reader.text(f"{path}/environment/device_name"),
                    _of_chosen(reader, path, "decimal3", "threshold"),
                    _of_chosen(reader, path, "percent", "skip_rate"),
                    reader.figure("hash", f"{path}/run/plan_sha256"),
                )
            )
        )
    names = ("fact.created_at", "conclusion.verdict", "column.reason", "run.profile", "environment.device_name")
    columns = tuple(reader.t(name) for name in (*names, "column.threshold", "column.skip_rate", "run.plan"))
    return Table("history-runs", reader.t("history.runs"), columns, tuple(rows), note=reader.t("history.runs.note"))


def _of_chosen(reader: Reader, path: str, kind: str, key: str) -> Cell:
    chosen = reader.value(f"{path}/choice/sweep_index")
    return reader.prose("missing.dash") if chosen is None else reader.figure(kind, f"{path}/sweep/{chosen}/{key}")


def _gates(reader: Reader, n: int) -> Table:
    rows = []
    for gate_id in GATES:
        cells: list[Cell] = [reader.figure("kpi", f"/runs/0/gates/{GATE_IDS.index(gate_id)}/id")]
        cells += [_gate(reader, f"/runs/{index}/gates/{GATE_IDS.index(gate_id)}") for index in range(n)]
        rows.append(Row(tuple(cells)))
    columns = [reader.t("column.kpi")]
    columns += [reader.t("history.run", n=index + 1) for index in range(n)]
    return Table(
        "history-gates", reader.t("history.gates"), tuple(columns), tuple(rows), note=reader.t("history.gates.note")
    )


def _gate(reader: Reader, path: str) -> Figure:
    """Value with its interval; why it is missing, where it is."""
    gate = reader.value(path)
    kind = GATE_KINDS[gate["unit"]]
    if gate["low"] is None and gate["high"] is None:
        return reader.figure(kind, f"{path}/value", reason=f"{path}/reason")
    return reader.figure(f"ranged:{kind}", f"{path}/value", f"{path}/low", f"{path}/high", reason=f"{path}/reason")


def _chart(reader: Reader, results: Sequence[dict[str, Any]], gate_id: str, factor: float, unit: str) -> Chart:
    gates = [result["gates"][GATE_IDS.index(gate_id)] for result in results]
    points: list[Point | None] = [
        None if gate["value"] is None else (gate["value"], gate["low"], gate["high"]) for gate in gates
    ]
    caption = reader.t("history.chart", name=reader.figure("kpi", f"/runs/0/gates/{GATE_IDS.index(gate_id)}/id").text)
    words = Words(f"history-{gate_id.lower()}", caption, reader.t("history.chart.desc"), reader.t("history.axis"))
    return Chart(words.name, caption, history_chart(points, words, gates[-1]["limit"], unit, factor))


def _plan(reader: Reader, results: Sequence[dict[str, Any]]) -> Table:
    """Settings that are not the same in all runs; how the report looks does not count."""
    plans = [result["plan"]["registered"] for result in results]
    keys = sorted({key for plan in plans for key in plan if not key.startswith(_UNIMPORTANT)})
    differing = [key for key in keys if any(plan.get(key) != plans[0].get(key) for plan in plans)]
    rows = [
        Row((Prose(clean_text(key, 80)), *(_setting(reader, index, plan, key) for index, plan in enumerate(plans))))
        for key in differing[:MAX_DIFFERENCES]
    ]
    columns = (reader.t("column.fact"), *(reader.t("history.run", n=index + 1) for index in range(len(results))))
    return Table(
        "history-plan",
        reader.t("history.plan"),
        columns,
        tuple(rows),
        note=reader.t("history.plan.note"),
        empty=reader.t("history.plan.same"),
    )


def _setting(reader: Reader, index: int, plan: dict[str, Any], key: str) -> Cell:
    if key not in plan:
        return reader.prose("missing.dash")
    path = f"/runs/{index}/plan/registered/" + key.replace("~", "~0").replace("/", "~1")
    return reader.figure("list" if isinstance(plan[key], list) else "text", path, missing="missing.not_set")
