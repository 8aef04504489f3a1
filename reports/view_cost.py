"""Cost: yen from measured time through whole replicas, with the API line even when it hurts."""

import re
from dataclasses import dataclass

from reports import charts_money, view_economics
from reports.chart_style import Words
from reports.text import clean_text
from reports.view_parts import Callout, Cell, Chart, LegendEntry, Reader, Row, Table


@dataclass(frozen=True)
class Cost:
    """Section 費用; without prices or times only the summary speaks."""

    caution: Callout | None
    """Says that seconds and price belong to different machines."""
    summary: Callout
    monthly: Table
    monthly_chart: Chart | None
    outlook: Table
    tornado: Chart | None
    per_mtok: Table
    assumptions: Table
    economics: view_economics.Economics


def build(reader: Reader) -> Cost:
    """Cost section of a result."""
    if reader.value("/cost") is None:
        empty = {
            name: Table(name, reader.t(f"table.{name}"), (), (), empty=reader.t("empty.cost"))
            for name in ("monthly", "outlook", "per_mtok", "assumptions")
        }
        summary = Callout(reader.t("cost.summary.title"), reader.t("empty.cost"))
        return Cost(
            None, summary, empty["monthly"], None, empty["outlook"], None, empty["per_mtok"], empty["assumptions"],
            view_economics.build(reader),
        )  # fmt: skip
    return Cost(
        _caution(reader),
        _summary(reader),
        _monthly(reader),
        _monthly_chart(reader),
        _outlook(reader),
        _tornado(reader),
        _per_mtok(reader),
        _assumptions(reader),
        view_economics.build(reader),
    )


_MEMORY_OR_SOCKET = re.compile(r"\d+(GB|GIB|MIB)?|(SXM|HBM|PCIE|GDDR)\d\w*")


def is_priced_elsewhere(reader: Reader) -> bool:
    """Whether the seconds of the cost case come from another machine than the one whose price it uses.

    A CPU is never the priced machine. A GPU is when its model (`L40S`, `H100`, `4090`) is named in the price row.
    """
    if reader.value("/cost") is None:
        return False
    if reader.value("/environment/device") == "cpu":
        return True
    if reader.value("/cost/basis") == "measured_target_device":
        return False
    measured, priced = (
        {word for word in re.split(r"[^A-Z0-9]+", str(reader.value(path)).upper()) if re.search(r"\d", word)}
        for path in ("/environment/device_name", "/cost/price/name")
    )
    models = {word for word in measured if (len(word) == 4 and word.isdigit()) or not _MEMORY_OR_SOCKET.fullmatch(word)}
    return not models & priced


def _caution(reader: Reader) -> Callout | None:
    if not is_priced_elsewhere(reader):
        return None
    kind = "cpu" if reader.value("/environment/device") == "cpu" else "gpu"
    device = reader.t(f"cost.caution.{kind}", name=reader.text("/environment/device_name").text)
    text = reader.t("cost.caution.text", device=device, price=reader.text("/cost/price/name").text)
    return Callout(reader.t("cost.caution.title"), text)


def _summary(reader: Reader) -> Callout:
    saving = reader.figure("draws:jpy_short", "/cost/saving_jpy/p50", "/cost/saving_jpy/p10", "/cost/saving_jpy/p90")
    probability = reader.figure("percent", "/cost/saving_jpy/prob_positive")
    replicas = reader.value("/cost/replicas")
    text = reader.t(
        "cost.summary.text",
        saving=saving.text,
        probability=probability.text,
        dense=reader.figure("count", "/cost/replicas/dense").text,
        skip=reader.figure("count", "/cost/replicas/skip").text,
    )
    if replicas["dense"] is not None and replicas["dense"] == replicas["skip"]:
        text += reader.t("cost.summary.same_replicas")
    basis = reader.catalog.family("code", reader.value("/cost/basis"))
    return Callout(reader.t("cost.summary.title"), text + reader.t("cost.summary.basis", basis=basis))


