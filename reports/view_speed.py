"""Speed: counted work, estimated ceiling and measured time side by side, never one for the other."""

import dataclasses
from dataclasses import dataclass

from reports import charts
from reports.chart_style import SYMBOLS, Mark, Words
from reports.view_parts import Callout, Cell, Chart, LegendEntry, Reader, Row, Table

SINGLE_REQUESTS = "batch 1, one request at a time"
"""The load that the product itself measures; other texts in `responses.load` are the user's and printed as they are."""


@dataclass(frozen=True)
class Speed:
    """Section 速度."""

    summary: Callout
    rows: Table
    chart: Chart | None
    responses: Table


def build(reader: Reader) -> Speed:
    """Speed section of a result."""
    return Speed(_summary(reader), _rows(reader), _chart(reader), _responses(reader))


def _headline(reader: Reader) -> int | None:
    return next((index for index, row in enumerate(reader.value("/speed")) if row["is_headline"]), None)


def _summary(reader: Reader) -> Callout:
    index = _headline(reader)
    title = reader.t("speed.summary.title")
    if index is None or reader.value(f"/speed/{index}/measured_speedup") is None:
        return Callout(title, reader.t("speed.summary.none"))
    path = f"/speed/{index}"
    row = reader.value(path)
    low, high = row["low"], row["high"]
    outcome = "open"
    if low is not None and low > 1:
        outcome = "faster"
    elif high is not None and high < 1:
        outcome = "slower"
    text = reader.t(
        "speed.summary.text",
        skip_rate=reader.figure("percent", f"{path}/skip_rate").text,
        ceiling=reader.figure("ratio", f"{path}/estimated_ceiling").text,
        measured=reader.figure("interval:ratio", f"{path}/measured_speedup", f"{path}/low", f"{path}/high").text,
        device=reader.text("/environment/device_name").text,
    )
    return Callout(title, text + reader.t(f"speed.summary.{outcome}") + _engagement(reader))


def _engagement(reader: Reader) -> str:
    """Where skipping engages and where not, and what skipping would have been there; empty without a rule."""
    told = []
    for index, row in enumerate(reader.value("/speed")):
        path = f"/speed/{index}"
        if row.get("engaged") is None:
            continue
        keys = ("phase", "batch", "prompt_tokens", "output_tokens", "routing")
        condition = reader.figure("condition", *(f"{path}/{key}" for key in keys)).text
        if row["engaged"]:
            told.append(reader.t("speed.summary.rule_on", condition=condition))
        else:
            without = reader.figure("ratio", f"{path}/measured_speedup_without_rule").text
            told.append(reader.t("speed.summary.rule_off", condition=condition, measured=without))
    return "".join(told)


def _rows(reader: Reader) -> Table:
    rows = []
    for index, row in enumerate(reader.value("/speed")):
        path = f"/speed/{index}"
        rows.append(
            Row(
                (
                    reader.figure(
                        "condition",
                        *(f"{path}/{key}" for key in ("phase", "batch", "prompt_tokens", "output_tokens", "routing")),
                    ),
                    reader.figure("percent", f"{path}/skip_rate"),
                    reader.figure("ratio", f"{path}/estimated_ceiling"),
                    reader.figure("interval:ratio", f"{path}/measured_speedup", f"{path}/low", f"{path}/high"),
                    reader.figure("seconds", f"{path}/dense_s"),
                    reader.figure("seconds", f"{path}/skip_s"),
                    reader.figure("count", f"{path}/n_pairs"),
                    _conversion(reader, path),
                ),
                mark="headline" if row["is_headline"] else "",
            )
        )
    names = ("condition", "counted", "estimated", "measured_time", "dense_time", "skip_time", "n_pairs", "conversion")
    return Table(
        "speed-rows",
        reader.t("table.speed"),
        tuple(reader.t(f"column.{name}") for name in names),
        tuple(rows),
        note=reader.t("table.speed.note"),
        empty=reader.t("empty.speed"),
    )


def _conversion(reader: Reader, path: str) -> Cell:
    """Share of the estimated gain that was realised; undefined where next to nothing was skipped."""
    figure = reader.figure("percent", f"{path}/conversion", missing="missing.undefined")
    if figure.is_missing and reader.value(f"{path}/measured_speedup") is not None:
        return dataclasses.replace(figure, reason=reader.catalog.family("reason", "conversion_undefined"))
    return figure


def _chart(reader: Reader) -> Chart | None:
    rows = [
        row
        for row in reader.value("/speed")
        if row["phase"] == "decode" and row["skip_s"] is not None and row["dense_s"] is not None
    ]
    if not rows:
        return None
    # One batch size per chart; the headline's, or the first measured.
    batch = next((row["batch"] for row in rows if row["is_headline"]), rows[0]["batch"])
    rows = [row for row in rows if row["batch"] == batch]
    scale, unit = (1000.0, "ms") if max(row["dense_s"] for row in rows) < 1 else (1.0, "s")
    marks = []
    for row in rows:
        x, dense = row["skip_rate"], row["dense_s"] * scale
        low = dense / row["high"] if row["high"] else None
        high = dense / row["low"] if row["low"] else None
        label = reader.t("legend.headline") if row["is_headline"] else ""
        marks.append(Mark(x, dense, None, None, "dense"))
        if row["estimated_ceiling"]:
            marks.append(Mark(x, dense / row["estimated_ceiling"], None, None, "estimate"))
        marks.append(Mark(x, row["skip_s"] * scale, low, high, "sweep", label))
    words = Words(
        "time",
        reader.t("chart.time"),
        reader.t("chart.time.desc", n=len(rows)),
        reader.t("axis.skip_rate"),
        reader.t("axis.time"),
    )
    has_random = any(row["routing"] == "random" for row in rows)
    caption = reader.t("chart.time.caption.random" if has_random else "chart.time.caption", batch=batch)
    legend = (
        LegendEntry(SYMBOLS["sweep"], "sweep", reader.t("legend.time.skip")),
        LegendEntry(SYMBOLS["dense"], "dense", reader.t("legend.time.dense")),
        LegendEntry(SYMBOLS["estimate"], "estimate", reader.t("legend.time.estimate")),
    )
    return Chart("time", caption, charts.time_chart(marks, words, unit), legend)


def _responses(reader: Reader) -> Table:
    caption = reader.t("table.responses")
    if reader.value("/responses") is None:
        return Table("responses", caption, (), (), empty=reader.t("empty.responses"))
    rows = []
    for metric in ("ttft_s", "tpot_s"):
        for side in ("dense", "skip"):
            path = f"/responses/{metric}/{side}"
            rows.append(
                Row(
                    (
                        reader.prose(f"responses.{metric}.{side}"),
                        reader.figure("seconds", f"{path}/p50"),
                        reader.figure("seconds", f"{path}/p90"),
                        reader.figure("seconds", f"/responses/slo/{metric}"),
                        reader.figure("count", f"{path}/n"),
                    )
                )
            )
    columns = tuple(reader.t(f"column.{name}") for name in ("response", "p50", "p90", "slo", "n"))
    load = reader.text("/responses/load").text
    if load == SINGLE_REQUESTS:
        load = reader.t("responses.load.single")
    return Table("responses", caption, columns, tuple(rows), note=reader.t("table.responses.note", load=load))
