"""The eight built-in tools, under the names of MiniMind's published data so that it can be executed.

A model writes their arguments, and they run in the process that serves everybody: each costs little, whatever it is
given. Arithmetic is exact where it can be (0.1 + 0.2 is 0.3), in numbers whose size is bounded at every step.
"""

import ast
import math
import operator
from collections.abc import Callable
from datetime import UTC, timedelta, timezone
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from minimind.tools import tables
from minimind.tools.registry import Context, names, tool

MAX_EXPRESSION = 200  # characters; also bounds the depth of the syntax tree
MAX_BITS = 4096  # of a numerator or denominator: 9**9**9 must cost nothing
MAX_PLACES = 400  # that `round` counts; more than any float has
NOISE = 1e-15  # what is left of zero after functions that only come near: sin(pi)

Number = int | Fraction | float


def _power(base: Number, exponent: Number) -> Any:
    if not isinstance(base, int | Fraction) or not isinstance(exponent, int):
        return base**exponent
    if (max(abs(base.numerator), base.denominator) - 1).bit_length() * abs(exponent) > MAX_BITS:
        raise ValueError("the power is too large")
    return Fraction(base) ** exponent


def _divide(left: Number, right: Number) -> Any:
    if right == 0:
        raise ZeroDivisionError("division by zero")  # a fraction's own words are "Fraction(1, 0)"
    return left / right if isinstance(left, float) or isinstance(right, float) else Fraction(left) / right


def _round(value: Number, places: Number = 0) -> Any:
    if not isinstance(places, int) or abs(places) > MAX_PLACES:
        raise ValueError(f"round counts at most {MAX_PLACES} places")
    return round(value, places)


_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: _divide,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": math.sqrt, "abs": abs, "round": _round, "min": min, "max": max,
    "sin": math.sin, "cos": math.cos, "tan": math.tan, "log": math.log, "log10": math.log10, "exp": math.exp,
}  # fmt: skip
_CONSTANTS = {"pi": math.pi, "e": math.e}
_SPELLINGS = str.maketrans({"×": "*", "÷": "/", "（": "(", "）": ")", "，": ",", "−": "-"})


def _evaluate(node: ast.expr) -> Any:
    """The value of an expression: an integer, a fraction that is none, or a float where a function made one."""
    value = _value(node)
    if isinstance(value, Fraction) and value.denominator == 1:
        value = value.numerator
    if isinstance(value, int | Fraction) and max(abs(value.numerator), value.denominator) >> MAX_BITS:
        raise ValueError("a number becomes too large")
    return value


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=int() as value) if not isinstance(value, bool):
            return value
        case ast.Constant(value=float() as value) if math.isfinite(value):
            return Fraction(repr(value))
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_evaluate(left), _evaluate(right))
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_evaluate(operand))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*map(_evaluate, arguments))
    raise ValueError(f"not arithmetic: {ast.unparse(node)[:40]}")


def _number(value: float, digits: int = 6) -> int | float:
    """Round to so many decimals, numbers below 1 to so many significant digits; whole numbers become integers."""
    rounded = round(value, digits) if abs(value) >= 1 else float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded


@tool
def calculate_math(expression: str) -> dict:
    """Calculate a math expression.

    expression: Such as 12 * 3
    """
    if len(expression) > MAX_EXPRESSION:
        raise ValueError(f"the expression is longer than {MAX_EXPRESSION} characters")
    text = expression.translate(_SPELLINGS).replace("^", "**").strip()
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise ValueError(f"cannot read the expression {expression!r}") from error
    value = _evaluate(tree.body)
    if isinstance(value, complex) or not math.isfinite(value):
        raise ValueError("the result is not a finite real number")
    if isinstance(value, float) and abs(value) < NOISE:
        value = 0
    return {"result": str(value if isinstance(value, int) else _number(float(value)))}


@tool
def get_current_time(timezone: str = "Asia/Shanghai", *, context: Context) -> dict:
    """Get the current date and time.

    timezone: Such as Asia/Shanghai
    """
    return {"datetime": context.now().astimezone(_zone(timezone)).strftime("%Y-%m-%d %H:%M:%S"), "timezone": timezone}


