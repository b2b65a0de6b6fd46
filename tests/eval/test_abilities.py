import json
from types import SimpleNamespace

import torch

from minimind.data.smallworld.questions import Question
from minimind.eval import abilities
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

TOKENIZER = Tokenizer.load("default")
ASKED = [{"role": "user", "content": "What is 3 + 4 - 2?"}]
ANSWER = "3 + 4 - 2 = 5."


def prompt(thinking):
    return render(ASKED, TOKENIZER, open_thinking=thinking, add_generation_prompt=True)[0]


def scored(monkeypatch, ids, **fields):
    """The score of one question that a model answers with `ids`, and what it was asked."""
    seen = []

    class Said:
        def __init__(self, *_args, **_options):
            pass

        def submit(self, asked, _rules):
            seen.append(asked)
            return SimpleNamespace(ids=ids)

        def run(self):
            return []

    monkeypatch.setattr(abilities, "Engine", Said)
    question = Question(ASKED, answer=ANSWER, **fields)
    return abilities.score(None, TOKENIZER, {"thinking": [question]}, torch.float32)[0]["thinking"], seen


def test_a_question_to_be_thought_about_opens_the_think_block_and_is_judged_by_its_answer(monkeypatch):
    turn = {"role": "assistant", "reasoning_content": "3 + 4 = 7. 7 - 2 = 5.", "content": ANSWER}
    ids = render([*ASKED, turn], TOKENIZER)[0][len(prompt(True)) :]
    assert scored(monkeypatch, ids, open_thinking=True) == (1, [prompt(True)])
    unended = TOKENIZER.encode(ANSWER)
    assert scored(monkeypatch, unended, open_thinking=True)[0] == 0, "thoughts without an end are no answer"


def test_other_questions_are_answered_at_once(monkeypatch):
    assert scored(monkeypatch, TOKENIZER.encode(ANSWER)) == (1, [prompt(False)])


def test_exactly_the_expected_calls_are_right_and_words_are_none():
    one, other = ({"name": "look", "arguments": {"at": what}} for what in ("sun", "moon"))
    question = Question(ASKED, answer="", calls=[one, other])

    def saying(*calls):
        made = [{"function": {**call, "arguments": json.dumps(call["arguments"])}} for call in calls]
        return {"role": "assistant", "content": "", "tool_calls": made}

    assert abilities.is_right(question, saying(one, other))
    assert abilities.is_right(question, saying(other, one))
    for wrong in (saying(one), saying(one, one), saying(one, other, one), {"role": "assistant", "content": ""}):
        assert not abilities.is_right(question, wrong)
