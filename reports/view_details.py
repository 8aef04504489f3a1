"""Details for the engineer and the auditor: every sweep column, slices, passages, environment, hashes."""

from dataclasses import dataclass, replace

from reports import view_answers, view_confirmed, view_token_map
from reports.text import clean_text
from reports.view_parts import Cell, Prose, Reader, Row, Table
from reports.view_token_map import TokenMap


@dataclass(frozen=True)
class Details:
    """Section 詳細."""

    token_map: TokenMap
    tables: tuple[Table, ...]


def build(reader: Reader) -> Details:
    """Detail section of a result."""
    tables = (
        _sweep(reader),
        view_confirmed.slices(reader),
        view_confirmed.documents(reader),
        view_confirmed.graded(reader),
        *view_answers.tables(reader),
        _classes(reader),
        _data(reader),
        _model(reader),
        _environment(reader),
        _run(reader),
        _stages(reader),
        _hashes(reader),
        _plan(reader),
    )
    return Details(view_token_map.build(reader), tuple(_sortable(table) for table in tables))


def _sortable(table: Table) -> Table:
    """Detail tables with something to compare can be sorted by any column."""
    return replace(table, is_sortable=len(table.columns) > 2 and len(table.rows) > 1)


def _columns(reader: Reader, *names: str) -> tuple[str, ...]:
    return tuple(reader.t(f"column.{name}") for name in names)


def _sweep(reader: Reader) -> Table:
    kinds = (
        ("decimal4", "threshold"),
        ("percent", "skip_rate"),
        ("percent", "target_skip_rate"),
        ("decimal2", "ppl"),
        ("decimal2", "ppl_dense"),
        ("decimal3", "bits_per_byte"),
        ("decimal3", "bits_per_byte_dense"),
        ("percent", "critical_recall"),
        ("count", "n_critical"),
        ("decimal2", "selectivity"),
        ("percent", "item_accuracy"),
        ("percent", "item_accuracy_dense"),
        ("count", "n_items"),
        ("ratio", "estimated_ceiling"),
        ("count", "n_tokens"),
    )
    rows = []
    for index, row in enumerate(reader.value("/sweep")):
        path = f"/sweep/{index}"
        cells: list[Cell] = [
            reader.optional(kind, f"{path}/{key}") if key == "selectivity" else reader.figure(kind, f"{path}/{key}")
            for kind, key in kinds
        ]
        cells.insert(8, reader.figure("range:percent", f"{path}/agreement_low", f"{path}/agreement_high"))
        rows.append(Row(tuple(cells), mark="chosen" if row["chosen"] else "", point=index))
    names = [f"sweep.{key}" for _, key in kinds]
    names.insert(8, "sweep.agreement_range")
    return Table(
        "sweep-all",
        reader.t("table.sweep_all"),
        _columns(reader, *names),
        tuple(rows),
        empty=reader.t("empty.sweep"),
    )


def _classes(reader: Reader) -> Table:
    confirmation = reader.value("/confirmation")
    rows = []
    for index, row in enumerate(confirmation["skip_rate_by_class"] if confirmation else ()):
        path = f"/confirmation/skip_rate_by_class/{index}"
        rows.append(
            Row(
                (
                    reader.code("class", row["class"]),
                    reader.figure("percent", f"{path}/skip_rate"),
                    reader.figure("count", f"{path}/n"),
                )
            )
        )
    return Table(
        "classes",
        reader.t("table.classes"),
        _columns(reader, "class", "skip_rate", "n"),
        tuple(rows),
        empty=reader.t("empty.confirmation"),
    )


def _data(reader: Reader) -> Table:
    d = "/data"
    rows = []
    for key in ("n_documents", "n_characters", "n_tokens"):
        cells = (reader.figure("count", f"{d}/{key}/{split}") for split in ("train", "validation", "test"))
        rows.append(Row((reader.prose(f"data.{key}"), *cells)))
    for key in ("n_items", "n_critical_tokens"):
        held_out = (reader.figure("count", f"{d}/{key}/{split}") for split in ("validation", "test"))
        rows.append(Row((reader.prose(f"data.{key}"), reader.prose("missing.dash"), *held_out)))
    rows.append(
        Row(
            (
                reader.prose("data.scored_tokens"),
                reader.figure("count", f"{d}/scored_tokens/calibration"),
                reader.figure("count", f"{d}/scored_tokens/validation"),
                reader.figure("count", f"{d}/scored_tokens/test"),
            )
        )
    )
    note = reader.t(
        "table.data.note",
        quarantined=reader.figure("count", f"{d}/n_quarantined").text,
        terms=reader.figure("count", f"{d}/n_glossary_terms").text,
        openings=reader.figure("count", f"{d}/test_openings").text,
    )
    return Table(
        "data", reader.t("table.data"), _columns(reader, "data", "train", "validation", "test"), tuple(rows), note
    )


