import json

import pytest

from minimind.data.conversations import (
    SYSTEM_PROMPTS,
    chance,
    check_answers,
    encode,
    read_conversation,
    with_system_prompt,
)
from minimind.errors import UserError
from minimind.tokenizer import chat
from minimind.tokenizer.bpe import Tokenizer

TOOLS = [{"type": "function", "function": {"name": "calculate_math", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "calculate_math", "arguments": {"expression": "1+1"}}}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load("default")


def user(content):
    return {"role": "user", "content": content}


def assistant(content, **more):
    return {"role": "assistant", "content": content, **more}


def chatted(*turns):
    return read_conversation({"conversations": list(turns)})


def test_both_ways_of_writing_are_one():
    ours = {
        "conversations": [
            {"role": "system", "content": "s", "tools": json.dumps(TOOLS)},
            user("1+1?"),
            assistant("", tool_calls=json.dumps([CALL])),
            {"role": "tool", "content": "2"},
            assistant("It is 2.", reasoning_content="easy"),
        ]
    }
    theirs = {
        "messages": [
            {"role": "system", "content": "s"},
            user([{"type": "text", "text": "1+1?"}]),
            assistant(None, tool_calls=[CALL]),
            {"role": "tool", "content": "2"},
            assistant("<think>\neasy\n</think>\n\nIt is 2."),
        ],
        "tools": TOOLS,
    }
    assert read_conversation(ours) == read_conversation(theirs)
    assert read_conversation(ours).tools == TOOLS


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"text": "a"}, "no field 'conversations' or 'messages'"),
        ({"conversations": []}, "'conversations' is empty"),
        ({"conversations": "hello"}, "must be a list"),
        ({"conversations": ["hello"]}, "must be a list"),
        ({"conversations": [user("a")]}, "no assistant turn"),
        ({"conversations": [user("a"), {"role": "robot", "content": "b"}]}, "turn 2: message role 'robot'"),
        ({"conversations": [user("a"), {"content": "b"}]}, "turn 2: message role None"),
        ({"conversations": [user("a"), assistant(3)]}, "turn 2: a assistant message's content|turn 2: .*content"),
        ({"conversations": [assistant("b")]}, "first turn after the system's is the assistant's"),
        ({"conversations": [user("a"), assistant("b"), {"role": "system", "content": ""}]}, "turn 3: a system turn"),
        ({"conversations": [user("a"), {"role": "tool", "content": ""}, assistant("b")]}, "turn 2: a tool turn"),
        ({"messages": [user("a"), assistant("b")], "tools": "{"}, "'tools' is not valid JSON"),
        ({"messages": [user("a"), assistant("b")], "tools": ["f"]}, "'tools' must be a list of function schemas"),
        ({"messages": [user("a"), assistant("", tool_calls="[{]")]}, "turn 2: tool_calls is not valid JSON"),
    ],
)
def test_what_is_wrong_is_said(row, what):
    with pytest.raises(UserError, match=what):
        read_conversation(row)


def test_a_silent_assistant_teaches_nothing():
    check_answers(chatted(user("a"), assistant(""), user("b"), assistant("c")))
    with pytest.raises(UserError, match="every assistant turn is empty"):
        check_answers(chatted(user("a"), assistant("")))


def test_system_prompts_go_to_their_share_in_their_language():
    for question, language in (("What is it?", "en"), ("这是什么？", "zh")):
        plain = chatted(user(question), assistant("b"))
        results = [with_system_prompt(plain, key, 0.2) for key in range(1000)]
        given = [c.messages[0]["content"] for c in results if c.messages[0]["role"] == "system"]
        assert 150 < len(given) < 250
        assert set(given) == set(SYSTEM_PROMPTS[language])
    own = chatted({"role": "system", "content": "mine"}, user("a"), assistant("b"))
    assert with_system_prompt(own, 1, 1.0) is own


def test_chance_is_even_and_depends_on_what_is_decided():
    draws = [chance(key, "a") for key in range(1000)]
    assert 0.47 < sum(draws) / 1000 < 0.53
    assert draws[:5] == [chance(key, "a") for key in range(5)]
    assert draws[:5] != [chance(key, "b") for key in range(5)]


def test_empty_think_blocks_can_be_left_out(tokenizer):
    ids, _, _ = encode(chatted(user("a"), assistant("b")), tokenizer, keep_empty_think=False)
    assert tokenizer.control_id("<think>") not in ids


def test_the_oldest_exchanges_go_until_it_fits(tokenizer):
    turns = [t for n in range(8) for t in (user(f"question {n} " * 5), assistant(f"answer {n}"))]
    system = {"role": "system", "content": "be kind"}
    whole = chatted(system, *turns)
    for limit in range(40, 400, 7):
        result = encode(whole, tokenizer, limit)
        if result is None:
            assert len(chat.render([system, *turns[-2:]], tokenizer)[0]) > limit
            continue
        ids, mask, dropped = result
        assert dropped % 2 == 0
        assert (ids, mask) == chat.render([system, *turns[dropped:]], tokenizer)
        assert len(ids) <= limit
        if dropped:  # one exchange more would not have fitted
            assert len(chat.render([system, *turns[dropped - 2 :]], tokenizer)[0]) > limit


def test_too_long_can_be_skipped(tokenizer):
    long = chatted(user("a"), assistant("b"), user("c"), assistant("d"))
    assert encode(long, tokenizer, 20, drop_oldest=False) is None
    assert encode(long, tokenizer, 20) is not None


def test_nothing_supervised_is_never_kept(tokenizer):
    unanswered = chatted(user("a"), assistant("b" * 200), user("c"))
    assert encode(unanswered, tokenizer, 20) is None
