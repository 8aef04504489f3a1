"""Token map: which token of the example passages skipped how many layers, at every measured setting.

Without permission to show text a token is named by its place and its class only. Everything drawn stands in a table
as well, which is also where the page's slider takes its numbers from.
"""

from dataclasses import dataclass
from typing import Any

from reports.text import clean_text
from reports.view_parts import Figure, Reader

MAX_PASSAGES = 20
MAX_TOKENS_SHOWN = 160
MAX_TOKENS_IN_ALL = 1280
MAX_COUNTS = 12_800
"""Tokens of all passages together, and tokens times settings: what keeps the page below 500 KB."""
N_GRIDS = 3
"""Passages that also get the layers: picture and column of the table; the rest have counts only."""
N_SHADES = 5
PART = "‥"


@dataclass(frozen=True)
class TokenMark:
    """One token: what stands for it, how many layers it skipped at the start setting, and its table row."""

    text: str
    word: str
    """Text or class in full, for the table."""
    n_skipped: int
    shade: int
    is_critical: bool
    counts: tuple[int, ...]
    """Skipped layers at each setting of the map."""
    layers: str
    """Numbers of the skipped layers at the start setting; empty when not recorded."""


@dataclass(frozen=True)
class Grid:
    """Tokens (x) by routed layers (y), input side below, as SVG path data in units of one cell."""

    n_tokens: int
    n_units: int
    path: str
    critical: str
    masks: str
    """Masks of all settings, `|` between settings and a space between tokens."""
    top_layer: int
    bottom_layer: int
    name: str


@dataclass(frozen=True)
class Passage:
    """One example passage of the token map."""

    title: str
    path: str
    """Pointer of the counts at the start setting."""
    table_path: str
    tokens: tuple[TokenMark, ...]
    note: str
    grid: Grid | None


@dataclass(frozen=True)
class TokenMap:
    """The map of all passages; `levels` are the measured settings it knows, as threshold and sweep index."""

    redaction: str
    lead: str
    shows_text: bool
    passages: tuple[Passage, ...]
    empty: str
    levels: tuple[tuple[Figure, int], ...]
    start: int
    """Sweep index of the setting that is drawn first."""
    n_units: int
    layers: str
    """Layer of each routed unit, separated by spaces."""
    classes: tuple[tuple[str, str], ...]
    """Short mark and name of each class that stands in for text."""


