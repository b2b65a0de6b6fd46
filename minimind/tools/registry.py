"""The registry: a typed Python function becomes a tool with a JSON schema.

    @tool
    def text_length(text: str) -> dict:
        '''Count the characters and words of a text.

        text: Text to count
        '''

The schema is the OpenAI form that chat templates expect. `call` never raises: a model's mistake (an unknown
tool, broken JSON, a missing argument, a division by zero) is an answer that the model should read.
"""

import inspect
import json
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


@dataclass
class Context:
    """What a tool takes from outside its arguments: the clock and the dice, so that a run can be repeated."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    dice: random.Random = field(default_factory=random.Random)


@dataclass(frozen=True)
class Tool:
    """A registered function with its OpenAI schema; `types` maps each argument to its Python type."""

    name: str
    function: Callable[..., dict]
    schema: dict[str, Any]
    types: dict[str, type]
    takes_context: bool


_TOOLS: dict[str, Tool] = {}


def tool(function: Callable[..., dict]) -> Callable[..., dict]:
    """Register a function; its docstring's first line is the description, `name: text` lines describe arguments.

    A keyword-only parameter named `context` receives the `Context` and stays out of the schema.
    """
    lines = inspect.getdoc(function).splitlines()  # type: ignore[union-attr]  # a tool without a docstring is a bug
    described = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    parameters = dict(inspect.signature(function).parameters)
    takes_context = parameters.pop("context", None) is not None
    types = {name: parameter.annotation for name, parameter in parameters.items()}
    properties = {name: {"type": JSON_TYPES[kind], "description": described[name]} for name, kind in types.items()}
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    schema = {
        "type": "function",
        "function": {
            "name": function.__name__,
            "description": lines[0].rstrip("."),
            "parameters": {"type": "object", "properties": properties, "required": required},
        },
    }
    _TOOLS[function.__name__] = Tool(function.__name__, function, schema, types, takes_context)
    return function


def names() -> list[str]:
    """Return the names of all registered tools."""
    return list(_TOOLS)


def schemas(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the OpenAI schemas of the named tools (KeyError for an unknown one)."""
    return [_TOOLS[name].schema for name in names]


def call(name: str, arguments: dict[str, Any] | str, context: Context | None = None) -> str:
    """Run a tool and return its result as JSON; every fault comes back as `{"error": "..."}`."""
    try:
        result = _run(name, arguments, context or Context())
    except Exception as error:  # the boundary to whatever a model wrote: it reads the fault and may try again
        result = {"error": str(error) or type(error).__name__}
    return json.dumps(result, ensure_ascii=False)


def _run(name: str, arguments: dict[str, Any] | str, context: Context) -> dict:
    if name not in _TOOLS:
        raise ValueError(f"unknown tool {name!r}; there are: {', '.join(_TOOLS)}")
    tool = _TOOLS[name]
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("arguments must be a JSON object")
    required = tool.schema["function"]["parameters"]["required"]
    if missing := [key for key in required if key not in arguments]:
        raise ValueError(f"missing argument: {', '.join(missing)}")
    if unknown := [key for key in arguments if key not in tool.types]:
        raise ValueError(f"unknown argument: {', '.join(unknown)}")
    values = {key: _coerce(key, value, tool.types[key]) for key, value in arguments.items()}
    return tool.function(**values, **({"context": context} if tool.takes_context else {}))


def _coerce(key: str, value: Any, kind: type) -> Any:
    """Accept a number written as text, which small models often do; refuse any other wrong type."""
    if kind in (int, float):
        if isinstance(value, int | float | str) and not isinstance(value, bool):
            number = float(value)
            if kind is float or number.is_integer():
                return kind(number)
    elif isinstance(value, kind):
        return value
    raise ValueError(f"argument {key} must be of type {JSON_TYPES[kind]}")