def _monthly(reader: Reader) -> Table:
    m = "/cost/monthly_jpy"
    r = "/cost/replicas"
    rows = [
        Row(
            (
                reader.prose(f"money.{side}"),
                reader.figure("count", f"{r}/{side}"),
                reader.figure("per_s", f"{r}/q_slo_{side}_per_s"),
                reader.figure("jpy", f"{m}/{side}"),
                reader.figure("with_tax", f"{m}/{side}", "/cost/price/tax_rate"),
            ),
            mark="chosen" if side == "skip" else "",
        )
        for side in ("dense", "skip")
    ]
    rows.append(
        Row(
            (
                reader.prose("money.api", name=reader.figure("text", f"{m}/api_name").text),
                reader.prose("missing.dash"),
                reader.prose("missing.dash"),
                reader.figure("jpy", f"{m}/api"),
                reader.figure("with_tax", f"{m}/api", "/cost/price/tax_rate"),
            )
        )
    )
    columns = ("option", "replicas", "q_slo", "monthly_untaxed", "monthly_taxed")
    return Table(
        "monthly",
        reader.t("table.monthly"),
        tuple(reader.t(f"column.{name}") for name in columns),
        tuple(rows),
        note=reader.t("table.monthly.note", load=reader.figure("percent", f"{r}/target_load").text),
    )


def _monthly_chart(reader: Reader) -> Chart | None:
    m = "/cost/monthly_jpy"
    api_name = clean_text(str(reader.value(f"{m}/api_name") or ""), 14)
    names = {"dense": reader.t("bar.dense"), "skip": reader.t("bar.skip"), "api": reader.t("bar.api", name=api_name)}
    bars = [
        charts_money.Bar(names[side], reader.value(f"{m}/{side}"), reader.figure("jpy_short", f"{m}/{side}").text, side)
        for side in ("dense", "skip", "api")
        if reader.value(f"{m}/{side}") is not None
    ]
    if not bars:
        return None
    words = Words("money", reader.t("chart.money"), reader.t("chart.money.desc"))
    return Chart("money", reader.t("chart.money.caption"), charts_money.money_bars(bars, words))


def _outlook(reader: Reader) -> Table:
    c = "/cost"
    months = reader.figure("months", f"{c}/payback_months/p50", missing="missing.not_recovered")
    entries: list[tuple[str, Cell]] = [
        (
            reader.t("outlook.saving"),
            reader.figure("draws:jpy", f"{c}/saving_jpy/p50", f"{c}/saving_jpy/p10", f"{c}/saving_jpy/p90"),
        ),
        (reader.t("outlook.prob_saving"), reader.figure("percent", f"{c}/saving_jpy/prob_positive")),
        (reader.t("outlook.upkeep"), reader.figure("jpy", f"{c}/upkeep_jpy_per_month")),
        (reader.t("outlook.investment"), reader.figure("jpy", f"{c}/investment_jpy")),
        (reader.t("outlook.payback"), months),
        (
            reader.t("outlook.npv", months=reader.figure("count", f"{c}/horizon_months").text),
            reader.figure("draws:jpy", f"{c}/npv_jpy/p50", f"{c}/npv_jpy/p10", f"{c}/npv_jpy/p90"),
        ),
        (reader.t("outlook.prob_npv"), reader.figure("percent", f"{c}/npv_jpy/prob_positive")),
        (reader.t("outlook.correct_dense"), reader.figure("fx", f"{c}/yen_per_correct_answer/dense")),
        (reader.t("outlook.correct_skip"), reader.figure("fx", f"{c}/yen_per_correct_answer/skip")),
    ]
    table = reader.facts("outlook", reader.t("table.outlook"), entries)
    note = reader.t(
        "table.outlook.note",
        n=reader.figure("count", f"{c}/n_draws").text,
        rate=reader.figure("percent", f"{c}/discount_rate").text,
    )
    return Table(table.name, table.caption, table.columns, table.rows, note=note)


