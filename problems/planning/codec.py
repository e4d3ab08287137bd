"""Frozen dataclasses to JSON objects and back, strictly, and the JSON schema that says the same."""

from __future__ import annotations

import dataclasses
import enum
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from surco.errors import InvalidInputError


def to_json(value: Any) -> Any:
    """JSON-able form of nested dataclasses, enums, tuples and numbers; fields equal to their default are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        result = {}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            if field.default is not dataclasses.MISSING and item == field.default:
                continue
            result[field.name] = to_json(item)
        return result
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    return value


def from_json(kind: Any, data: Any, where: str = "instance") -> Any:
    """Build ``kind`` (a dataclass or a field type) from JSON ``data``.

    Raises:
        InvalidInputError: unknown key, missing key, wrong type; the message names the place.
    """
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, data, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if data is None and type(None) in arguments:
            return None
        return from_json(next(a for a in arguments if a is not type(None)), data, where)
    if origin is tuple:
        if not isinstance(data, list | tuple):
            raise InvalidInputError(f"Expected a list at {where}, got {data!r}.")
        return tuple(from_json(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(data)
        except ValueError:
            raise InvalidInputError(f"Expected one of {[k.value for k in kind]} at {where}, got {data!r}.") from None
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        if not math.isfinite(data):
            raise InvalidInputError(f"Expected a finite number at {where}, got {data!r}.")
        return float(data)
    if kind is not float and isinstance(data, kind) and (kind is bool or not isinstance(data, bool)):
        return data
    raise InvalidInputError(f"Expected {kind.__name__} at {where}, got {data!r}.")


def _dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, Mapping):
        raise InvalidInputError(f"Expected an object ({kind.__name__}) at {where}, got {type(data).__name__}.")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise InvalidInputError(f"Unknown key {unknown[0]!r} at {where}. Known: {sorted(fields)}.")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = from_json(hints[name], data[name], f"{where}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InvalidInputError(f"Missing key {name!r} at {where}.")
    return kind(**values)


def schema(kind: Any) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a dataclass or field type, as ``from_json`` reads it."""
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        fields = dataclasses.fields(kind)
        return {
            "title": kind.__name__,  # pyright: ignore[reportAttributeAccessIssue]
            "type": "object",
            "additionalProperties": False,
            "properties": {f.name: schema(hints[f.name]) for f in fields},
            "required": [
                f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
            ],
        }
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema(a) for a in arguments]}
    if origin is tuple:
        return {"type": "array", "items": schema(arguments[0])}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return {"enum": [k.value for k in kind]}
    return {"type": {float: "number", int: "integer", bool: "boolean", str: "string", type(None): "null"}[kind]}
