"""Comparing an answer with what is expected in it: numbers as numbers, anything else as text; nothing is evaluated."""

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"(?<![A-Za-z0-9_.])[-+−]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\.?\d)", re.ASCII)
_WHOLE = re.compile(r"\s*[-+−]?\d+(?:\.\d+)?\s*")
_THOUSANDS = re.compile(r"(?<=\d)[,，](?=\d{3}(?!\d))")
MAX_DIGITS = 40


def numbers(text: str) -> list[float]:
    """The numbers in a text; commas between thousands are read over.

    A minus right after a digit is an operation: `5 -3` holds 5 and -3, `5-3` holds 5 and 3.
    """
    found = (match[0] for match in _NUMBER.finditer(_THOUSANDS.sub("", text)))
    return [_value(number) for number in found if len(number) <= MAX_DIGITS]


def hits(expected: Sequence[object], answer: str) -> list[bool]:
    """For each expected thing whether the answer holds it.

    A number is there if one of the answer's is within a millionth of it; a text if it occurs, in either case.
    """
    there = numbers(answer)
    return [_hit(str(one).strip(), answer, there) for one in expected]


def _hit(wanted: str, answer: str, there: list[float]) -> bool:
    plain = _THOUSANDS.sub("", wanted)
    if _WHOLE.fullmatch(plain):
        value = _value(plain)
        return any(abs(value - number) <= 1e-6 * max(1.0, abs(value)) for number in there)
    return bool(wanted) and wanted.casefold() in answer.casefold()


def _value(number: str) -> float:
    return float(number.strip().replace("−", "-"))
