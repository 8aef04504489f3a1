"""The five questions of the first screen asked at every measured setting, for the slider and the table behind it.

Only measured points: nothing is interpolated. Quality at these settings comes from the validation split, because the
test split is opened once and at the chosen setting only; time and money exist where they were measured.
"""

from dataclasses import dataclass

from reports.view_parts import Cell, Reader, Row, Table


@dataclass(frozen=True)
class LevelTile:
    """One tile that follows the slider: title, what its figure is, and the column of the table it shows."""

    title: str
    basis: str
    column: int
    cell: Cell
    """What stands there before the slider moves, and without scripting."""


@dataclass(frozen=True)
class Levels:
    """Slider of section 根拠."""

    table: Table
    tiles: tuple[LevelTile, ...]
    start: int
    start_note: str


_TILES = (("tile.Q1", "quality", 2), ("tile.Q4", "critical", 3), ("tile.S1", "speed", 5), ("tile.C3", "saving", 6))


def build(reader: Reader) -> Levels:
    """Rows and tiles of all measured settings; empty without a sweep."""
    sweep = reader.value("/sweep")
    rows = tuple(_row(reader, index) for index in range(len(sweep)))
    names = ("threshold", "level.skipped", "level.quality", "level.critical", "estimated", "level.speed")
    columns = tuple(reader.t(f"column.{name}") for name in (*names, "level.saving", "passes"))
    table = Table(
        "levels",
        reader.t("table.levels"),
        columns,
        rows,
        note=reader.t("table.levels.note"),
        empty=reader.t("empty.sweep"),
    )
    if not rows:
        return Levels(table, (), 0, "")
    chosen = reader.value("/choice/sweep_index")
    start = 0 if chosen is None else chosen
    tiles = [LevelTile(reader.t("level.skipped"), reader.t("level.skipped.basis"), 1, rows[start].cells[1])]
    tiles += [
        LevelTile(reader.t(title), reader.t(f"level.{name}.basis"), column, rows[start].cells[column])
        for title, name, column in _TILES
    ]
    tiles.append(LevelTile(reader.t("column.passes"), reader.t("level.passes.basis"), 7, rows[start].cells[7]))
    note = reader.t("level.start.none" if chosen is None else "level.start.chosen")
    return Levels(table, tuple(tiles), start, note)


def _row(reader: Reader, index: int) -> Row:
    path = f"/sweep/{index}"
    row = reader.value(path)
    accuracy = (f"{path}/item_accuracy", f"{path}/item_accuracy_dense", f"{path}/item_delta_low")
    return Row(
        (
            reader.figure("decimal3", f"{path}/threshold"),
            reader.figure("percent", f"{path}/skip_rate"),
            reader.figure("difference:points", *accuracy),
            reader.figure("upper:percent", f"{path}/over_skip", f"{path}/over_skip_high"),
            reader.figure("ratio", f"{path}/estimated_ceiling"),
            _speed(reader, row["chosen"], row["skip_rate"]),
            _saving(reader, row["chosen"], row["skip_rate"]),
            reader.yes_no(f"{path}/passes"),
        ),
        mark="chosen" if row["chosen"] else "",
        point=index,
    )


def _speed(reader: Reader, is_chosen: bool, skip_rate: float) -> Cell:
    """Measured speed-up; it exists at the chosen setting only."""
    if skip_rate == 0:
        return reader.prose("level.dense")
    headline = next((index for index, row in enumerate(reader.value("/speed")) if row["is_headline"]), None)
    if not is_chosen or headline is None:
        return reader.prose("level.speed.none")
    path = f"/speed/{headline}"
    return reader.figure("interval:ratio", f"{path}/measured_speedup", f"{path}/low", f"{path}/high")


def _saving(reader: Reader, is_chosen: bool, skip_rate: float) -> Cell:
    if skip_rate == 0:
        return reader.prose("level.dense")
    if not is_chosen or reader.value("/cost") is None:
        return reader.prose("level.saving.none")
    return reader.figure("jpy_short", "/cost/saving_jpy/p50")