def _tornado(reader: Reader) -> Chart | None:
    factors = reader.value("/cost/tornado")
    if not factors:
        return None
    swings = [
        charts_money.Swing(
            reader.catalog.family("factor", factor["factor"]),
            factor["low_jpy"],
            factor["high_jpy"],
            reader.figure("jpy_short", f"/cost/tornado/{index}/low_jpy").text,
            reader.figure("jpy_short", f"/cost/tornado/{index}/high_jpy").text,
        )
        for index, factor in enumerate(factors)
    ]
    swings.sort(key=lambda swing: -abs(swing.high - swing.low))
    centre = reader.value("/cost/npv_jpy/p50") or 0.0
    label = reader.t("chart.tornado.centre", value=reader.figure("jpy_short", "/cost/npv_jpy/p50").text)
    legend = (
        LegendEntry("■", "random_mask", reader.t("legend.tornado.low")),
        LegendEntry("■", "sweep", reader.t("legend.tornado.high")),
    )
    words = Words("tornado", reader.t("chart.tornado"), reader.t("chart.tornado.desc"))
    return Chart(
        "tornado", reader.t("chart.tornado.caption"), charts_money.tornado(swings, words, centre, label), legend
    )


def _per_mtok(reader: Reader) -> Table:
    rows = tuple(
        Row(
            (
                reader.figure("percent", f"/cost/per_mtok_jpy/{index}/utilisation"),
                reader.figure("jpy", f"/cost/per_mtok_jpy/{index}/dense"),
                reader.figure("jpy", f"/cost/per_mtok_jpy/{index}/skip"),
            )
        )
        for index in range(len(reader.value("/cost/per_mtok_jpy")))
    )
    columns = tuple(reader.t(f"column.{name}") for name in ("utilisation", "dense", "skip"))
    return Table(
        "per_mtok",
        reader.t("table.per_mtok"),
        columns,
        rows,
        note=reader.t("table.per_mtok.note"),
        empty=reader.t("empty.cost"),
    )


def _assumptions(reader: Reader) -> Table:
    p, v = "/cost/price", "/cost/volume"
    stale = reader.value(f"{p}/stale")
    age = {"ok": "pass", "warning": "inconclusive", "block": "fail"}[stale]
    entries: list[tuple[str, Cell]] = [
        (reader.t("price.name"), reader.text(f"{p}/name")),
        (reader.t("price.provider"), reader.text(f"{p}/provider")),
        (reader.t("price.jpy_per_hour"), reader.figure("fx", f"{p}/jpy_per_hour")),
        (reader.t("price.usd_per_hour"), reader.figure("usd", f"{p}/usd_per_hour")),
        (reader.t("price.fx"), reader.figure("fx", f"{p}/fx_jpy_per_usd")),
        (reader.t("price.fx_date"), reader.figure("date", f"{p}/fx_date")),
        (reader.t("price.as_of"), reader.figure("date", f"{p}/as_of")),
        (reader.t("price.age"), reader.figure("days", f"{p}/age_days")),
        (reader.t("price.stale"), _stale(reader, age, stale)),
        (reader.t("price.source"), reader.text(f"{p}/source")),
        (reader.t("price.tax_included"), reader.figure("flag", f"{p}/tax_included")),
        (reader.t("volume.requests"), reader.figure("items", f"{v}/requests_per_month")),
        (reader.t("volume.input"), reader.figure("count", f"{v}/input_tokens")),
        (reader.t("volume.output"), reader.figure("count", f"{v}/output_tokens")),
        (reader.t("volume.peak"), reader.figure("per_s", f"{v}/peak_requests_per_s")),
        (reader.t("volume.hours"), reader.figure("hours", f"{v}/hours_per_month")),
    ]
    return reader.facts("assumptions", reader.t("table.assumptions"), entries)


def _stale(reader: Reader, state: str, stale: str) -> Cell:
    shown = reader.state(state)
    return type(shown)(shown.code, shown.icon, reader.t(f"stale.{stale}"))
