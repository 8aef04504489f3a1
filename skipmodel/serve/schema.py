"""Request bodies: one JSON schema checks them and stands in the OpenAPI document.

Checked is the part of JSON Schema that the schemas of `skipmodel.serve.bodies` use; every message names the place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from skipmodel.serve.errors import RequestError

Schema = Mapping[str, Any]


def read_json(body: bytes) -> Any:
    """Parse a request body.

    Raises:
        RequestError: It is no JSON in UTF-8, or holds what JSON does not know (NaN, lone surrogates).
    """
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        told = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]
        raise RequestError(400, f"body: expected JSON in UTF-8, got something else ({told})") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def check(value: Any, schema: Schema, where: str = "body") -> None:
    """Hold a value against a schema.

    Raises:
        RequestError: It does not fit; the message says where and what was expected.
    """
    problem = _problem(value, schema, where)
    if problem is not None:
        at, told = problem
        raise RequestError(400, f"{at}: {told}", param=at.removeprefix("body.") if at != "body" else None)


def _problem(value: Any, schema: Schema, where: str) -> tuple[str, str] | None:
    if "anyOf" in schema:
        return _any_problem(value, schema, where)
    if not _is_type(value, schema):
        return where, f"expected {_named(schema)}, got {_shown(value)}"
    if "enum" in schema and value not in schema["enum"]:
        return where, f"expected one of {', '.join(map(str, schema['enum']))}, got {_shown(value)}"
    checks: dict[type, Callable[[Any, Schema, str], tuple[str, str] | None]] = {
        str: _string_problem, list: _list_problem, dict: _object_problem, int: _number_problem, float: _number_problem,
    }  # fmt: skip
    problem = checks.get(type(value))
    return None if problem is None else problem(value, schema, where)


def _any_problem(value: Any, schema: Schema, where: str) -> tuple[str, str] | None:
    """Return why no option fits; of options of the value's own type the last one tells most."""
    problems = [_problem(value, option, where) for option in schema["anyOf"]]
    if None in problems:
        return None
    fitting = [found for found, option in zip(problems, schema["anyOf"], strict=True) if _is_type(value, option)]
    return fitting[-1] if fitting else (where, f"expected {_named(schema)}, got {_shown(value)}")


def _number_problem(value: float, schema: Schema, where: str) -> tuple[str, str] | None:
    low, high = schema.get("minimum"), schema.get("maximum")
    if (low is not None and value < low) or (high is not None and value > high):
        return where, f"expected {low} to {high}, got {_shown(value)}"
    return None


def _string_problem(value: str, schema: Schema, where: str) -> tuple[str, str] | None:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return where, f"expected {schema.get('minLength', 0)} to {schema.get('maxLength')} characters, got {len(value)}"
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return where, "expected text, got half of a surrogate pair"
    return None


def _list_problem(value: list[Any], schema: Schema, where: str) -> tuple[str, str] | None:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        return where, f"expected {schema.get('minItems', 0)} to {schema.get('maxItems')} entries, got {len(value)}"
    found = (_problem(entry, schema["items"], f"{where}[{i}]") for i, entry in enumerate(value))
    return next((problem for problem in found if problem is not None), None)


def _object_problem(value: dict[str, Any], schema: Schema, where: str) -> tuple[str, str] | None:
    known = schema.get("properties", {})
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        return f"{where}.{missing[0]}", "expected a value, it is missing"
    for name, entry in value.items():
        if name in known:
            problem = _problem(entry, known[name], f"{where}.{name}")
            if problem is not None:
                return problem
        elif schema.get("additionalProperties") is False:
            return f"{where}.{_shown(name)}", "is not known here; leave it out"
    return None


def _is_type(value: Any, schema: Schema) -> bool:
    kinds = schema.get("type")
    if kinds is None:
        return True
    return any(_is_kind(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))


def _is_kind(value: Any, kind: str) -> bool:
    if kind in ("number", "integer"):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and (kind == "number" or isinstance(value, int) or value.is_integer())
    python = {"string": str, "boolean": bool, "array": list, "object": dict, "null": type(None)}[kind]
    return isinstance(value, python)


def _named(schema: Schema) -> str:
    options = schema.get("anyOf", [schema])
    names: list[str] = []
    for option in options:
        kinds = option.get("type", "anything")
        names += [kinds] if isinstance(kinds, str) else list(kinds)
    return " or ".join(dict.fromkeys(names))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
