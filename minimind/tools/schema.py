"""The part of JSON Schema that tools need: made from Python's type hints, and checked on what a model wrote."""

import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

Schema = Mapping[str, Any]

_NAMES: dict[Any, str] = {
    str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object",
}  # fmt: skip
_PYTHON: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def of(hint: Any) -> dict[str, Any]:
    """The schema of a type hint: str, int, float, bool, list, list[T], dict, Literal[...], or any of them `| None`.

    Raises:
        TypeError: it is something else.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in _NAMES:
        return {"type": _NAMES[hint]}
    if origin is Literal and len({type(value) for value in inner}) == 1 and type(inner[0]) in _NAMES:
        return {**of(type(inner[0])), "enum": list(inner)}
    if origin is list:
        return {"type": "array", "items": of(inner[0])}
    if origin is dict:
        return {"type": "object"}
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in inner if kind is not type(None)]
        if len(kinds) == 1:  # `T | None` has a default, so it may be left out; a JSON null is not asked for
            return of(kinds[0])
    raise TypeError(f"{getattr(hint, '__name__', hint)}")


def fault(value: Any, schema: Schema, name: str = "") -> str | None:
    """What is wrong with `value`, in a few words for the model to read; None where it fits.

    Knows type, enum, properties, required, additionalProperties and items; anything else in a schema is let through.
    Arguments that the schema does not list are refused unless it says `"additionalProperties": true`.
    """
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else []
    known = [kind for kind in kinds if kind in _PYTHON]
    if known and not any(_is(value, kind) for kind in known):
        return f"{_what(name)} must be of type {' or '.join(known)}"
    choices = schema.get("enum")
    if isinstance(choices, list) and value not in choices:
        return f"{_what(name)} must be one of {', '.join(map(str, choices))}"
    if isinstance(value, dict):
        return _object_fault(value, schema, name)
    items = schema.get("items")
    if isinstance(value, list) and isinstance(items, Mapping):
        faults = (fault(item, items, f"{name}[{i}]") for i, item in enumerate(value))
        return next((one for one in faults if one), None)
    return None


def _object_fault(value: dict[str, Any], schema: Schema, name: str) -> str | None:
    properties, required = schema.get("properties"), schema.get("required")
    dot = f"{name}." if name else ""
    if isinstance(required, list) and (missing := [key for key in required if key not in value]):
        return f"missing argument: {', '.join(f'{dot}{key}' for key in missing)}"
    if not isinstance(properties, Mapping):
        return None
    unknown = [key for key in value if key not in properties]
    if unknown and schema.get("additionalProperties") is not True:
        return f"unknown argument: {', '.join(f'{dot}{key}' for key in unknown)}"
    faults = (fault(v, properties[k], f"{dot}{k}") for k, v in value.items() if isinstance(properties.get(k), Mapping))
    return next((one for one in faults if one), None)


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _PYTHON[kind]) or (kind == "integer" and isinstance(value, float) and value.is_integer())


def _what(name: str) -> str:
    return f"argument {name}" if name else "the arguments"
