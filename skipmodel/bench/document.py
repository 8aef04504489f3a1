"""The JSON document of a benchmark: how it is put together, checked against the committed schema, and written."""

from __future__ import annotations

import datetime
import functools
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from skipmodel.errors import MeasurementError

SCHEMA_VERSION = 1
SCHEMA_PATH = Path(__file__).with_name("bench.schema.json")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip


def new_document(model: Mapping[str, Any], config: Mapping[str, Any], environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document without rows.

    Args:
        model: name, family, n_layers, n_routed, threshold and level that were asked for.
        config: What was to be measured.
        environment: The machine, as `devices.environment` tells it.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "date": datetime.datetime.now().astimezone().date().isoformat(),
        "commit": None,
        "model": dict(model),
        "config": _plain(config),
        "environment": dict(environment),
        "calibrations": [],
        "rows": [],
        "rivals": [],
        "natural": [],
        "warnings": [],
        "interrupted": False,
        "measured_s": 0.0,
    }


def write(document: Mapping[str, Any], path: Path) -> None:
    """Write a document so that a reader finds the old one or the new one, never half of one.

    Raises:
        MeasurementError: The document does not have the committed form, or the file cannot be written.
    """
    plain = _plain(document)
    check(plain)
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(json.dumps(plain, ensure_ascii=False, indent=1, allow_nan=False) + "\n", "utf-8")
        os.replace(part, path)
    except OSError as error:
        raise MeasurementError(
            f"--out {path.name}: cannot be written ({error}); name a file in a folder that can"
        ) from error


def check(document: Any) -> None:
    """Compare a document with the committed schema, as far as that says types, fields, values and least numbers.

    Raises:
        MeasurementError: A field is missing, unknown or of another type; the first is named with its path.
    """
    for problem in _problems(document, schema(), ""):
        raise MeasurementError(f"benchmark document: {problem}; it was written by another version or edited")


@functools.cache
def schema() -> dict[str, Any]:
    """Return the committed schema."""
    loaded: dict[str, Any] = json.loads(SCHEMA_PATH.read_text("utf-8"))
    return loaded


def _plain(value: Any) -> Any:
    """Turn tuples into lists, so that a document equals what is read back."""
    return json.loads(json.dumps(value))


def _problems(value: Any, rule: Mapping[str, Any], path: str) -> Iterator[str]:
    """Yield what does not fit; the keywords are those that the schema uses."""
    if "$ref" in rule:
        rule = schema()["$defs"][rule["$ref"].rpartition("/")[2]]
    if "anyOf" in rule:
        tried = [list(_problems(value, option, path)) for option in rule["anyOf"]]
        if all(tried):
            yield min(tried, key=len)[0]
        return
    where = path or "/"
    names = rule.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(_is(value, name) for name in names):
        yield f"{where}: expected {' or '.join(names)}, got {type(value).__name__}"
        return
    allowed = rule.get("enum", [rule["const"]] if "const" in rule else [value])
    if value not in allowed:
        yield f"{where}: expected one of {allowed}, got {value!r}"
    if isinstance(value, int | float) and not isinstance(value, bool) and value < rule.get("minimum", value):
        yield f"{where}: expected {rule['minimum']} or more, got {value}"
    if isinstance(value, dict):
        yield from _field_problems(value, rule, path)
    if isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _problems(inner, rule.get("items", {}), f"{path}/{index}")


def _field_problems(value: Mapping[str, Any], rule: Mapping[str, Any], path: str) -> Iterator[str]:
    known, extra = rule.get("properties", {}), rule.get("additionalProperties", {})
    for name in rule.get("required", ()):
        if name not in value:
            yield f"{path or '/'}: expected the field {name!r}, it is missing"
    for name, inner in value.items():
        if name not in known and extra is False:
            yield f"{path or '/'}: the field {name!r} is unknown"
        else:
            yield from _problems(inner, known.get(name, extra), f"{path}/{name}")


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool) and name in ("integer", "number"):
        return False
    return isinstance(value, _TYPES[name])