def _model(reader: Reader) -> Table:
    m = "/model"
    entries: list[tuple[str, Cell]] = [
        (reader.t("model.name"), reader.text(f"{m}/name")),
        (reader.t("model.source"), reader.text(f"{m}/source")),
        (reader.t("model.n_parameters"), reader.figure("count", f"{m}/n_parameters")),
        (reader.t("model.n_layers"), reader.figure("count", f"{m}/n_layers")),
        (reader.t("model.always_run"), reader.figure("list", f"{m}/always_run_layers")),
        (reader.t("model.rank"), reader.figure("count", f"{m}/skip_path_rank")),
        (reader.t("model.n_added"), reader.figure("count", f"{m}/n_added_parameters")),
        (
            reader.t("model.train_tokens"),
            reader.figure("of", "/data/train_tokens_used", "/data/train_tokens_available"),
        ),
    ]
    for tune in ("dense_tune", "skip_tune"):
        entries += [
            (reader.t(f"model.{tune}.n_steps"), reader.figure("count", f"{m}/{tune}/n_steps")),
            (reader.t(f"model.{tune}.n_tokens"), reader.figure("count", f"{m}/{tune}/n_tokens")),
            (reader.t(f"model.{tune}.seconds"), reader.figure("duration", f"{m}/{tune}/seconds")),
            (reader.t(f"model.{tune}.loss_first"), reader.figure("decimal3", f"{m}/{tune}/loss_first")),
            (reader.t(f"model.{tune}.loss_last"), reader.figure("decimal3", f"{m}/{tune}/loss_last")),
        ]
    entries.append((reader.t("model.target"), reader.figure("percent", f"{m}/skip_tune/target_skip_rate")))
    return reader.facts("model", reader.t("table.model"), entries)


def _environment(reader: Reader) -> Table:
    e = "/environment"
    texts = ("device", "device_name", "dtype", "python", "torch", "transformers", "platform", "target_device_name")
    entries: list[tuple[str, Cell]] = [
        (
            reader.t(f"environment.{key}"),
            reader.figure(
                "text", f"{e}/{key}", missing="missing.not_set" if key.startswith("target") else "missing.label"
            ),
        )
        for key in texts
    ]
    entries[3:3] = [
        (reader.t("environment.n_cores"), reader.figure("count", f"{e}/n_cores")),
        (reader.t("environment.n_threads"), reader.figure("count", f"{e}/n_threads")),
        (reader.t("environment.memory"), reader.figure("gib", f"{e}/memory_gib")),
        (reader.t("environment.load"), reader.figure("decimal2", f"{e}/load_average_1min")),
    ]
    return reader.facts("environment", reader.t("table.environment"), entries)


def _run(reader: Reader) -> Table:
    r = "/run"
    entries: list[tuple[str, Cell]] = [
        (reader.t("run.id"), reader.text(f"{r}/id")),
        (reader.t("run.created_at"), reader.figure("datetime", f"{r}/created_at")),
        (reader.t("run.profile"), reader.text(f"{r}/profile")),
        (reader.t("run.seed"), reader.text(f"{r}/seed")),
        (reader.t("run.git_commit"), reader.text(f"{r}/git_commit")),
        (reader.t("run.plan"), reader.text(f"{r}/plan_sha256")),
        (reader.t("run.code"), reader.text(f"{r}/code_sha256")),
        (reader.t("run.mlflow_uri"), reader.text(f"{r}/mlflow/tracking_uri")),
        (reader.t("run.mlflow_experiment"), reader.text(f"{r}/mlflow/experiment")),
        (reader.t("run.mlflow_run"), reader.text(f"{r}/mlflow/run_id")),
    ]
    return reader.facts("run", reader.t("table.run"), entries)


def _stages(reader: Reader) -> Table:
    rows = tuple(
        Row(
            (
                reader.code("stage", stage["name"].replace("-", "_")),
                reader.figure("duration", f"/stages/{index}/seconds"),
                reader.figure("flag", f"/stages/{index}/reused"),
                reader.figure("hash", f"/stages/{index}/key"),
            )
        )
        for index, stage in enumerate(reader.value("/stages"))
    )
    return Table(
        "stages",
        reader.t("table.stages"),
        _columns(reader, "stage", "duration", "reused", "key"),
        rows,
        empty=reader.t("empty.stages"),
    )


def _hashes(reader: Reader) -> Table:
    entries: list[tuple[str, Cell]] = [
        (reader.t(f"hash.{key}"), reader.text(f"/hashes/{key}"))
        for key in reader.value("/hashes")
        if not key.endswith("_reason")
    ]
    return reader.facts("hashes", reader.t("table.hashes"), entries)


def _plan(reader: Reader) -> Table:
    entries: list[tuple[str, Cell]] = []
    for key, value in sorted(reader.value("/plan/registered").items()):
        path = "/plan/registered/" + key.replace("~", "~0").replace("/", "~1")
        kind = "list" if isinstance(value, list) else "text"
        entries.append((clean_text(key, 80), reader.figure(kind, path, missing="missing.not_set")))
    table = reader.facts("plan", reader.t("table.plan"), entries)
    rows = tuple(Row((Prose(label), cell)) for label, cell in entries)
    return Table(table.name, table.caption, table.columns, rows, empty=reader.t("empty.plan"))
