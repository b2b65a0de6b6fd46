"""Limits of the fields of a recipe's sections; what a section's `check` says."""

from collections.abc import Callable
from typing import Any, NamedTuple

from minimind.errors import UsageError


class Limit(NamedTuple):
    """What a value must be: a test, and the words for it."""

    fine: Callable[[Any], bool]
    words: str


POSITIVE = Limit(lambda value: 0 < value < 2**31, "above 0 and below 2**31")
FRACTION = Limit(lambda value: 0 <= value <= 1, "in [0, 1]")
SHARE = Limit(lambda value: 0 <= value < 1, "in [0, 1)")
UP_TO_INFINITY = Limit(lambda value: value >= 0, "at least 0")
"""Of bounds that infinity switches off, as 0 does."""


def at_least(least: float, bits: int = 31) -> Limit:
    """`least` or more, and below 2**`bits`: no honest value is larger, and those overflow or never end."""
    return Limit(lambda value: least <= value < 2**bits, f"at least {least} and below 2**{bits}")


def check(section: str, config: object, limit: Limit, *names: str) -> None:
    """Compare the fields `names` of a section with a limit.

    Raises:
        UsageError: naming the field.
    """
    for name in names:
        if not limit.fine(value := getattr(config, name)):
            raise UsageError(f"recipe: {section}.{name} = {value} must be {limit.words}")
