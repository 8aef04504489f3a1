"""Evidence: the gates held against what was registered, the quality map, the confirmatory test, the rivals."""

from dataclasses import dataclass
from typing import Any

from reports import charts, view_confirmed, view_levels
from reports.chart_style import SYMBOLS, Mark, Words
from reports.formatting import GATE_KINDS, format_figure
from reports.view_parts import Callout, Cell, Chart, LegendEntry, Prose, Reader, Row, Table

_ROLE_OF_CONTROL = {
    "base_untuned": "base_untuned",
    "dense_tuned": "dense",
    "skiplayer": "chosen",
    "random_mask": "random_mask",
    "static_drop": "static_drop",
    "all_executed": "all_executed",
    "guards_off": "guards_off",
}


@dataclass(frozen=True)
class Evidence:
    """Section 根拠."""

    choice: Callout
    choice_tone: str
    test_note: str
    gates: Table
    guards: str
    """How to read a Q4 of zero; empty where it was not zero by construction."""
    quality_map: Chart | None
    levels: view_levels.Levels
    sweep: Table
    layers: Chart | None
    confirmation: Table
    answers: Table
    flips: Table
    controls: Table
    rivals: Table


def build(reader: Reader) -> Evidence:
    """Evidence of a result."""
    return Evidence(
        choice=_choice(reader),
        choice_tone="warn" if reader.value("/choice/sweep_index") is None else "info",
        test_note=reader.t("evidence.test_openings", n=_count(reader, "/data/test_openings")),
        gates=_gates(reader),
        guards=_guards(reader),
        quality_map=_quality_map(reader),
        levels=view_levels.build(reader),
        sweep=sweep_summary(reader),
        layers=_layers(reader),
        confirmation=_confirmation(reader),
        answers=_answers(reader),
        flips=view_confirmed.flips(reader),
        controls=_controls(reader),
        rivals=view_confirmed.rivals(reader),
    )


def _count(reader: Reader, path: str) -> str:
    return reader.figure("count", path).text


def _choice(reader: Reader) -> Callout:
    """Which threshold was chosen and why, or plainly that none was."""
    choice = reader.value("/choice")
    why = reader.catalog.family("reason", choice["reason"]) if choice["reason"] else ""
    if choice["sweep_index"] is None:
        key = "choice.none.untested" if not reader.value("/sweep") else "choice.none"
        return Callout(reader.t("choice.none.title"), reader.t(key, why=why))
    row = f"/sweep/{choice['sweep_index']}"
    return Callout(
        reader.t("choice.title"),
        reader.t(
            "choice.text",
            threshold=reader.figure("decimal3", "/choice/threshold").text,
            skip_rate=reader.figure("percent", f"{row}/skip_rate").text,
            ppl_rise=reader.figure("percent_signed", f"{row}/ppl_rise").text,
            why=why,
        ),
    )


def _gates(reader: Reader) -> Table:
    rows = []
    for index, gate in enumerate(reader.value("/gates")):
        path = f"/gates/{index}"
        kind = GATE_KINDS[gate["unit"]]
        # With a cost case at hand, no payback time means that the money never comes back.
        never = gate["id"] == "C4" and reader.value("/cost") is not None
        undefined = str(gate["reason"]).endswith("_undefined")
        missing = "missing.not_recovered" if never else "missing.undefined" if undefined else "missing.label"
        rows.append(
            Row(
                (
                    reader.figure("kpi", f"{path}/id"),
                    reader.figure(f"limit:{kind}:{gate['comparator']}", f"{path}/limit"),
                    reader.figure(kind, f"{path}/value", missing=missing),
                    reader.figure(f"range:{kind}", f"{path}/low", f"{path}/high")
                    if gate["low"] is not None or gate["high"] is not None
                    else reader.prose("missing.dash"),
                    reader.optional("count", f"{path}/n"),
                    reader.state(gate["state"]),
                    reader.remark(gate["reason"]),
                ),
                mark="must" if gate["is_must"] else "",
            )
        )
    columns = ("kpi", "limit", "measured", "interval", "n", "state", "remark")
    return Table(
        "gates", reader.t("table.gates"), _columns(reader, columns), tuple(rows), note=reader.t("table.gates.note")
    )


def is_zero_by_construction(reader: Reader) -> bool:
    """Whether no critical token could be over-skipped, because the plan makes all of them run every layer."""
    is_guarded = any(
        key.rsplit(".", 1)[-1] == "force_critical" and value is True
        for key, value in reader.value("/plan/registered").items()
    )
    gate = next(gate for gate in reader.value("/gates") if gate["id"] == "Q4")
    return is_guarded and gate["value"] == 0


def _guards(reader: Reader) -> str:
    if not is_zero_by_construction(reader):
        return ""
    shows_without = any(control["name"] == "guards_off" for control in reader.value("/controls"))
    return reader.t("evidence.guards") + (reader.t("evidence.guards.off") if shows_without else "")


