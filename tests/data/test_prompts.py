import json
from types import SimpleNamespace

import pytest

from minimind.data.prompts import read_prompts
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.recipe import Recipe
from minimind.rl.stream import RolloutStream, begins_with_thinking
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


def test_a_line_may_say_whether_its_answer_begins_with_thinking(tmp_path):
    rows = [ASKED | {"open_thinking": True}, ASKED | {"open_thinking": False}, ASKED]
    told, told_not, left = read_prompts(written(tmp_path, *rows))
    for ratio in (0.0, 1.0):
        recipe = Recipe()
        recipe.rl.thinking_ratio = ratio
        for place in range(-3, 4):
            assert begins_with_thinking(told, recipe, place)
            assert not begins_with_thinking(told_not, recipe, place)
            assert begins_with_thinking(left, recipe, place) == bool(ratio)
    stream = SimpleNamespace(
        recipe=Recipe(), prompts=[told, told_not], tokenizer=Tokenizer.load("default"), sampling=Sampling()
    )
    for index, thinking in enumerate((True, False)):
        samples, _ = RolloutStream.samples_of(stream, 0, index)
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
