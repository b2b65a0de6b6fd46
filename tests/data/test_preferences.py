"""Pairs: one prompt and two answers, and everything that is no such pair is refused."""

import json

import numpy as np
import pytest

from minimind.data.corpus import parse, read_documents
from minimind.data.preferences import Pair, encode_pair, read_pair
from minimind.data.shards import ensure
from minimind.errors import UserError
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

TOKENIZER = Tokenizer.load("default")


def user(text):
    return {"role": "user", "content": text}


def says(text, **fields):
    return {"role": "assistant", "content": text, **fields}


SYSTEM = {"role": "system", "content": "Be brief."}
CALL = [{"name": "calculate_math", "arguments": {"expression": "1 + 1"}}]
TOOLS = json.dumps([{"type": "function", "function": {"name": "calculate_math", "parameters": {}}}])
PAIRS = {
    "one question": ([user("hi")], [says("Hello!")], [says("Go away!")]),
    "common beginning": ([user("where?")], [says("In the city of Rome.")], [says("In the city of Paris.")]),
    "one thinks": ([user("1 + 1?")], [says("2", reasoning_content="one, two")], [says("2")]),
    "both think": ([user("1 + 1?")], [says("2", reasoning_content="a b")], [says("3", reasoning_content="a c")]),
    "several turns": ([SYSTEM, user("hi"), says("Hello!"), user("你好")], [says("你好！")], [says("Hello!")]),
    "ways part": ([user("hi")], [says("A"), user("x"), says("B")], [says("C"), user("y"), says("D")]),
    "tools": ([{**SYSTEM, "tools": TOOLS}, user("1 + 1?")], [says("", tool_calls=json.dumps(CALL))], [says("3")]),
}


def row(prompt, chosen, rejected):
    return {"chosen": prompt + chosen, "rejected": prompt + rejected}


@pytest.mark.parametrize("name", PAIRS)
def test_prompt_once_then_both_answers(name):
    prompt, *_ = PAIRS[name]
    pair = read_pair(row(*PAIRS[name]))
    assert pair.shared_turns == len(prompt)
    ids, marks, dropped = encode_pair(pair, TOKENIZER)
    assert dropped == 0
    assert (np.diff(marks >> 1) >= 0).all()
    assert set(marks >> 1) == {0, 1, 2}
    for branch, side in ((1, pair.chosen), (2, pair.rejected)):
        seen = np.isin(marks >> 1, [0, branch])
        expected, mask = render(side.messages, TOKENIZER, side.tools)
        assert ids[seen].tolist() == expected
        earlier = len(render(side.messages[: len(prompt)], TOKENIZER, side.tools)[0])
        counted = np.array(mask) & (np.arange(len(mask)) >= earlier)  # of the prompt's own answers nothing is
        assert ((marks & 1)[seen] == counted).all()
        first = np.flatnonzero(marks >> 1 == branch)[0]
        assert marks[first] & 1 == 0, "it predicts the answer's first token"
        assert marks[first + 1] & 1 or name == "one thinks", "and is all of the prompt that is there twice"
    if name == "common beginning":
        assert (marks[marks >> 1 == 1] & 1).sum() == len(TOKENIZER.encode("In the city of Rome.")) + 1


def test_a_pair_that_is_too_long_keeps_its_answers_and_loses_old_turns():
    long = [SYSTEM]
    for number in range(4):
        long += [user(f"question {number} " * 5), says("answer " * 9)]
    pair = read_pair(row([*long, user("last question")], [says("yes")], [says("no")]))
    whole, _, _ = encode_pair(pair, TOKENIZER)
    short = read_pair(row([SYSTEM, *long[7:], user("last question")], [says("yes")], [says("no")]))
    fitting, marks, _ = encode_pair(short, TOKENIZER)
    ids, cut, dropped = encode_pair(pair, TOKENIZER, max_length=len(fitting))
    assert dropped == 6
    assert ids.tolist() == fitting.tolist()
    assert cut.tolist() == marks.tolist()
    assert encode_pair(pair, TOKENIZER, len(whole))[2] == 0
    assert encode_pair(pair, TOKENIZER, len(whole) - 1)[2] == 2
    assert encode_pair(pair, TOKENIZER, len(whole) - 1, drop_oldest=False) is None
    assert encode_pair(pair, TOKENIZER, max_length=20) is None, "the last question and the answers are never cut"


ONE = row([user("hi")], [says("yes")], [says("no")])
BAD = {
    "no JSON": ("{", "not valid JSON"),
    "no field": ({"chosen": ONE["chosen"]}, "no field 'rejected' (it has 'chosen')"),
    "no list": ({**ONE, "chosen": "yes"}, "'chosen' must be a list"),
    "wrong role": ({**ONE, "rejected": [{"role": "usr", "content": "hi"}]}, "'rejected': turn 1"),
    "no answer": ({**ONE, "chosen": ONE["chosen"][:1]}, "'chosen': it has no assistant turn"),
    "identical": ({**ONE, "rejected": ONE["chosen"]}, "identical"),
    "identical once normalised": (
        row([user("hi")], [says("<think>\na\n</think>\n\nb")], [says("b", reasoning_content="a")]),
        "identical",
    ),
    "empty answer": (row([user("hi")], [says("")], [says("no")]), "'chosen': its answer is empty"),
    "another prompt": ({**ONE, "chosen": [user("ho"), says("yes")]}, "differ in turn 1, which is the user's"),
    "nothing of its own": (row([user("hi"), says("yes")], [user("a"), says("b")], []), "'rejected' ends after turn 2"),
    "other tools": (row([user("1")], [says("yes")], [says("no", tools=TOOLS)]), "different tools"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_pair_is_refused_with_file_and_line(tmp_path, case):
    line, words = BAD[case]
    text = line if isinstance(line, str) else json.dumps(line)
    with pytest.raises(UserError) as error:
        parse(text.encode(), "dpo")
    assert words in str(error.value)
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{json.dumps(ONE)}\n{text}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"pairs.jsonl line 2: .*--on-bad-line skip"):
        ensure([path], TOKENIZER, "dpo", cache=tmp_path)
    (found,) = read_documents([path], "dpo", on_bad_line="skip")
    assert isinstance(found, Pair)
    assert ensure([path], TOKENIZER, "dpo", cache=tmp_path, on_bad_line="skip").documents == 1


def test_general_system_prompts_are_the_same_for_both():
    pair = read_pair(ONE).with_system_prompt(7, 1.0)
    assert pair.chosen.messages[0]["role"] == "system"
    assert pair.shared_turns == 2