def _columns(reader: Reader, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(reader.t(f"column.{name}") for name in names)


def sweep_summary(reader: Reader) -> Table:
    """One line per measured threshold, in the order of the fixed sequence."""
    rows = []
    for index, row in enumerate(reader.value("/sweep")):
        path = f"/sweep/{index}"
        verdict = "chosen" if row["chosen"] else ("dense" if row["skip_rate"] == 0 and index == 0 else "")
        rows.append(
            Row(
                (
                    reader.figure("decimal3", f"{path}/threshold"),
                    reader.figure("percent", f"{path}/skip_rate"),
                    reader.figure(
                        "interval:percent_signed", f"{path}/ppl_rise", f"{path}/ppl_rise_low", f"{path}/ppl_rise_high"
                    ),
                    reader.figure("upper:percent", f"{path}/over_skip", f"{path}/over_skip_high"),
                    reader.figure("percent", f"{path}/agreement"),
                    reader.yes_no(f"{path}/passes"),
                    _remark(reader, row, verdict),
                ),
                mark=verdict,
                point=index,
            )
        )
    columns = ("threshold", "skip_rate", "ppl_rise", "over_skip", "agreement", "passes", "remark")
    return Table(
        "sweep",
        reader.t("table.sweep"),
        _columns(reader, columns),
        tuple(rows),
        note=reader.t("table.sweep.note"),
        empty=reader.t("empty.sweep"),
    )


def _remark(reader: Reader, row: dict[str, Any], verdict: str) -> Cell:
    parts = [reader.t(f"mark.{verdict}")] if verdict else []
    parts += [reader.catalog.family("reason", code) for code in row["fail_reasons"]]
    if not parts:
        return reader.prose("missing.dash")
    return Prose(" ".join(parts))


def _quality_map(reader: Reader) -> Chart | None:
    marks: list[Mark] = []
    for row in reader.value("/sweep"):
        if row["ppl_rise"] is not None:
            role = "chosen" if row["chosen"] else "sweep"
            label = reader.t("legend.chosen") if row["chosen"] else ""
            marks.append(
                Mark(
                    row["skip_rate"],
                    row["ppl_rise"],
                    row["ppl_rise_low"],
                    row["ppl_rise_high"],
                    role,
                    label,
                    row["index"],
                )
            )
    if not marks:
        return None
    roles = {mark.role for mark in marks}
    places = {
        control["name"]: (control["skip_rate"], control["ppl_rise"])
        for control in reader.value("/controls")
        if control["ppl_rise"] is not None and control["skip_rate"] is not None
    }
    # All layers run with the trained weights is the dense model again: same place by construction, one mark.
    is_same_as_dense = "dense_tuned" in places and places["dense_tuned"] == places.get("all_executed")
    dense = "dense.all_executed" if is_same_as_dense else "dense"
    for control in reader.value("/controls"):
        role = _ROLE_OF_CONTROL.get(control["name"], "")
        if control["name"] not in places or role in {"", "chosen"} or (is_same_as_dense and role == "all_executed"):
            continue
        roles.add(role)
        marks.append(
            Mark(
                control["skip_rate"],
                control["ppl_rise"],
                control["ppl_rise_low"],
                control["ppl_rise_high"],
                role,
                reader.t(f"legend.{dense if role == 'dense' else role}"),
            )
        )
    words = Words(
        "map",
        reader.t("chart.map"),
        reader.t("chart.map.desc", n=len(marks)),
        reader.t("axis.skip_rate"),
        reader.t("axis.ppl_rise"),
    )
    limit = _registered_limit(reader)
    limit_label = reader.t("legend.limit", limit=format_figure("percent", [limit], reader.catalog)) if limit else ""
    svg = charts.quality_map(
        marks, words, limit, limit_label, reader.t("chart.off_scale", label="{label}", value="{value}")
    )
    order = ("sweep", "chosen", "dense", "base_untuned", "all_executed", "guards_off", "random_mask", "static_drop")
    explained = ("dense", "all_executed", "guards_off", "static_drop")
    names = {role: f"legend.{role}.long" if role in explained else f"legend.{role}" for role in order}
    if is_same_as_dense:
        names["dense"] = "legend.dense.all_executed.long"
    legend = tuple(LegendEntry(SYMBOLS[role], role, reader.t(names[role])) for role in order if role in roles)
    return Chart("map", reader.t("chart.map.caption"), svg, legend)


def _registered_limit(reader: Reader) -> float | None:
    """Limit of the perplexity rise that the plan registered for the sweep, wherever the settings tree keeps it."""
    for key, value in reader.value("/plan/registered").items():
        if key.rsplit(".", 1)[-1] == "max_ppl_rise" and isinstance(value, int | float):
            return float(value)
    return None


def _layers(reader: Reader) -> Chart | None:
    sweep = reader.value("/sweep")
    if not any(row["skip_rate"] > 0 for row in sweep):
        return None
    chosen = reader.value("/choice/sweep_index")
    index = chosen if chosen is not None else max(range(len(sweep)), key=lambda i: sweep[i]["skip_rate"])
    always = frozenset(reader.value("/model/always_run_layers"))
    threshold = reader.figure("decimal3", f"/sweep/{index}/threshold").text
    key = "chart.layers.caption.chosen" if chosen is not None else "chart.layers.caption.most"
    words = Words(
        "layers",
        reader.t("chart.layers"),
        reader.t("chart.layers.desc", threshold=threshold),
        reader.t("axis.layer"),
        reader.t("axis.layer_skip_rate"),
    )
    svg = charts.layer_bars(sweep[index]["skip_rate_per_layer"], always, words, reader.t("legend.always_run"))
    return Chart("layers", reader.t(key, threshold=threshold), svg)


def _confirmation(reader: Reader) -> Table:
    caption = reader.t("table.confirmation")
    if reader.value("/confirmation") is None:
        return Table("confirmation", caption, (), (), empty=reader.t("empty.confirmation"))
    c = "/confirmation"
    entries = [
        (reader.t("confirm.skip_rate"), reader.figure("percent", f"{c}/skip_rate")),
        (
            reader.t("confirm.ppl"),
            reader.figure("interval:percent_signed", f"{c}/ppl_rise", f"{c}/ppl_rise_low", f"{c}/ppl_rise_high"),
        ),
        (reader.t("confirm.accuracy_dense"), reader.figure("percent", f"{c}/accuracy_dense")),
        (reader.t("confirm.accuracy_skip"), reader.figure("percent", f"{c}/accuracy_skip")),
        (reader.t("confirm.same_answer"), reader.figure("share", f"{c}/n_same_answer", f"{c}/n_items")),
        (reader.t("confirm.noise_floor"), _noise_floor(reader)),
        (reader.t("confirm.over_skipped"), reader.figure("share", f"{c}/n_over_skipped", f"{c}/n_critical")),
        (reader.t("confirm.critical_recall"), reader.figure("percent", f"{c}/critical_recall")),
        (reader.t("confirm.skip_critical"), reader.figure("percent", f"{c}/skip_share_critical")),
        (reader.t("confirm.skip_other"), reader.figure("percent", f"{c}/skip_share_other")),
        (reader.t("confirm.must_pass"), reader.figure("share", f"{c}/n_must_pass_failed", f"{c}/n_must_pass")),
        (reader.t("confirm.n_tokens"), reader.figure("count", f"{c}/n_tokens")),
    ]
    return reader.facts("confirmation", caption, entries)


def _noise_floor(reader: Reader) -> Cell:
    """Changed answers of the questions that the dense model really answered twice."""
    flips, n = "/confirmation/noise_floor_flips", "/detail/noise_floor/n"
    return reader.figure("share", flips, n) if reader.has(n) else reader.figure("items", flips)


def _answers(reader: Reader) -> Table:
    """The four cells of the paired comparison: which answers got worse, which better."""
    caption = reader.t("table.answers")
    if reader.value("/confirmation") is None:
        return Table("answers", caption, (), (), empty=reader.t("empty.confirmation"))
    c = "/confirmation"
    rows = (
        Row(
            (
                reader.prose("answers.dense_right"),
                reader.figure("items", f"{c}/n_both_right"),
                reader.figure("items", f"{c}/n_harmful"),
            )
        ),
        Row(
            (
                reader.prose("answers.dense_wrong"),
                reader.figure("items", f"{c}/n_helpful"),
                reader.figure("items", f"{c}/n_both_wrong"),
            )
        ),
    )
    columns = (reader.t("column.answers"), reader.t("answers.skip_right"), reader.t("answers.skip_wrong"))
    return Table("answers", caption, columns, rows, note=reader.t("table.answers.note"))


def _controls(reader: Reader) -> Table:
    rows = []
    for index, control in enumerate(reader.value("/controls")):
        path = f"/controls/{index}"
        rows.append(
            Row(
                (
                    reader.code("control", control["name"]),
                    reader.figure("percent", f"{path}/skip_rate"),
                    reader.figure("decimal2", f"{path}/ppl"),
                    reader.figure(
                        "interval:percent_signed", f"{path}/ppl_rise", f"{path}/ppl_rise_low", f"{path}/ppl_rise_high"
                    ),
                    reader.figure("decimal3", f"{path}/bits_per_byte"),
                    reader.figure("percent", f"{path}/item_accuracy"),
                    reader.code("code", control["note"]) if control["note"] else reader.prose("missing.dash"),
                ),
                mark="chosen" if control["name"] == "skiplayer" else "",
            )
        )
    columns = ("model", "skip_rate", "ppl", "ppl_rise", "bits_per_byte", "item_accuracy", "remark")
    return Table(
        "controls",
        reader.t("table.controls"),
        _columns(reader, columns),
        tuple(rows),
        note=reader.t("table.controls.note"),
        empty=reader.t("empty.controls"),
    )
