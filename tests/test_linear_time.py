"""Every place where text of strangers meets a pattern: four times as much takes about four times as long."""

import pytest
from linear import assert_linear

from minimind.data.stats import _UNIT
from minimind.engine.text import StopFinder
from minimind.eval.judge import OBJECT
from minimind.eval.tasks import _clean
from minimind.rl.rewards import _CHOICE
from minimind.text import read_json
from minimind.tokenizer import Tokenizer
from minimind.tokenizer.chat import normalize, render
from minimind.tokenizer.fast import MAX_SPACE
from minimind.tokenizer.parse import parse
from minimind.tokenizer.report import _WORDS
from minimind.tools.answers import hits, numbers

TOKENIZER = Tokenizer.load("default")
MARKS = ("<tool_call>", "</tool_call>", "<tool_call></tool_call>", "<tool_call>" + " " * 20, "<think>", "</think>\n")
SPACES = (" " * 499 + "a", " ", " \t", "\n", " \n", "\u3000", "'", "a", "，", "1", "\U0001f642", "a" * 90 + " ")


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("head", ["", "<tool_call>", "<think>", "<tool_call>{", " " * 4000])
def test_messages(mark, head):
    assert_linear(lambda n: normalize({"role": "assistant", "content": head + mark * 5000 * n}))


@pytest.mark.parametrize("piece", SPACES)
def test_tokenization(piece):
    assert_linear(lambda n: TOKENIZER.encode(piece * (MAX_SPACE // 5 * n // len(piece))))


@pytest.mark.parametrize("piece", [" " * 499 + "a", " "])
def test_tokenization_of_much_space(piece):
    """More of it in a row than `tiktoken` can take, and ends of runs that all look like more."""
    assert_linear(lambda n: TOKENIZER.encode(piece * (MAX_SPACE * 2 * n // len(piece))))


def test_rendering():
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<think>a</think>b"}]
    assert_linear(lambda n: render(turns * 250 * n, TOKENIZER))


@pytest.mark.parametrize("parts", [["<tool_call>", " a"], ["\n"], ["<think>"], ["<tool_call>", "</tool_call>"]])
@pytest.mark.parametrize("spelled", [False, True])
def test_reading_what_a_model_says(parts, spelled):
    tokenizer = TOKENIZER
    if spelled:
        plain = TOKENIZER.files["tokenizer.json"]
        for marker in ("think>", "tool_call>"):
            plain = plain.replace(f'"content": "<{marker}', f'"content": "<{marker}?')
            plain = plain.replace(f'"content": "</{marker}', f'"content": "</{marker}?')
        tokenizer = Tokenizer(TOKENIZER.files | {"tokenizer.json": plain})
    ids = [tokenizer.control_id(part) for part in parts]
    ids = [[id] if id is not None else tokenizer.encode(part) for id, part in zip(ids, parts, strict=True)]
    head, body = (ids[0], ids[1]) if len(ids) == 2 and parts[1] == " a" else ([], [id for part in ids for id in part])
    assert_linear(lambda n: parse(head + body * (1500 * n), tokenizer))


@pytest.mark.parametrize("piece", ["[", "[a] ", "[\n"])
def test_questions_of_tasks(piece):
    assert_linear(lambda n: _clean(piece * 5000 * n))


@pytest.mark.parametrize("piece", ["1", "1,", "1.", "1e", "-", "1.1e", " ", ",111"])
def test_numbers_in_answers(piece):
    assert_linear(lambda n: (numbers(piece * 10_000 * n), hits([piece * 10_000 * n, "1"], piece * 10_000 * n)))


@pytest.mark.parametrize("piece", ["{", "{}", "A", "(A", "'", "\\ud83d", "\\", "一", "a "])
def test_other_patterns(piece):
    for pattern in (OBJECT, _CHOICE, _UNIT, _WORDS):
        assert_linear(lambda n, pattern=pattern: pattern.findall(piece * 10_000 * n))
    assert_linear(lambda n: read_json('"' + (piece * 10_000 * n).replace("\\", "\\ud83d") + '"'))


@pytest.mark.parametrize("stop", ["a", "ab", "a" * 20 + "b"])
def test_stop_strings(stop):
    """In the length of the stop strings, and in that of the text."""

    def say(text, stops):
        finder = StopFinder(stops)
        return sum(len(finder.feed(text)) for _ in range(100))

    assert_linear(lambda n: say("a" * 50, [stop * 100 * n + "x"] * 4))
    assert_linear(lambda n: say("a" * 50 * n, [stop * 100 + "x"] * 4))
