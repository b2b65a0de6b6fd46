import json
import random
import time
from datetime import UTC, datetime

import pytest

from minimind import tools


def result(name: str, **arguments: object) -> dict:
    return json.loads(tools.call(name, arguments))


def test_the_eight_built_in_tools_have_openai_schemas() -> None:
    assert len(tools.BUILTIN) == 8
    for name, schema in zip(tools.BUILTIN, tools.schemas(tools.BUILTIN), strict=True):
        function = schema["function"]
        assert schema["type"] == "function"
        assert function["name"] == name
        assert function["description"]
        properties = function["parameters"]["properties"]
        assert "context" not in properties
        assert set(function["parameters"]["required"]) <= set(properties)
        assert all(one["description"] and one["type"] for one in properties.values())


def test_schema_types_and_required_arguments_come_from_the_signature() -> None:
    (schema,) = tools.schemas(["random_number"])
    assert schema["function"]["parameters"]["properties"]["min"]["type"] == "integer"
    assert schema["function"]["parameters"]["required"] == []
    (schema,) = tools.schemas(["unit_converter"])
    assert schema["function"]["parameters"]["properties"]["value"]["type"] == "number"
    assert schema["function"]["parameters"]["required"] == ["value", "from_unit", "to_unit"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("2 + 3 * 4", "14"),
        ("(2 + 3) × 4", "20"),
        ("2^10", "1024"),
        ("7 // 2 + 7 % 4", "6"),
        ("-3 + 5", "2"),
        ("0.1 + 0.2", "0.3"),
        ("10 / 4", "2.5"),
        ("6 ÷ 3", "2"),
        ("sqrt(16) + max(1, 2)", "6"),
        ("1e-7", "1e-07"),
        ("2 / 3 * 3", "2"),
        ("0.1 * 3 - 0.3", "0"),
        ("1e-13 + 0", "1e-13"),
        ("round(2.675, 2)", "2.68"),
        ("1 ** 99999999", "1"),
        ("2 ** -2", "0.25"),
        ("sin(pi) + sqrt(2) ** 2", "2"),
        ("17 / 3", "5.666667"),
    ],
)
def test_calculate_math(expression: str, value: str) -> None:
    assert result("calculate_math", expression=expression) == {"result": value}


@pytest.mark.parametrize(
    "expression",
    [
        "9**9**9",
        "1/0",
        "__import__('os').getcwd()",
        "(1).__class__",
        "open('x')",
        "'a' * 9",
        "[1] * 9",
        "1 if 1 else 2",
        "lambda: 1",
        "(-8) ** 0.5",
        "1e308 * 10",
        "2 +",
        "(" * 150,
        "1" * 300,
        "True",
        "",
    ],
)
def test_calculate_math_refuses_what_is_not_bounded_arithmetic(expression: str) -> None:
    assert set(result("calculate_math", expression=expression)) == {"error"}


@pytest.mark.parametrize(
    "expression",
    [
        "round(1,-10**7)",
        "round(1,-10**9)",
        "round(1.5,10**9)",
        "1" + "*9**999" * 28,
        "*".join(["2.5e300"] * 20),
        "*".join(["(9**999)"] * 20),
        "(9**900)%(8**900)" * 1 + "+1e-300" * 20,
        "+".join(f"1/9**{900 + i}" for i in range(20)),
        "-" * 199 + "1",
        "1.0000001**(1.0000001**(1.0000001**9e300))",
        "(2**-2000)**(2**-2000)",
    ],
)
def test_no_expression_costs_much(expression: str) -> None:
    start = time.process_time()
    tools.call("calculate_math", {"expression": expression})
    assert time.process_time() - start < 0.5


def test_units_keep_small_numbers_and_know_the_coldest() -> None:
    assert result("unit_converter", value=1, from_unit="mm", to_unit="mile")["result"] == pytest.approx(6.214e-7)
    assert result("unit_converter", value=-459.67, from_unit="f", to_unit="k")["result"] == 0
    for value, unit in ((-500, "celsius"), (-460, "fahrenheit"), (-1, "kelvin")):
        assert "colder" in result("unit_converter", value=value, from_unit=unit, to_unit="celsius")["error"]


def test_other_tools() -> None:
    assert result("text_length", text="two words") == {"characters": 9, "words": 2}
    assert result("unit_converter", value=5, from_unit="公里", to_unit="m")["result"] == 5000
    assert result("unit_converter", value=100, from_unit="celsius", to_unit="fahrenheit")["result"] == 212
    assert result("unit_converter", value="2.5", from_unit="kg", to_unit="g")["result"] == 2500
    assert result("get_current_weather", location="Paris")["condition"] == "cloudy"
    assert result("get_current_weather", location="巴黎")["condition"] == "多云"
    assert result("get_exchange_rate", from_currency="usd", to_currency="USD")["rate"] == 1.0
    assert result("translate_text", text="你好", target_language="English") == {"translated": "hello"}
    assert result("translate_text", text="Good morning!", target_language="zh") == {"translated": "早上好"}


def test_clock_and_dice_can_be_given() -> None:
    def run() -> tuple[str, str]:
        context = tools.Context(now=lambda: datetime(2025, 1, 1, 23, 0, tzinfo=UTC), dice=random.Random(3))
        return (
            tools.call("get_current_time", {"timezone": "Asia/Tokyo"}, context),
            tools.call("random_number", {"min": 1, "max": 10**9}, context),
        )

    assert run() == run()
    assert json.loads(run()[0])["datetime"] == "2025-01-02 08:00:00"


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("no_such_tool", {}, "unknown tool"),
        ("text_length", "{not json", "Expecting"),
        ("text_length", "[1]", "object"),
        ("text_length", {}, "missing argument: text"),
        ("text_length", {"text": "a", "colour": "b"}, "unknown argument: colour"),
        ("text_length", {"text": 3}, "type string"),
        ("random_number", {"min": 1.5}, "type integer"),
        ("random_number", {"min": 3, "max": 1}, "larger"),
        ("random_number", {"min": True}, "type integer"),
        ("unit_converter", {"value": 1, "from_unit": "km", "to_unit": "kg"}, "same thing"),
        ("unit_converter", {"value": "nan", "from_unit": "km", "to_unit": "m"}, "finite"),
        ("unit_converter", {"value": "ten", "from_unit": "km", "to_unit": "m"}, ""),
        ("get_current_weather", {"location": "Atlantis"}, "Atlantis"),
        ("get_current_time", {"timezone": "Mars/Base"}, "time zone"),
        ("get_exchange_rate", {"from_currency": "USD", "to_currency": "XXX"}, "XXX"),
        ("translate_text", {"text": "hello", "target_language": "tlh"}, "tlh"),
        ("translate_text", {"text": "zyzzyva", "target_language": "zh"}, "zyzzyva"),
    ],
)
def test_a_fault_is_a_result(name: str, arguments: dict | str, why: str) -> None:
    answer = json.loads(tools.call(name, arguments))
    assert set(answer) == {"error"}
    assert why in answer["error"]
