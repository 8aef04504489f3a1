"""Reading and writing the model settings as plain JSON values, with the path of whatever is wrong."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal

from skipmodel.config import ModelConfig
from skipmodel.errors import ConfigError


def to_json(config: ModelConfig) -> dict[str, Any]:
    """Return the settings as plain JSON values, tuples as lists."""
    return typing.cast(dict[str, Any], _plain(dataclasses.asdict(config)))


def from_json(values: dict[str, Any]) -> ModelConfig:
    """Build the settings from plain JSON values.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or is out of range.
    """
    return typing.cast(ModelConfig, _build(ModelConfig, values, "model"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must be an object, got {values!r}")
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ConfigError(f"{where} has no setting {', '.join(unknown)}; known are {', '.join(sorted(hints))}")
    return cls(**{name: _convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where)
    origin = typing.get_origin(hint)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} must be a list, got {value!r}")
        return tuple(_convert(typing.get_args(hint)[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} must be an object, got {value!r}")
        return {str(key): _convert(typing.get_args(hint)[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is Literal:
        if value not in typing.get_args(hint):
            raise ConfigError(f"{where} must be one of {', '.join(typing.get_args(hint))}, got {value!r}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, types.UnionType) or not isinstance(value, hint) or (hint is int and value is True):
        raise ConfigError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return value