def build(reader: Reader) -> TokenMap:
    """Token map of a result; results of older versions hold one setting only."""
    source = _source(reader)
    shows_text = any(passage["tokens"] is not None for passage in source["passages"])
    start = _start(reader, source["points"])
    passages, left = [], min(MAX_TOKENS_IN_ALL, MAX_COUNTS // max(1, len(source["points"])))
    for index in range(min(len(source["passages"]), MAX_PASSAGES)):
        passages.append(_passage(reader, source, index, start, left))
        left -= len(passages[-1].tokens)
    used = dict.fromkeys(kind for passage in source["passages"] for kind in passage["classes"])
    return TokenMap(
        redaction=reader.t("passages.shown" if shows_text else "passages.redacted"),
        lead=reader.t("tokens.lead" if shows_text else "tokens.lead.redacted"),
        shows_text=shows_text,
        passages=tuple(passages),
        empty="" if passages else reader.t("empty.passages"),
        levels=tuple((reader.figure("decimal3", f"/sweep/{index}/threshold"), index) for index in source["points"]),
        start=source["points"][start] if source["points"] else 0,
        n_units=source["n_units"],
        layers=" ".join(str(layer) for layer in source["unit_layers"]),
        classes=()
        if shows_text
        else tuple((_short(reader, kind), reader.catalog.family("class", kind)) for kind in used),
    )


def _source(reader: Reader) -> dict[str, Any]:
    """The map of the result, or one made of the single setting that older results recorded."""
    if reader.has("/token_map"):
        stored: dict[str, Any] = reader.value("/token_map")
        return stored | {"n_units": max(1, len(stored["unit_layers"])), "is_full": True}
    chosen = reader.value("/choice/sweep_index")
    passages = [
        passage
        | {
            "classes": ["critical" if is_critical else "other" for is_critical in passage["critical"]],
            "n_skipped": [passage["skipped_layers"]],
        }
        for passage in reader.value("/passages")
    ]
    return {
        "passages": passages,
        "points": [] if chosen is None else [chosen],
        "unit_layers": [],
        "n_units": max(1, len(reader.value("/model/routed_layers"))),
        "is_full": False,
    }


def _start(reader: Reader, points: list[int]) -> int:
    """Position of the chosen setting among the points; without a choice the one that skips most."""
    chosen = reader.value("/choice/sweep_index")
    if chosen in points:
        return points.index(chosen)
    return max(0, len(points) - 1)


def _short(reader: Reader, kind: str) -> str:
    key = f"token.{kind}"
    return reader.t(key) if reader.catalog.has(key) else reader.t("token.unknown")


def _passage(reader: Reader, source: dict[str, Any], index: int, start: int, room: int) -> Passage:
    passage = source["passages"][index]
    n_shown = max(0, min(passage["n_tokens"], MAX_TOKENS_SHOWN, room))
    # Older results have counts only; without a record of layers there is nothing to name.
    masks = [mask.split() for mask in passage["masks"]] if source["is_full"] and index < N_GRIDS else []
    tokens = tuple(
        _token(reader, source, passage, position, start, masks[start][position] if masks else "")
        for position in range(n_shown)
    )
    title = reader.t(
        "passages.title", n=index + 1, name=clean_text(passage["id"], 60), language=clean_text(passage["language"], 8)
    )
    note = ""
    if passage["n_tokens"] > n_shown:
        note = reader.t("passages.cut", shown=n_shown, total=passage["n_tokens"])
    root = f"/token_map/passages/{index}/n_skipped" if source["is_full"] else f"/passages/{index}/skipped_layers"
    path = f"{root}/{start}" if source["is_full"] else root
    grid = _grid(masks, start, n_shown, passage, source, index) if masks and n_shown else None
    return Passage(title, path, root, tokens, note, grid)


def _token(
    reader: Reader, source: dict[str, Any], passage: dict[str, Any], position: int, start: int, mask: str
) -> TokenMark:
    counts = tuple(row[position] for row in passage["n_skipped"])
    n_skipped = counts[start]
    kind = passage["classes"][position]
    # A token without text of its own is a part of a character that the next one completes.
    text = (
        clean_text(passage["tokens"][position], 40) or PART if passage["tokens"] is not None else _short(reader, kind)
    )
    word = text if passage["tokens"] is not None else reader.catalog.family("class", kind)
    bits = int(mask, 16) if mask else 0
    layers = sorted({layer for unit, layer in enumerate(source["unit_layers"]) if bits >> unit & 1})
    return TokenMark(
        text=text,
        word=word,
        n_skipped=n_skipped,
        shade=min(N_SHADES, -(-n_skipped * N_SHADES // source["n_units"])),
        is_critical=passage["critical"][position],
        counts=counts,
        layers=", ".join(str(layer) for layer in layers),
    )


def _grid(
    masks: list[list[str]], start: int, n_tokens: int, passage: dict[str, Any], source: dict[str, Any], index: int
) -> Grid:
    layers = source["unit_layers"]
    return Grid(
        n_tokens=n_tokens,
        n_units=len(layers),
        path=cells_path([int(mask, 16) for mask in masks[start][:n_tokens]], len(layers)),
        critical="".join(f"M{position} 0h1" for position in range(n_tokens) if passage["critical"][position]),
        masks="|".join(" ".join(row[:n_tokens]) for row in masks),
        top_layer=layers[-1],
        bottom_layer=layers[0],
        name=f"grid-{index + 1}",
    )


def cells_path(masks: list[int], n_units: int) -> str:
    """SVG path of the skipped cells: one horizontal stroke per run of neighbouring tokens, first unit at the bottom."""
    parts = []
    for unit in range(n_units):
        begin = None
        for position, mask in enumerate([*masks, 0]):
            is_skipped = bool(mask >> unit & 1)
            if is_skipped and begin is None:
                begin = position
            elif not is_skipped and begin is not None:
                parts.append(f"M{begin} {n_units - 1 - unit}h{position - begin}")
                begin = None
    return "".join(parts)
