"""How a row of a table reads as text, the same for every format."""

from collections.abc import Sequence

__all__ = ["row_text"]

SEPARATOR = " | "


def row_text(cells: Sequence[str]) -> str:
    """Return the cells of a row on one line with bars between them, empty when all of them are.

    Empty cells between others keep their place, so that a value stays under its heading; those at the end are left
    out.
    """
    line = SEPARATOR.join(cells)
    if line.isprintable() and line == line.strip() and "  " not in line:
        # nothing to tidy, as in most rows of most files
        return line
    values = [" ".join(cell.split()) for cell in cells]
    while values and not values[-1]:
        values.pop()
    return SEPARATOR.join(values)
