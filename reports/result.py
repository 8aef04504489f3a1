"""The contract of result.json: its schema, the checks a schema cannot say, and access by JSON pointer.

The report is rendered from result.json alone, so everything it prints has an address there. Addresses are
JSON pointers (RFC 6901); settings keys contain dots, which is why dotted paths would be ambiguous.
"""

import json
import math
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from kpis.catalog import IDS
from reports.errors import ResultError

SCHEMA_PATH = Path(__file__).with_name("result.schema.json")
SCHEMA_VERSION = 1
GATE_IDS = IDS
"""Gates in the order of the KPI catalog, which is the order of `gates` in result.json."""


@lru_cache(maxsize=1)
def schema() -> dict[str, Any]:
    """The committed JSON schema (draft 2020-12) of result.json."""
    loaded: dict[str, Any] = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
    return loaded


@lru_cache(maxsize=1)
def _validator() -> Draft202012Validator:
    return Draft202012Validator(schema())


def validate(result: dict[str, Any]) -> None:
    """Refuse a result that the report could not show truthfully.

    Args:
        result: parsed result.json.

    Raises:
        ResultError: naming the JSON pointer of the first offending place: a key that is missing or unknown,
            a wrong type, a number that is not finite, or two parts that contradict each other.
    """
    errors = sorted(_validator().iter_errors(result), key=lambda error: list(map(str, error.absolute_path)))
    if errors:
        # The deepest error says most: a wrong field inside an optional object also fails its "or null".
        worst = min((_deepest(error) for error in errors), key=lambda error: -len(error.absolute_path))
        raise ResultError(
            f"result.json: {worst.message[:300]} at {pointer(*worst.absolute_path)} "
            "(expected the form of reports/result.schema.json; run the flow again with this version)"
        )
    for where, number in _numbers(result, ()):
        if not math.isfinite(number):
            raise ResultError(
                f"result.json: expected a finite number or null with a reason, got {number} at {pointer(*where)}"
            )
    _check_consistency(result)
    if result.get("token_map") is not None:
        _check_token_map(result["token_map"], len(result["sweep"]))


def _deepest(error: Any) -> Any:
    while error.context:
        error = max(error.context, key=lambda inner: len(inner.absolute_path))
    return error


def _numbers(node: Any, where: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], float]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _numbers(value, (*where, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _numbers(value, (*where, index))
    elif isinstance(node, float):
        yield where, node


def _check_consistency(result: dict[str, Any]) -> None:
    n_layers = result["model"]["n_layers"]
    for index, row in enumerate(result["sweep"]):
        if len(row["skip_rate_per_layer"]) != n_layers:
            _refuse(
                f"{n_layers} rates, one per layer",
                len(row["skip_rate_per_layer"]),
                "sweep",
                index,
                "skip_rate_per_layer",
            )
        if row["index"] != index:
            _refuse(f"index {index}", row["index"], "sweep", index, "index")
    chosen = result["choice"]["sweep_index"]
    if chosen is not None and chosen >= len(result["sweep"]):
        _refuse(f"an index below {len(result['sweep'])} or null", chosen, "choice", "sweep_index")
    confirmed = [part for part in ("confirmation", "detail") if result.get(part) is not None]
    if chosen is None and confirmed:
        _refuse("null, because no threshold was chosen", "an object", confirmed[0])
    marked = [row["index"] for row in result["sweep"] if row["chosen"]]
    if marked != ([] if chosen is None else [chosen]):
        _refuse(f"chosen = true exactly where choice/sweep_index points ({chosen})", marked, "sweep")
    ids = tuple(gate["id"] for gate in result["gates"])
    if ids != GATE_IDS:
        _refuse(f"the gates {' '.join(GATE_IDS)} in this order", " ".join(ids), "gates")
    for index, gate in enumerate(result["gates"]):
        if gate["state"] == "not_measured" and not gate["reason"]:
            _refuse("a reason code for a gate that was not measured", gate["reason"], "gates", index, "reason")
    for index, passage in enumerate(result["passages"]):
        for key in ("tokens", "skipped_layers", "critical"):
            if passage[key] is not None and len(passage[key]) != passage["n_tokens"]:
                _refuse(f"{passage['n_tokens']} entries", len(passage[key]), "passages", index, key)


def _check_token_map(token_map: dict[str, Any], n_settings: int) -> None:
    """Every point is a measured setting, and every list has an entry for each token or point."""
    n_points, n_units = len(token_map["points"]), len(token_map["unit_layers"])
    if sorted(set(token_map["points"])) != token_map["points"] or token_map["points"][-1] >= n_settings:
        _refuse(f"ascending indices below {n_settings}", token_map["points"], "token_map", "points")
    for index, passage in enumerate(token_map["passages"]):
        where, n = ("token_map", "passages", index), passage["n_tokens"]
        for key in ("tokens", "classes", "critical"):
            if passage[key] is not None and len(passage[key]) != n:
                _refuse(f"{n} entries", len(passage[key]), *where, key)
        for key in ("n_skipped", "masks"):
            if len(passage[key]) != n_points:
                _refuse(f"{n_points} entries, one per point", len(passage[key]), *where, key)
        for point, (counts, masks) in enumerate(zip(passage["n_skipped"], passage["masks"], strict=True)):
            units = [int(mask, 16) for mask in masks.split()]
            if [mask.bit_count() for mask in units] != counts or any(mask >> n_units for mask in units):
                _refuse("as many bits per token as n_skipped says", masks[:80], *where, "masks", point)
            if len(counts) != n:
                _refuse(f"{n} entries", len(counts), *where, "n_skipped", point)


def _refuse(expected: str, got: object, *where: str | int) -> None:
    raise ResultError(f"result.json: expected {expected}, got {got} at {pointer(*where)}; run the flow again")


def pointer(*parts: str | int) -> str:
    """JSON pointer (RFC 6901) of nested keys and positions, such as `/gates/0/value`."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def lookup(result: Any, path: str) -> Any:
    """Value at a JSON pointer.

    Raises:
        ResultError: when nothing is stored there.
    """
    node = result
    for raw in path.split("/")[1:]:
        key = raw.replace("~1", "/").replace("~0", "~")
        try:
            node = node[int(key)] if isinstance(node, list) else node[key]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ResultError(f"result.json: expected a value at {path}, found nothing at {key!r}") from error
    return node


def load(path: Path) -> dict[str, Any]:
    """Read and validate a result.json.

    Raises:
        ResultError: when the file cannot be read, is no JSON object, or does not validate.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultError(f"expected a readable result.json, got {error} at {path}; run the flow again") from error
    if not isinstance(result, dict):
        raise ResultError(f"expected a JSON object, got {type(result).__name__} at {path}; run the flow again")
    validate(result)
    return result
