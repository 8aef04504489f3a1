"""Answers that both models wrote, beside their grades, and the measured time of int8 weights."""

from reports.formatting import kpi_name
from reports.view_parts import Cell, Reader, Row, Table


def tables(reader: Reader) -> tuple[Table, ...]:
    """Tables of the detail section, in order."""
    return _written(reader), _slices(reader), _samples(reader), _int8(reader)


def _empty(reader: Reader) -> str:
    """Why there are no answers: nothing was confirmed, or the reason that the result gives."""
    path = "/detail/answers_reason"
    if not reader.has("/detail"):
        return reader.t("empty.confirmation")
    return reader.catalog.family("reason", reader.value(path) if reader.has(path) else "answers_not_generated")


def _written(reader: Reader) -> Table:
    caption, a = reader.t("table.written_answers"), "/detail/answers"
    if not reader.has(a):
        return Table("written-answers", caption, (), (), empty=_empty(reader))
    first = f"{a}/first_difference"
    entries: list[tuple[str, Cell]] = [
        (reader.t("answers.n"), reader.figure("items", f"{a}/n")),
        (reader.t("answers.n_sources"), reader.figure("count", f"{a}/n_clusters")),
        (reader.t("answers.with_example"), reader.figure("of", f"{a}/n_with_example", f"{a}/n")),
        (
            kpi_name("A3", reader.catalog.language),
            reader.figure("interval:percent", *(f"{a}/agreement/{key}" for key in ("value", "low", "high"))),
        ),
        (reader.t("answers.first_difference"), reader.figure("share", f"{first}/n", f"{a}/n")),
        (reader.t("answers.first_median"), reader.optional("decimal2", f"{first}/median_tokens")),
        (reader.t("answers.must_pass"), reader.figure("share", f"{a}/must_pass/n_worse", f"{a}/must_pass/n")),
    ]
    for arm in ("dense", "skip"):
        entries.append((reader.t(f"answers.tokens_{arm}"), reader.figure("decimal2", f"{a}/mean_tokens/{arm}")))
        entries.append(
            (reader.t(f"answers.unfinished_{arm}"), reader.figure("share", f"{a}/unfinished/{arm}", f"{a}/n"))
        )
    steady = f"{a}/self_consistency"
    if reader.has(steady):
        name = kpi_name("A4", reader.catalog.language)
        for arm in ("dense", "skip"):
            entries.append((reader.t(f"answers.steady_{arm}", name=name), reader.figure("percent", f"{steady}/{arm}")))
        delta = reader.figure("interval:points", *(f"{steady}/{key}" for key in ("delta", "low", "high")))
        entries.append((reader.t("answers.steady_delta"), delta))
    note = reader.t(
        "answers.how",
        max=reader.figure("count", f"{a}/max_new_tokens").text,
        k=reader.figure("count", f"{a}/n_samples").text,
        temperature=reader.figure("text", f"{a}/temperature").text,
    )
    table = reader.facts("written-answers", caption, entries)
    return Table(table.name, table.caption, table.columns, table.rows, note=note)


def _slices(reader: Reader) -> Table:
    rows = []
    for index in range(len(reader.value("/detail/answers/slices")) if reader.has("/detail/answers") else 0):
        path = f"/detail/answers/slices/{index}"
        means = ("dense_exact", "skip_exact", "dense_f1", "skip_f1", "same_answer")
        cells = (reader.figure("percent", f"{path}/{key}") for key in means)
        rows.append(Row((reader.text(f"{path}/name"), reader.figure("count", f"{path}/n"), *cells)))
    names = ("slice", "n", "exact_dense", "exact_skip", "f1_dense", "f1_skip", "same_answer")
    return Table("answer-slices", reader.t("table.answer_slices"), _columns(reader, *names), tuple(rows),
                 empty=_empty(reader), is_sortable=True)  # fmt: skip


def _samples(reader: Reader) -> Table:
    rows = []
    for index in range(len(reader.value("/answer_samples")) if reader.has("/answer_samples") else 0):
        keys = ("id", "question", "reference", "dense", "skip")
        rows.append(Row(tuple(reader.text(f"/answer_samples/{index}/{key}") for key in keys)))
    names = ("n", "question", "reference", "answer_dense", "answer_skip")
    empty = reader.t("empty.answer_samples") if reader.has("/detail/answers") else _empty(reader)
    note = reader.t("table.answer_samples.note") if rows else ""
    return Table("answer-samples", reader.t("table.answer_samples"), _columns(reader, *names), tuple(rows), note, empty)


def _int8(reader: Reader) -> Table:
    """Time of the rival that a buyer would pick first."""
    caption = reader.t("table.int8_timing")
    rivals = reader.value("/rivals") if reader.has("/rivals") else ()
    index = next((i for i, rival in enumerate(rivals) if rival.get("timing")), None)
    if index is None:
        return Table("int8-timing", caption, (), (), empty=reader.t("empty.int8_timing"))
    path = f"/rivals/{index}/timing"
    dtype = reader.text(f"{path}/dtype").text
    condition = (f"{path}/{key}" for key in ("phase", "batch", "prompt_tokens", "output_tokens", "routing"))
    entries: list[tuple[str, Cell]] = [
        (reader.t("column.condition"), reader.figure("condition", *condition)),
        (
            reader.t("int8.speedup"),
            reader.figure("interval:ratio", *(f"{path}/{k}" for k in ("speedup", "low", "high"))),
        ),
        (reader.t("column.n_pairs"), reader.figure("count", f"{path}/n_pairs")),
        (reader.t("int8.dense_s", dtype=dtype), reader.figure("seconds", f"{path}/dense_s")),
        (reader.t("int8.other_s"), reader.figure("seconds", f"{path}/other_s")),
    ]
    table = reader.facts("int8-timing", caption, entries)
    return Table(table.name, table.caption, table.columns, table.rows, note=reader.t("table.int8_timing.note"))


def _columns(reader: Reader, *names: str) -> tuple[str, ...]:
    return tuple(reader.t(f"column.{name}") for name in names)
