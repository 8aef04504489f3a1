"""Responses under load: which load the plan asks for, which was sent, and how many answers kept the promised times."""

from reports.view_parts import Cell, Reader, State, Table


def build(reader: Reader) -> Table:
    """The load test of a result, or the plain sentence that none was handed in."""
    caption = reader.t("table.load")
    if not reader.has("/responses/load_test"):
        peak = "/cost/volume/peak_requests_per_s"
        asked = reader.figure("per_s", peak).text if reader.has(peak) else reader.t("missing.not_set")
        return Table("load", caption, (), (), empty=reader.t("empty.load", peak=asked))
    path = "/responses/load_test"
    at_target = reader.value(f"{path}/is_at_target")
    look = reader.state("pass" if at_target else "inconclusive")
    kept = f"{path}/within_slo"
    entries: list[tuple[str, Cell]] = [
        (reader.t("load.device"), reader.text(f"{path}/device_name")),
        (reader.t("load.replicas"), reader.figure("count", f"{path}/n_replicas")),
        (reader.t("load.asked"), reader.figure("per_s", f"{path}/asked_per_s")),
        (reader.t("load.offered"), reader.figure("per_s", f"{path}/offered_per_s")),
        (reader.t("load.reached"), State(look.code, look.icon, reader.t("load.yes" if at_target else "load.no"))),
        (reader.t("load.requests"), reader.figure("items", f"{kept}/n")),
        (reader.t("load.failed"), reader.figure("items", f"{path}/n_failed")),
        (reader.t("load.kept"), reader.figure("interval:percent", f"{kept}/value", f"{kept}/low", f"{kept}/high")),
        (reader.t("load.goodput"), reader.figure("per_s", f"{path}/goodput_per_s")),
    ]
    for name in ("ttft_s", "tpot_s"):
        p99 = f"/responses/{name}/skip/p99"
        cell: Cell = reader.figure("seconds", p99) if reader.has(p99) else reader.prose("load.no_p99")
        entries.append((reader.t(f"load.p99.{name}"), cell))
    table = reader.facts("load", caption, entries)
    return Table(table.name, table.caption, table.columns, table.rows, note=reader.t("table.load.note"))
