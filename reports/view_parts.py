"""The pieces every section is built from, and the reader that makes them out of result.json.

A `Figure` remembers the JSON pointers of the values it shows. Value and address come from one look-up, so a printed
number can always be followed down to result.json, and a test recomputes every one of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from reports.errors import ResultError
from reports.formatting import format_figure
from reports.messages import Catalog
from reports.result import lookup

ICONS = {"pass": "✔", "fail": "✖", "inconclusive": "?", "not_measured": "–", "info": "i"}


@dataclass(frozen=True)
class Figure:
    """A figure or text out of result.json, ready to print."""

    text: str
    paths: tuple[str, ...]
    """JSON pointers of the values, in the order the kind takes them."""
    kind: str
    is_missing: bool = False
    reason: str = ""
    """Why it is missing, as a sentence; empty when nothing is known."""
    sort_key: str = ""
    """Plain number for sorting a column, or empty."""

    @property
    def data_path(self) -> str:
        """The pointers, percent-encoded and separated by spaces, for the page's `data-path` attribute."""
        return " ".join(quote(path, safe="/~._-") for path in self.paths)


@dataclass(frozen=True)
class Prose:
    """A sentence or label out of the catalog."""

    text: str


@dataclass(frozen=True)
class State:
    """A state told by icon, word and colour together."""

    code: str
    icon: str
    word: str


Cell = Figure | Prose | State


@dataclass(frozen=True)
class Row:
    """One table row; the first cell is its header. A marked row (the chosen setting) stands out."""

    cells: tuple[Cell, ...]
    mark: str = ""
    point: int | None = None
    """Sweep index of the row, which ties it to a chart marker."""


@dataclass(frozen=True)
class Table:
    """A table with a caption, column headers and an optional note below."""

    name: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    empty: str = ""
    """What to say instead when there are no rows."""
    is_sortable: bool = False

    def is_numeric(self, column: int) -> bool:
        """Whether a column holds figures only (dashes and missing ones aside), which aligns it right."""
        cells = [row.cells[column] for row in self.rows]
        others = [cell for cell in cells if not isinstance(cell, Figure) or not (cell.sort_key or cell.is_missing)]
        has_figure = any(isinstance(cell, Figure) and cell.sort_key for cell in cells)
        return column > 0 and has_figure and all(isinstance(cell, Prose) and len(cell.text) == 1 for cell in others)


@dataclass(frozen=True)
class LegendEntry:
    """Symbol, role (for its colour) and meaning of a chart series."""

    symbol: str
    role: str
    text: str


@dataclass(frozen=True)
class Chart:
    """A finished inline SVG with its caption and legend."""

    name: str
    caption: str
    svg: str
    legend: tuple[LegendEntry, ...] = ()


@dataclass(frozen=True)
class Callout:
    """A paragraph that must not be overlooked."""

    title: str
    text: str


class Reader:
    """Makes figures, states and sentences out of one result in one language."""

    def __init__(self, result: dict[str, Any], catalog: Catalog) -> None:
        self.result = result
        self.catalog = catalog
        self.t = catalog.text

    def value(self, path: str) -> Any:
        """Raw value at a JSON pointer."""
        return lookup(self.result, path)

    def has(self, path: str) -> bool:
        """Whether something other than null is stored at a JSON pointer; results of older versions lack some parts."""
        try:
            return self.value(path) is not None
        except ResultError:
            return False

    def figure(self, kind: str, *paths: str, reason: str | None = None, missing: str = "missing.label") -> Figure:
        """The figure at the given pointers; missing ones become 未測定 with the reason, never 0.

        Args:
            kind: kind of figure, see `reports.formatting.format_figure`.
            paths: JSON pointers in the order that kind takes its values.
            reason: JSON pointer of the reason code to give when the figure is missing.
            missing: message that stands for a missing figure.
        """
        values = [self.value(path) for path in paths]
        if _is_missing(kind, values):
            code = self.value(reason) if reason else None
            why = self.catalog.family("reason", code) if code else ""
            return Figure(self.t(missing), paths, kind, is_missing=True, reason=why)
        first = values[0]
        is_number = isinstance(first, int | float) and not isinstance(first, bool)
        sort_key = f"{first:.9g}" if is_number and not kind.startswith("limit:") else ""
        return Figure(format_figure(kind, values, self.catalog), paths, kind, sort_key=sort_key)

    def optional(self, kind: str, path: str) -> Figure | Prose:
        """The figure, or a dash where null means "does not apply" instead of "was not measured"."""
        return self.prose("missing.dash") if self.value(path) is None else self.figure(kind, path)

    def remark(self, code: str | None) -> Prose:
        """The sentence of a reason code; a dash where there is none or it says no more than the state does."""
        return self.prose("missing.dash") if code in {None, "info_only"} else self.code("reason", str(code))

    def text(self, path: str) -> Figure:
        """A text value, or the missing mark."""
        return self.figure("text", path)

    def prose(self, key: str, **params: object) -> Prose:
        """A catalog sentence as a cell."""
        return Prose(self.t(key, **params))

    def code(self, family: str, code: str) -> Prose:
        """The sentence of a code as a cell."""
        return Prose(self.catalog.family(family, code))

    def state(self, code: str) -> State:
        """A gate state as icon, word and colour."""
        return State(code, ICONS[code], self.t(f"state.{code}"))

    def yes_no(self, path: str) -> State:
        """A boolean where yes is good."""
        return self.state("pass" if self.value(path) else "fail")

    def facts(self, name: str, caption: str, entries: Sequence[tuple[str, Cell]]) -> Table:
        """A two-column table of named facts."""
        rows = tuple(Row((Prose(label), cell)) for label, cell in entries)
        return Table(name, caption, (self.t("column.fact"), self.t("column.value")), rows)


def _is_missing(kind: str, values: Sequence[Any]) -> bool:
    head = kind.partition(":")[0]
    if head in {"interval", "upper", "draws", "ranged"}:  # bounds may be missing on their own
        return values[0] is None
    if head in {"range", "bounds", "span", "spread"}:
        return all(value is None for value in values)
    if head in {"limit", "condition"}:
        return False
    if head == "difference":  # its lower bound may be missing
        return values[0] is None or values[1] is None
    return any(value is None for value in values)
