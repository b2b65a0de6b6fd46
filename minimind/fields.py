"""Reading JSON objects that other programs wrote: each field with its type and limits, null meaning the default.

transformers leaves a field out, or writes it as null, and means the same; a reader that takes one of them for a value
fails on half of the files.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

from minimind.errors import UserError

D = TypeVar("D")


class Fields:
    """One JSON object from a file; errors begin with `source`."""

    def __init__(self, content: Mapping[str, Any], source: object) -> None:
        self.source = source
        self.given = {name: value for name, value in content.items() if value is not None}
        """The fields that say something."""

    def integer(self, name: str, default: D, least: int = 0, most: int = 2**31 - 1) -> int | D:
        """A whole number; `3.0`, as some programs write it, is one.

        Raises:
            UserError: it is something else, or out of range.
        """
        value = self.given.get(name)
        if value is None:
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.wrong(name, f"a whole number from {least:,} to {most:,}")
        return value

    def number(self, name: str, default: D, least: float = 0.0, most: float = 1e12, above: bool = False) -> float | D:
        """A finite number; `above`: larger than `least`, not equal to it.

        Raises:
            UserError: it is something else, or out of range.
        """
        value = self.given.get(name)
        if value is None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self.wrong(name, "a number")
        if not least <= value <= most or (above and value == least):
            raise self.wrong(
                name, f"a number {'above' if above else 'from'} {least:g} {'and' if above else 'to'} {most:g}"
            )
        return float(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """True or false.

        Raises:
            UserError: it is something else.
        """
        return self._typed(name, default, bool, "true or false")

    def text(self, name: str, default: D) -> str | D:
        """A string.

        Raises:
            UserError: it is something else.
        """
        return self._typed(name, default, str, "a string")

    def items(self, name: str) -> list[Any]:
        """A list; empty where there is none.

        Raises:
            UserError: it is something else.
        """
        return self._typed(name, [], list, "a list")

    def fields(self, name: str) -> "Fields":
        """An object, read in the same way; without fields where there is none.

        Raises:
            UserError: it is something else.
        """
        return Fields(self._typed(name, {}, dict, "an object"), f"{self.source}: {name}")

    def wrong(self, name: str, must: str) -> UserError:
        """The error about a field's value."""
        return UserError(f"{self.source}: {name} is {repr(self.given.get(name))[:60]}, but should be {must}")

    def _typed(self, name: str, default: Any, kind: type, must: str) -> Any:
        value = self.given.get(name, default)
        if value is not default and not isinstance(value, kind):
            raise self.wrong(name, must)
        return value