def _zone(name: str) -> Any:
    if name == "UTC":
        return UTC
    if name in tables.UTC_HOURS:
        return timezone(timedelta(hours=tables.UTC_HOURS[name]))
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"unknown time zone {name!r}") from error


@tool
def random_number(min: int = 0, max: int = 100, *, context: Context) -> dict:
    """Draw a random integer between two bounds.

    min: Smallest value
    max: Largest value
    """
    if min > max:
        raise ValueError("min is larger than max")
    return {"result": context.dice.randint(min, max)}


@tool
def text_length(text: str) -> dict:
    """Count the characters and words of a text.

    text: Text to count
    """
    return {"characters": len(text), "words": len(text.split())}


@tool
def unit_converter(value: float, from_unit: str, to_unit: str) -> dict:
    """Convert a value between units.

    value: Value to convert
    from_unit: Its unit
    to_unit: Wanted unit
    """
    source, target = _unit(from_unit), _unit(to_unit)
    if source in tables.TEMPERATURES and target in tables.TEMPERATURES:
        celsius = {"celsius": value, "fahrenheit": (value - 32) / 1.8, "kelvin": value - 273.15}[source]
        if celsius < -273.15 - 1e-9:
            raise ValueError("nothing is colder than -273.15 °C")
        result = round({"celsius": celsius, "fahrenheit": celsius * 1.8 + 32, "kelvin": celsius + 273.15}[target], 4)
    elif source in tables.UNITS and target in tables.UNITS and tables.UNITS[source][0] == tables.UNITS[target][0]:
        result = value * tables.UNITS[source][1] / tables.UNITS[target][1]
    else:
        raise ValueError(f"{from_unit} and {to_unit} do not measure the same thing")
    if not math.isfinite(result):
        raise ValueError("the value is not a finite number")
    return {"result": _number(result, 4), "from": from_unit, "to": to_unit}


def _unit(name: str) -> str:
    key = name.strip().lower()
    unit = tables.UNIT_ALIASES.get(key, key)
    if unit not in tables.UNITS and unit not in tables.TEMPERATURES:
        raise ValueError(f"unknown unit {name!r}")
    return unit


@tool
def get_current_weather(location: str) -> dict:
    """Get the current weather of a city.

    location: City name
    """
    for city, (chinese, degrees, humidity, condition) in tables.WEATHER.items():
        if location.strip().lower() == city.lower() or location.strip().removesuffix("市") == chinese:
            shown = condition if location.strip().lower() == city.lower() else tables.CONDITIONS[condition]
            return {
                "city": location,
                "temperature": f"{degrees}°C",
                "humidity": f"{humidity}%",
                "condition": shown,
            }
    raise ValueError(f"no weather for {location!r}")


@tool
def get_exchange_rate(from_currency: str, to_currency: str) -> dict:
    """Get the exchange rate of two currencies.

    from_currency: Such as USD
    to_currency: Such as CNY
    """
    for code in (from_currency, to_currency):
        if code.strip().upper() not in tables.US_DOLLARS:
            raise ValueError(f"unknown currency {code!r}")
    source, target = from_currency.strip().upper(), to_currency.strip().upper()
    rate = tables.US_DOLLARS[source] / tables.US_DOLLARS[target]
    return {"from": source, "to": target, "rate": float(f"{rate:.4g}")}


@tool
def translate_text(text: str, target_language: str) -> dict:
    """Translate a text into Chinese or English.

    text: Text to translate
    target_language: zh or en
    """
    language = tables.LANGUAGES.get(target_language.strip().lower())
    if language is None:
        raise ValueError(f"unknown language {target_language!r}")
    phrase = text.strip().lower().rstrip(".!。！")
    to_english = {chinese: english for english, chinese in tables.DICTIONARY.items()}
    if phrase not in tables.DICTIONARY and phrase not in to_english:
        raise ValueError(f"no translation for {text!r}")
    english = to_english.get(phrase, phrase)
    return {"translated": english if language == "en" else tables.DICTIONARY[english]}


NAMES = tuple(names())
"""All that is registered so far: those of this file."""
