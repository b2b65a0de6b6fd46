import pytest

from minimind.tools.answers import hits, numbers


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("299 + 54 = 353.", [299, 54, 353]),
        ("共396元，约-7.5度", [396, -7.5]),
        ("1,234.5 and 12,34", [1234.5, 12, 34]),
        ("5-3 but 5 -3", [5, 3, 5, -3]),
        ("20°C, 18km, 1e3, −4", [20, 18, 1000, -4]),
        ("abc12 v2.0 x_1", []),
        ("9" * 400, []),
    ],
)
def test_numbers(text, found):
    assert numbers(text) == found


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        (["396"], "The result is 396.", [True]),
        (["396"], "The result is 3960.", [False]),
        (["-40"], "等于-40。", [True]),
        (["40"], "等于-40。", [False]),
        (["1,234", "1，234"], "it is 1234.0", [True, True]),
        (["2,3"], "it is 23", [False]),
        (["2,3"], "x = 2,3", [True]),
        (["0.3"], "0.30000001", [True]),
        (["20°C", "63"], "西安的气温20°C，和是63", [True, True]),
        (["Hello"], "hello world", [True]),
        ([""], "anything", [False]),
        ([7], "seven is 7", [True]),
        (["__import__('os')"], "1", [False]),
    ],
)
def test_hits(expected, answer, right):
    assert hits(expected, answer) == right
