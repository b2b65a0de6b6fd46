import json

import pytest

from minimind.data.prompts import read_prompts
from minimind.errors import UserError
from minimind.rl.settings import RlConfig
from minimind.rl.stream import Collector
from minimind.tokenizer.bpe import Tokenizer

ASKED = {"messages": [{"role": "user", "content": "What is 3 + 4?"}]}


def written(folder, *rows):
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8", newline="\n")
    return [path]


def test_a_line_is_a_conversation_up_to_the_answer_and_what_is_expected(tmp_path):
    answered = {"conversations": [*ASKED["messages"], {"role": "assistant", "content": "7"}], "gt": 7}
    unanswered, ignored = read_prompts(written(tmp_path, ASKED | {"gt": ["7", "seven"]}, answered))
    assert unanswered.messages == ignored.messages == ASKED["messages"]
    assert (unanswered.gt, ignored.gt) == (["7", "seven"], ["7"])
    assert unanswered.question == "What is 3 + 4?"


def test_nothing_expected_may_be_null_but_0_is_an_answer(tmp_path):
    prompts = read_prompts(written(tmp_path, ASKED | {"gt": None}, ASKED, ASKED | {"gt": 0}))
    assert [prompt.gt for prompt in prompts] == [[], [], ["0"]]


def test_a_line_may_say_whether_its_answer_begins_with_thinking(tmp_path):
    rows = [ASKED | {"open_thinking": True}, ASKED | {"open_thinking": False}, ASKED]
    told, told_not, left = read_prompts(written(tmp_path, *rows))
    for ratio in (0.0, 1.0):
        for prompt, thinking in ((told, True), (told_not, False), (left, bool(ratio))):
            config, tokenizer = RlConfig(thinking_ratio=ratio), Tokenizer.load("default")
            collector = Collector(config, [prompt], tokenizer, engine=None, fill=None, rewards=None, seed=0)
            samples = [sample for place in range(4) for sample in collector.group(place)]
            assert {sample.thinking for sample in samples} == {thinking}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (ASKED | {"open_thinking": "yes"}, "'open_thinking' must be true or false"),
        (ASKED | {"gt": {"7": 1}}, "'gt' must be a list of strings"),
        ({"messages": [{"role": "assistant", "content": "7"}]}, "the first turn after the system's is the assistant's"),
    ],
)
def test_a_wrong_line_is_named_in_one_sentence(tmp_path, row, said):
    with pytest.raises(UserError) as error:
        read_prompts(written(tmp_path, ASKED, row))
    assert "line 2" in str(error.value)
    assert said in str(error.value)
