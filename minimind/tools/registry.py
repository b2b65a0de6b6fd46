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
import random
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from minimind.text import read_json, write_json
from minimind.tools.schema import fault, of

MAX_CHARACTERS = 4000
"""Of a result; what is longer is cut, or one call could fill the model's context."""


@dataclass
class Context:
    """What a tool takes from outside its arguments: the clock and the dice, so that a run can be repeated."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    dice: random.Random = field(default_factory=random.Random)


@dataclass(frozen=True)
class Tool:
    """A function with its OpenAI schema."""

    name: str
    function: Callable[..., Any]
    schema: dict[str, Any]
    takes_context: bool = False


_TOOLS: dict[str, Tool] = {}


def tool(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register a function; its docstring's first line is the description, `name: text` lines describe arguments.

    A keyword-only parameter named `context` receives the `Context` and stays out of the schema.
    """
    add(describe(function))
    return function


def describe(function: Callable[..., Any]) -> Tool:
    """Make a tool of a function with type hints and a docstring.

    Raises:
        TypeError: it has no docstring, or a parameter has no type hint that a schema can be made of.
    """
    lines = (inspect.getdoc(function) or "").splitlines()
    if not lines:
        raise TypeError(f"{function.__name__} has no docstring: its first line tells the model what the tool does")
    described = dict(line.strip().split(": ", 1) for line in lines[1:] if ": " in line)
    parameters = dict(inspect.signature(function).parameters)
    takes_context = parameters.pop("context", None) is not None
    hints = typing.get_type_hints(function)
    properties = {}
    for name in parameters:
        try:
            properties[name] = of(hints[name]) | ({"description": described[name]} if name in described else {})
        except KeyError:
            raise TypeError(f"parameter {name} of {function.__name__} has no type hint") from None
        except TypeError as error:
            raise TypeError(
                f"parameter {name} of {function.__name__} has the type {error}; use str, int, float, bool, list, dict "
                f"or Literal"
            ) from None
    required = [name for name, parameter in parameters.items() if parameter.default is parameter.empty]
    schema = {
        "type": "function",
        "function": {
            "name": function.__name__,
            "description": lines[0].rstrip("."),
            "parameters": {"type": "object", "properties": properties, "required": required},
        },
    }
    return Tool(function.__name__, function, schema, takes_context)


def add(tool: Tool) -> None:
    """Register a tool; one of the same name is replaced."""
    _TOOLS[tool.name] = tool


def names() -> list[str]:
    """Return the names of all registered tools."""
    return list(_TOOLS)


def schemas(names: Iterable[str]) -> list[dict[str, Any]]:
    """Return the OpenAI schemas of the named tools (KeyError for an unknown one)."""
    return [_TOOLS[name].schema for name in names]


def by_name(schemas: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The functions among tool schemas, `{"name", "parameters", ...}`, by their names."""
    functions = [one.get("function") or one for one in schemas]
    return {one["name"]: one for one in functions if isinstance(one.get("name"), str)}


def call(
    name: str,
    arguments: dict[str, Any] | str,
    context: Context | None = None,
    offered: Iterable[dict[str, Any]] | None = None,
) -> str:
    """Run a tool and return its result as JSON; every fault comes back as `{"error": "..."}`.

    Without `offered` any registered tool may be called, and a number may be written as text, as small models do.
    `offered` are the schemas that the model was shown: it may call only what is in them, with arguments that fit
    exactly; an argument that its schema has but our function has not is checked and left out.
    """
    try:
        result = _run(name, arguments, context or Context(), offered)
    except Exception as error:  # the boundary to whatever a model wrote: it reads the fault and may try again
        result = {"error": str(error) or type(error).__name__}
    text = write_json(result)
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}… (cut)"


def is_error(result: str) -> bool:
    """Whether `call` returned a fault."""
    return result.startswith('{"error": ')


def _run(name: str, arguments: dict[str, Any] | str, context: Context, offered: Iterable[dict[str, Any]] | None) -> Any:
    shown = None if offered is None else by_name(offered)
    known = _TOOLS if shown is None else shown
    if name not in known:
        raise ValueError(f"unknown tool {name!r}; there are: {', '.join(known) or 'none'}")
    if name not in _TOOLS:
        raise ValueError(f"the tool {name!r} does not work here")
    if isinstance(arguments, str):
        arguments = read_json(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("arguments must be a JSON object")
    tool = _TOOLS[name]
    own = tool.schema["function"]["parameters"]
    if shown is not None:
        if wrong := fault(arguments, shown[name].get("parameters") or {}):
            raise ValueError(wrong)
        arguments = {key: value for key, value in arguments.items() if key in own["properties"]}
    values = {key: _number(value, own["properties"].get(key, {}).get("type")) for key, value in arguments.items()}
    if wrong := fault(values, own):
        raise ValueError(wrong)
    return tool.function(**values, **({"context": context} if tool.takes_context else {}))


def _number(value: Any, kind: str | None) -> Any:
    """A number that is written as text, or an integer with a decimal point, as the number that is meant."""
    if kind in ("integer", "number") and isinstance(value, str | float):
        number = float(value)
        return int(number) if kind == "integer" and number.is_integer() else number
    return value
