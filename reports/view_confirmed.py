"""The confirmation beyond its gates: rivals, flips with the noise floor, slices, documents, graded answers."""

from reports.view_parts import Cell, Reader, Row, State, Table

RIVAL_STATES = {"better": "fail", "not_better": "info", "not_measured": "not_measured"}
"""State of a rival -> how it looks: a better rival speaks against skipping."""


def rivals(reader: Reader) -> Table:
    """Whether something simpler is the better choice."""
    rows = []
    for index, rival in enumerate(reader.value("/rivals") if reader.has("/rivals") else ()):
        path = f"/rivals/{index}"
        look = reader.state(RIVAL_STATES[rival["state"]])
        rows.append(
            Row(
                (
                    reader.code("control", rival["name"]),
                    reader.figure("percent_signed", f"{path}/ppl_rise"),
                    reader.figure("bounds:percent_signed", f"{path}/low", f"{path}/high"),
                    reader.figure("percent", f"{path}/skip_rate"),
                    reader.figure("count", f"{path}/n"),
                    State(look.code, look.icon, reader.t(f"rival.{rival['state']}")),
                    reader.code("reason", rival["reason"]),
                )
            )
        )
    columns = _columns(reader, "model", "rival_rise", "interval", "skip_rate", "documents", "rival", "remark")
    note, empty = reader.t("table.rivals.note"), reader.t("empty.rivals")
    return Table("rivals", reader.t("table.rivals"), columns, tuple(rows), note=note, empty=empty)


def flips(reader: Reader) -> Table:
    """Answers that changed, by direction, beside what two runs of the dense model differ by."""
    caption, columns = reader.t("table.flips"), _columns(reader, "flip", "flip_share", "items", "flip_n")
    if not reader.has("/detail"):
        return Table("flips", caption, columns, (), empty=reader.t("empty.confirmation"))
    path = "/detail/flips"
    if not reader.has(path):
        return Table("flips", caption, columns, (), empty=reader.catalog.family("reason", "no_items"))
    rows = [
        _flip_row(reader, f"flips.{name}", f"{path}/{name}", f"{path}/n", f"{path}/{name}/n")
        for name in ("harmful", "helpful", "all")
    ]
    floor = "/detail/noise_floor"
    if reader.has(floor):
        rows.append(_flip_row(reader, "flips.noise_floor", f"{floor}/flips", f"{floor}/n", None))
        rows.append(_flip_row(reader, "flips.noise_changed", f"{floor}/changed", f"{floor}/n", None))
    note = reader.t(
        "table.flips.note",
        effective=reader.figure("count", f"{path}/effective_n").text,
        n=reader.figure("count", f"{path}/n").text,
        sources=reader.figure("count", f"{path}/n_clusters").text,
        p=reader.figure("p_value", f"{path}/p_worse").text,
    )
    if reader.has(f"{path}/detectable_margin"):
        margin = reader.figure("points_plain", f"{path}/detectable_margin").text
        note += reader.t("table.flips.detectable", margin=margin)
    return Table("flips", caption, columns, tuple(rows), note=note)


def _flip_row(reader: Reader, label: str, path: str, n: str, count: str | None) -> Row:
    share = reader.figure("interval:percent", f"{path}/share", f"{path}/low", f"{path}/high")
    hits: Cell = reader.prose("missing.dash") if count is None else reader.figure("items", count)
    return Row((reader.prose(label), share, reader.figure("items", n), hits))


def slices(reader: Reader) -> Table:
    """Slices, the worst first, with bounds and the adjusted p-value where a slice is large enough."""
    rows = []
    # an older result has no detail, but its confirmation has the slices without upper bound and p-value
    whole = next((path for path in ("/detail/slices", "/confirmation/slices") if reader.has(path)), None)
    for index in range(len(reader.value(whole)) if whole else 0):
        path = f"{whole}/{index}"
        rows.append(
            Row(
                (
                    reader.text(f"{path}/name"),
                    reader.figure("count", f"{path}/n"),
                    reader.figure("percent", f"{path}/accuracy_dense"),
                    reader.figure("percent", f"{path}/accuracy_skip"),
                    _or_dash(reader, "points", f"{path}/delta_low"),
                    _or_dash(reader, "points", f"{path}/delta_high"),
                    _or_dash(reader, "p_value", f"{path}/p_worse_holm"),
                )
            )
        )
    columns = ("slice", "n", "accuracy_dense", "accuracy_skip", "delta_low", "delta_high", "p_worse")
    return Table(
        "slices",
        reader.t("table.slices"),
        _columns(reader, *columns),
        tuple(rows),
        note=reader.t("table.slices.note"),
        empty=reader.t("empty.slices" if reader.has("/confirmation") else "empty.confirmation"),
        is_sortable=True,
    )


def documents(reader: Reader) -> Table:
    """The documents that lost most; without names, since a name can tell what is in it."""
    rows = []
    for index in range(len(reader.value("/detail/documents/worst")) if reader.has("/detail") else 0):
        path = f"/detail/documents/worst/{index}"
        rows.append(
            Row(
                (
                    reader.figure("count", f"{path}/rank"),
                    reader.figure("count", f"{path}/n_tokens"),
                    reader.figure("decimal2", f"{path}/ppl_dense"),
                    reader.figure("decimal2", f"{path}/ppl_skip"),
                    reader.figure("decimal3", f"{path}/bits_per_byte_dense"),
                    reader.figure("decimal3", f"{path}/bits_per_byte_skip"),
                    reader.figure("percent", f"{path}/agreement"),
                    reader.optional("percent", f"{path}/over_skip"),
                )
            )
        )
    columns = ("rank", "tokens", "ppl_dense", "ppl_skip", "bits_dense", "bits_skip", "agreement", "over_skip")
    note = ""
    if rows:
        n, worse = (reader.figure("count", f"/detail/documents/{name}").text for name in ("n", "n_worse"))
        note = reader.t("table.documents.note", n=n, worse=worse)
    empty = reader.t("empty.confirmation")
    return Table("documents", reader.t("table.documents"), _columns(reader, *columns), tuple(rows), note, empty)


def graded(reader: Reader) -> Table:
    """Generated answers, graded; the state holds the lower bound against the margin of Q1."""
    rows = []
    for index, row in enumerate(reader.value("/detail/graded") if reader.has("/detail") else ()):
        path = f"/detail/graded/{index}"
        rows.append(
            Row(
                (
                    reader.code("metric", row["metric"]),
                    reader.figure("count", f"{path}/n"),
                    reader.figure("percent", f"{path}/mean_dense"),
                    reader.figure("percent", f"{path}/mean_skip"),
                    reader.figure("points", f"{path}/delta"),
                    reader.figure("bounds:points", f"{path}/delta_low", f"{path}/delta_high"),
                    reader.figure("p_value", f"{path}/p_worse"),
                    reader.state(row["state"]),
                )
            )
        )
    columns = ("metric", "n", "grade_dense", "grade_skip", "delta", "interval", "p_worse", "state")
    reason = reader.value("/detail/graded_reason") if reader.has("/detail") else None
    empty = reader.catalog.family("reason", reason) if reason else reader.t("empty.confirmation")
    note = reader.t("table.graded.note")
    return Table("graded", reader.t("table.graded"), _columns(reader, *columns), tuple(rows), note, empty)


def _or_dash(reader: Reader, kind: str, path: str) -> Cell:
    return reader.figure(kind, path) if reader.has(path) else reader.prose("missing.dash")


def _columns(reader: Reader, *names: str) -> tuple[str, ...]:
    return tuple(reader.t(f"column.{name}") for name in names)
