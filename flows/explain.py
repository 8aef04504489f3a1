"""One readable message for everything that is wrong with a settings file."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from flows.errors import PocError


def explain(error: ValidationError, root: type[BaseModel], path: Path) -> PocError:
    """Return the error to show: per problem the setting's path, the allowed range and what came.

    Args:
        error: What pydantic found.
        root: The settings tree, for naming the known keys.
        path: The settings file.
    """
    lines = [_line(problem, root) for problem in error.errors(include_url=False)]
    if len(lines) == 1:
        return PocError(lines[0], where=str(path), todo="correct the setting named above")
    what = f"{len(lines)} settings are not valid:" + "".join(f"\n  - {line}" for line in lines)
    return PocError(what, where=str(path), todo="correct the settings named above")


def _line(problem: Any, root: type[BaseModel]) -> str:
    location = problem["loc"]
    setting = ".".join(str(part) for part in location) or "the file"
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        known = known_keys(root, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        return f"{setting} is not a setting; {hint}"
    if problem["type"] in ("missing", "missing_argument"):
        return f"{setting} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if setting == "gates" and message.startswith("limits."):  # kpis names the setting itself
        return f"gates.{message.removeprefix('limits.')}"
    got = "" if isinstance(problem["input"], dict) else f", got {mask(repr(problem['input']))}"
    return f"{setting}: {message[0].lower()}{message[1:]}{got}"


def mask(text: str) -> str:
    """Return a text in which user and password of an address are not to be read."""
    return re.sub(r"(\w+://)[^/@\s'\"]*@", r"\1***@", text)


def known_keys(root: type[Any], location: tuple[str | int, ...]) -> list[str]:
    """Return the keys that the group at `location` of the tree may have."""
    group: Any = root
    for part in location:
        group = typing.get_type_hints(group).get(str(part)) if _is_group(group) else None
    if not _is_group(group):
        return []
    if dataclasses.is_dataclass(group):
        return [field.name for field in dataclasses.fields(group)]
    return list(group.model_fields)


def _is_group(value: Any) -> bool:
    return isinstance(value, type) and (dataclasses.is_dataclass(value) or issubclass(value, BaseModel))
