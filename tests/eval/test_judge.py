"""The judge, against a server of our own that behaves well, badly, or is biased."""

import json
import re
import subprocess
import sys
import threading

import pytest
from endpoints import endpoint

from minimind.errors import UserError
from minimind.eval.judge import CRITERIA, Judge, judge_answers


@pytest.fixture(name="endpoint")
def _endpoint():
    with endpoint() as one:
        yield one


def judge(endpoint, **options):
    return Judge(endpoint.url, "wise", **{"timeout": 5, "pause": 0.01} | options)


def part(prompt, tag):
    return re.search(rf"<{tag}>\n(.*?)\n</{tag}>", prompt, re.DOTALL)[1]


def grades(number):
    return json.dumps(dict.fromkeys(CRITERIA, number))


def test_grades_by_the_rubric(endpoint):
    endpoint.reply = lambda prompt: f"Let me see.\n```json\n{grades(7)}\n```"
    assert judge(endpoint, key="secret").grade("为什么？", "because {it} is") == dict.fromkeys(CRITERIA, 7)
    path, headers, body = endpoint.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body["model"] == "wise"
    assert body["temperature"] == 0
    prompt = body["messages"][0]["content"]
    assert part(prompt, "question") == "为什么？"
    assert part(prompt, "answer") == "because {it} is"
    for criterion in CRITERIA:
        assert f"- {criterion}:" in prompt


def test_without_a_key_there_is_no_authorization(endpoint):
    endpoint.reply = lambda prompt: grades(5)
    judge(endpoint).grade("q", "a")
    assert "Authorization" not in endpoint.requests[0][1]


@pytest.mark.parametrize("reply", ["I like it.", '{"accuracy": 3}', grades(11), grades(0), grades("7"), "{", "[]"])
def test_a_reply_that_is_no_grade_is_asked_for_once_more(endpoint, reply):
    endpoint.reply = lambda prompt: reply
    assert judge(endpoint).grade("q", "a") is None
    assert [len(body["messages"]) for _, _, body in endpoint.requests] == [1, 3]
    replies = iter([reply, grades(4)])
    endpoint.reply = lambda prompt: next(replies)
    assert judge(endpoint).grade("q", "a") == dict.fromkeys(CRITERIA, 4)


def test_the_last_verdict_counts(endpoint):
    endpoint.reply = lambda prompt: '<think>{"better": "A"}? No.</think> {"better": "B"}, said as {"better": ...}'
    assert judge(endpoint).compare("q", "a", "b") == -1


def test_a_fair_judge_finds_the_better_answer_in_either_place(endpoint):
    def fair(prompt):
        if "answer_A" not in prompt:
            return grades(9 if part(prompt, "answer") == "good" else 2)
        first, second = part(prompt, "answer_A"), part(prompt, "answer_B")
        return json.dumps({"better": "tie" if first == second else "A" if first == "good" else "B"})

    endpoint.reply = fair
    found = judge_answers(judge(endpoint), ["1", "2", "3"], {"x": ["good", "bad", "bad"], "y": ["bad", "good", "bad"]})
    assert found["pairs"] == [
        {"first": "x", "second": "y", "wins": 1, "losses": 1, "ties": 1, "turned": 0, "unclear": 0}
    ]
    assert found["grades"]["x"] == [dict.fromkeys(CRITERIA, grade) for grade in (9, 2, 2)]
    assert found["mean"]["y"]["logic"] == pytest.approx(13 / 3)
    assert len(endpoint.requests) == 6 + 6


def test_a_judge_who_prefers_the_first_place_decides_nothing(endpoint):
    endpoint.reply = lambda prompt: json.dumps({"better": "A"}) if "answer_A" in prompt else "no idea"
    found = judge_answers(judge(endpoint), ["1", "2"], {"x": ["a", "b"], "y": ["c", "d"], "z": ["e", "f"]})
    assert len(found["pairs"]) == 3
    for pair in found["pairs"]:
        assert [pair[key] for key in ("wins", "losses", "ties", "turned", "unclear")] == [0, 0, 2, 2, 0]
    assert found["mean"]["x"] == dict.fromkeys(CRITERIA, None)


def test_a_judge_who_cannot_be_understood_decides_nothing(endpoint):
    endpoint.reply = lambda prompt: '{"better": "the second"}'
    assert judge_answers(judge(endpoint), ["1"], {"x": ["a"], "y": ["b"]})["pairs"][0]["unclear"] == 1


def test_a_busy_server_is_asked_again(endpoint):
    replies = iter([429, 503, grades(6)])
    endpoint.reply = lambda prompt: next(replies)
    assert judge(endpoint).grade("q", "a") == dict.fromkeys(CRITERIA, 6)
    assert len(endpoint.requests) == 3


def test_what_goes_wrong_is_one_sentence(endpoint):
    endpoint.reply = lambda prompt: 500
    with pytest.raises(UserError, match=r"gave no answer in 3 tries \(status 500\)"):
        judge(endpoint, tries=3).ask([])
    endpoint.reply = lambda prompt: 401
    with pytest.raises(UserError, match=r"refuses \(status 401\).*--judge-model wise.*OPENAI_API_KEY"):
        judge_answers(judge(endpoint), ["1"], {"x": ["a"]})
    endpoint.reply = lambda prompt: b"<html>hello</html>"
    with pytest.raises(UserError, match="something else than a chat completion"):
        judge(endpoint).ask([])
    with pytest.raises(UserError, match="not a URL"):
        Judge("judge", "wise").ask([])


def test_one_bad_item_does_not_end_a_judgement(endpoint):
    def reply(prompt):
        if part(prompt, "answer") == "long":
            return 400
        return {"content": None} if part(prompt, "answer") == "empty" else grades(8)

    endpoint.reply = reply
    found = judge_answers(judge(endpoint), ["1", "2", "3"], {"x": ["fine", "long", "empty"]})
    assert found["grades"]["x"] == [dict.fromkeys(CRITERIA, 8), None, None]
    assert found["mean"]["x"]["logic"] == 8
    endpoint.reply = lambda prompt: 400
    with pytest.raises(UserError, match="refuses a request"):
        judge_answers(judge(endpoint), ["1"], {"x": ["a"]})


def test_a_silent_server_does_not_hold_us_for_ever(endpoint):
    hold = threading.Event()
    endpoint.reply = lambda prompt: (hold.wait(5), "")[1]
    with pytest.raises(UserError, match="gave no answer in 2 tries"):
        judge(endpoint, timeout=0.1, tries=2).ask([])
    hold.set()


HANGING = """
import socket
from functools import partial
from minimind.eval.endpoint import at_once
from minimind.eval.judge import Judge

silent = socket.create_server(("127.0.0.1", 0))
judge = Judge(f"http://127.0.0.1:{silent.getsockname()[1]}/v1", "wise", timeout=100)
print(next(at_once({number: partial(judge.ask, []) if number else str for number in range(20)})))
"""


def test_a_silent_server_does_not_keep_the_program_from_ending():
    ended = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "(0, '')\n"), ended.stderr


def test_nobody_there():
    with pytest.raises(UserError, match="gave no answer in 2 tries"):
        Judge("http://127.0.0.1:9/v1", "wise", tries=2, pause=0.01).ask([])
