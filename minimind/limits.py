"""Limits of the fields of a recipe's sections; what a section's `check` says."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from minimind.errors import UsageError


class Limit(NamedTuple):
    """What a value must be: a test, and the words for it."""

    fine: Callable[[Any], bool]
    words: str


POSITIVE = Limit(lambda value: 0 < value < math.inf, "above 0")
FRACTION = Limit(lambda value: 0 <= value <= 1, "in [0, 1]")
SHARE = Limit(lambda value: 0 <= value < 1, "in [0, 1)")


def at_least(least: float) -> Limit:
    """`least` or more."""
    return Limit(lambda value: value >= least, f"at least {least}")


def check(section: str, config: object, limit: Limit, *names: str) -> None:
    """Compare the fields `names` of a section with a limit.

    Raises:
        UsageError: naming the field.
    """
    for name in names:
        if not limit.fine(value := getattr(config, name)):
            raise UsageError(f"recipe: {section}.{name} = {value} must be {limit.words}")
