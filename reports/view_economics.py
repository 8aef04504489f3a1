"""What a controller asks beside the monthly bill: return, break-even against the API, spot hours, re-tuning, energy."""

from dataclasses import dataclass

from reports.view_parts import Cell, Prose, Reader, Row, Table

SIDES = ("dense", "skip")


@dataclass(frozen=True)
class Economics:
    """The last tables of section 費用."""

    returns: Table
    spot: Table
    tuning: Table
    energy: Table


def build(reader: Reader) -> Economics:
    """Business figures of a result; a result without them says so in every table."""
    if not reader.has("/economics"):
        names = ("returns", "spot", "tuning", "energy")
        return Economics(
            *(Table(name, reader.t(f"table.{name}"), (), (), empty=reader.t("empty.cost")) for name in names)
        )
    return Economics(_returns(reader), _spot(reader), _tuning(reader), _energy(reader))


def _returns(reader: Reader) -> Table:
    roi, even, correct = (f"/economics/{name}" for name in ("roi", "break_even", "yen_per_correct_answer"))
    entries: list[tuple[str, Cell]] = [
        (
            reader.t("returns.roi"),
            reader.figure(
                "draws:percent_signed", f"{roi}/p50", f"{roi}/p10", f"{roi}/p90", reason=f"{roi}/reason",
                missing="missing.undefined",
            ),
        ),
        (
            reader.t("returns.prob_roi"),
            reader.figure("percent", f"{roi}/prob_positive", reason=f"{roi}/reason", missing="missing.undefined"),
        ),
    ]  # fmt: skip
    for side in SIDES:
        entries += [
            (reader.t(f"returns.even.{side}"), reader.figure("items", f"{even}/{side}/requests_per_month")),
            (
                reader.t(f"returns.capacity.{side}"),
                reader.figure("items", f"{even}/{side}/capacity_requests_per_month"),
            ),
            (reader.t(f"returns.reachable.{side}"), _reachable(reader, f"{even}/{side}")),
        ]
    entries.append(
        (
            reader.t("returns.correct_api"),
            reader.figure("fx", f"{correct}/api", reason=f"{correct}/api_reason", missing="missing.label"),
        )
    )
    table = reader.facts("returns", reader.t("table.returns"), entries)
    note = reader.t("table.returns.note", months=reader.figure("count", "/cost/horizon_months").text)
    return Table(table.name, table.caption, table.columns, table.rows, note=note)


def _reachable(reader: Reader, path: str) -> Prose:
    if reader.value(f"{path}/is_reachable"):
        return reader.prose("returns.reachable.yes")
    return reader.code("reason", reader.value(f"{path}/reason"))


def _spot(reader: Reader) -> Table:
    path = "/economics/spot"
    spot = reader.value(path)
    rows = tuple(
        Row(
            (
                reader.figure("percent", f"{path}/rows/{index}/share"),
                *(reader.figure("jpy", f"{path}/rows/{index}/{side}") for side in SIDES),
            ),
            mark="chosen" if row["share"] == spot["planned_share"] else "",
        )
        for index, row in enumerate(spot["rows"])
    )
    note = reader.t(
        "table.spot.note",
        planned=reader.figure("percent", f"{path}/planned_share").text,
        overhead=reader.figure("percent", f"{path}/overhead").text,
        price=reader.figure("fx", f"{path}/paid_jpy_per_hour").text,
    )
    empty = reader.catalog.family("reason", spot["reason"]) if spot["reason"] else ""
    return Table("spot", reader.t("table.spot"), _columns(reader, "spot_share", *SIDES), rows, note=note, empty=empty)


def _tuning(reader: Reader) -> Table:
    path = "/economics/tuning"
    tuning = reader.value(path)
    rows = tuple(
        Row(
            (
                reader.figure("count", f"{path}/cadence/{index}/every_months"),
                reader.figure("jpy", f"{path}/cadence/{index}/jpy_per_month"),
            ),
            mark="chosen" if row["every_months"] == tuning["planned_every_months"] else "",
        )
        for index, row in enumerate(tuning["cadence"])
    )
    note = reader.t(
        "table.tuning.note",
        hours=reader.figure("decimal2", f"{path}/measured_machine_hours").text,
        cost=reader.figure("jpy", f"{path}/jpy").text,
    )
    planned = "table.tuning.none" if tuning["planned_every_months"] is None else "table.tuning.planned"
    columns = _columns(reader, "cadence", "monthly_untaxed")
    return Table("tuning", reader.t("table.tuning"), columns, rows, note=note + reader.t(planned))


def _energy(reader: Reader) -> Table:
    path = "/economics/energy"
    rows = tuple(
        Row(
            (
                reader.prose(f"energy.{name}"),
                *(reader.figure(kind, f"{path}/{name}/{side}", reason=f"{path}/reason") for side in SIDES),
            )
        )
        for name, kind in (("joule_per_token", "decimal2"), ("kwh_per_month", "count"), ("kg_co2e_per_month", "count"))
    )
    note = reader.t("table.energy.note", source=reader.text(f"{path}/factor_source").text)
    return Table("energy", reader.t("table.energy"), _columns(reader, "fact", *SIDES), rows, note=note)


def _columns(reader: Reader, *names: str) -> tuple[str, ...]:
    return tuple(reader.t(f"column.{name}") for name in names)
