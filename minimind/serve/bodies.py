"""From the bytes of a request to a checked body, away from the event loop and at a cost that its size bounds.

Lists have a most, and are given up at their first fault: a million wrong elements are one mistake, not a million
descriptions of it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from fastapi import FastAPI
from pydantic import BaseModel, BeforeValidator, Field, ValidationError
from pydantic.json_schema import models_json_schema
from starlette.requests import Request

from minimind.serve.errors import ApiError
from minimind.serve.pools import Pool
from minimind.text import read_json

B = TypeVar("B", bound=BaseModel)
REFERENCE = "#/components/schemas/{model}"
# pydantic's names of a union's members, which are no part of what a client wrote
_KINDS = {"str", "int", "float", "bool", "dict", "NamedTool", "SamplingParams", "text", "texts", "ids", "lists"}


def sized(most: int, least: int = 0) -> BeforeValidator:
    """What to annotate a list or an object with: its size is looked at before anything in it."""

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and not least <= len(value) <= most:
            raise ValueError(f"it has {len(value):,} entries, but should have from {least} to {most:,}")
        return value

    return BeforeValidator(check)


def few(most: int, least: int = 0) -> tuple[Any, BeforeValidator]:
    """What to annotate a list with: a most, and the first fault is enough."""
    return Field(min_length=least, max_length=most, fail_fast=True), sized(most, least)


async def read(kind: type[B], http: Request, pool: Pool) -> B:
    """The body of a request.

    Raises:
        ApiError: 400, it is no JSON, or not of this kind.
    """
    return await pool.run(parse, kind, await http.body())


def parse(kind: type[B], data: bytes) -> B:
    """A checked body; the fault is named as the client wrote it: `messages[0].content`.

    Raises:
        ApiError: 400.
    """
    return validated(kind, value_of(data))


def value_of(data: bytes) -> Any:
    """What a body holds.

    Raises:
        ApiError: 400, it is no JSON.
    """
    try:
        return read_json(data)
    except ValueError as error:
        raise ApiError(400, f"the body is not valid JSON ({error})", "invalid_json") from None


def validated(kind: type[B], value: Any) -> B:
    """A checked body of a value.

    Raises:
        ApiError: 400.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _named(error) from None


def _named(error: ValidationError) -> ApiError:
    # Of a union's members, the one that came furthest.
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    deepest = max(faults, key=lambda fault: len(fault["loc"]))
    param = ""
    for part in deepest["loc"]:
        if isinstance(part, int):
            param += f"[{part}]"
        elif part.isidentifier() and part not in _KINDS:
            param += f".{part}" if param else part
    what = deepest["msg"].removeprefix("Value error, ")[:500]
    return ApiError(400, f"{param or 'the body'}: {what}", "invalid_value", param or None)


_DESCRIBED: dict[str, type[BaseModel]] = {}
"""By name, the bodies that routes read."""


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """The arguments by which a route that reads its own body tells the OpenAPI description of it."""
    _DESCRIBED[kind.__name__] = kind
    content = {"application/json": {"schema": {"$ref": REFERENCE.format(model=kind.__name__)}}}
    return {"openapi_extra": {"requestBody": {"content": content, "required": True}}}


def describe(app: FastAPI) -> None:
    """Add the schemas of the bodies that were `described` to an application's OpenAPI description."""
    plain: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        description = plain()
        _, schemas = models_json_schema([(kind, "validation") for kind in _DESCRIBED.values()], ref_template=REFERENCE)
        description.setdefault("components", {}).setdefault("schemas", {}).update(schemas["$defs"])
        return description

    app.openapi = openapi  # type: ignore[method-assign]
