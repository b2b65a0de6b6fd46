"""A teacher's answers: what is asked and written, what is left out, and going on after an interruption."""

import json
import threading
import time
from functools import partial

import pytest
import torch
from endpoints import endpoint
from hypothesis import given
from hypothesis import strategies as st
from test_bad_input import refused

from minimind import runtime
from minimind.data.conversations import read_conversation
from minimind.data.prompts import Prompt
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.eval.answers import Count, from_model, from_server, write_answers
from minimind.eval.endpoint import Endpoint, at_once
from minimind.model.store import load_model
from minimind.tokenizer.bpe import Tokenizer

FLOAT32 = torch.float32


@pytest.fixture(name="endpoint")
def _endpoint():
    with endpoint() as one:
        yield one


def asking(text, tools=()):
    return Prompt([{"role": "user", "content": text}], list(tools))


def read(path):
    with path.open(encoding="utf-8") as lines:  # not `splitlines`: a text may hold U+2028
        return [json.loads(line) for line in lines]


def echo(prompts):
    for number in reversed(range(len(prompts))):
        yield number, {"role": "assistant", "content": f"re: {prompts[number].question}"}


def test_every_prompt_is_asked_once_and_its_answer_stands_below_it(tmp_path):
    prompts = [asking(text) for text in ("a", "b", "a", "c", "b")]
    assert write_answers(prompts, echo, tmp_path / "new" / "out.jsonl") == Count(written=3, repeated=2)
    rows = read(tmp_path / "new" / "out.jsonl")
    assert sorted(row["messages"][0]["content"] for row in rows) == ["a", "b", "c"]
    for row in rows:
        assert row["messages"][1] == {"role": "assistant", "content": f"re: {row['messages'][0]['content']}"}
        read_conversation(row)


@given(texts=st.lists(st.text(max_size=3), max_size=12), broken=st.integers(0, 40), stop=st.integers(0, 12))
def test_it_goes_on_where_it_was_interrupted(tmp_path_factory, texts, broken, stop):
    prompts = [asking(text) for text in texts]
    out = tmp_path_factory.mktemp("answers") / "out.jsonl"

    def dying(prompts):
        for done, answer in enumerate(echo(prompts)):
            if done == stop:
                raise UserError("gone")
            yield answer

    try:
        write_answers(prompts, dying, out)
    except UserError:
        out.write_bytes(out.read_bytes()[: len(out.read_bytes()) - broken])  # and the last line is half written
    count = write_answers(prompts, echo, out)
    rows = read(out)
    assert sorted(row["messages"][0]["content"] for row in rows) == sorted(set(texts))
    assert count.written + count.there + count.repeated == len(texts)
    assert write_answers(prompts, dying, out).written == 0, "nobody is asked again"


def test_what_has_no_end_or_says_nothing_is_left_out_and_asked_again(tmp_path):
    said = {"a": None, "b": {"content": ""}, "c": {"content": "", "tool_calls": [{"function": {}}]}}

    def teacher(prompts):
        yield from ((number, said[prompt.question]) for number, prompt in enumerate(prompts))

    assert write_answers([asking(text) for text in said], teacher, tmp_path / "out") == Count(written=1, cut_off=2)
    assert [row["messages"][0]["content"] for row in read(tmp_path / "out")] == ["c"]


def test_another_file_is_not_written_to(tmp_path):
    out = tmp_path / "notes.jsonl"
    out.write_text('{"text": "mine"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"line 1.*another --out"):
        write_answers([asking("a")], echo, out)
    assert out.read_text(encoding="utf-8") == '{"text": "mine"}\n'
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\); choose another --out"):
        write_answers([asking("a")], echo, tmp_path)


def test_only_one_process_writes_to_a_file(tmp_path):
    out = tmp_path / "out.jsonl"

    def teacher(prompts):
        out.write_bytes(b'{"mess')  # as far as the line is written
        with pytest.raises(UserError, match=r"out\.jsonl: another process is writing there; wait"):
            write_answers(prompts, echo, out)
        assert out.read_bytes() == b'{"mess'
        out.write_bytes(b"")
        yield from echo(prompts)

    assert write_answers([asking("a")], teacher, out).written == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_model_answers_as_it_would_alone(tuned):
    model, tokenizer = load_model(tuned / "model"), Tokenizer.load(tuned / "model")
    prompts = [asking("What is 1 + 2?"), asking("一加二是多少？"), asking("x " * 5000)]
    greedy = dict(from_model(model, tokenizer, Sampling(temperature=0, max_new_tokens=8), FLOAT32)(prompts))
    assert set(greedy) == {0, 1, 2}
    assert greedy[2] is None, "it fills the context"
    alone = dict(from_model(model, tokenizer, Sampling(temperature=0, max_new_tokens=8), FLOAT32)(prompts[1:2]))
    assert alone[0] == greedy[1]
    drawn = [
        dict(from_model(model, tokenizer, Sampling(max_new_tokens=8, seed=seed), FLOAT32)(prompts)) for seed in (1, 1)
    ]
    assert drawn[0] == drawn[1]


def test_a_model_that_does_not_end_is_cut_off(tuned):
    model, tokenizer = load_model(tuned / "model"), Tokenizer.load(tuned / "model")
    bias = {tokenizer.encode("a")[0]: 1000.0}
    sampling = Sampling(temperature=0, max_new_tokens=4, logit_bias=bias)
    assert dict(from_model(model, tokenizer, sampling, FLOAT32)([asking("?")])) == {0: None}


def test_a_server_is_asked_in_its_protocol(endpoint, tmp_path):
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    turns = [
        {"role": "user", "content": "1 + 1 and 1 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "2"},
        {"role": "tool", "content": "3"},
    ]
    endpoint.reply = lambda prompt: {"content": "<think>easy</think>2 and 3", "tool_calls": None}
    ask = from_server(Endpoint(endpoint.url, "big", "secret"), temperature=0.5, max_tokens=9)
    assert write_answers([Prompt(turns, [tool])], ask, tmp_path / "out").written == 1
    path, headers, body = endpoint.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("big", 0.5, 9)
    assert body["tools"] == [tool]
    calls = body["messages"][1]["tool_calls"]
    assert json.loads(calls[0]["function"]["arguments"]) == {"a": 1}
    assert [turn["tool_call_id"] for turn in body["messages"][2:]] == [one["id"] for one in calls]
    assert len({one["id"] for one in calls}) == 2
    (row,) = read(tmp_path / "out")
    assert row["messages"][-1] == {"role": "assistant", "content": "2 and 3", "reasoning_content": "easy"}
    assert row["tools"] == [tool]


def test_a_server_is_asked_side_by_side_and_its_long_answers_are_left_out(endpoint, tmp_path):
    together = threading.Barrier(4, timeout=10)

    def reply(prompt):
        together.wait()
        return {"content": prompt, "finish_reason": "length" if prompt == "2" else "stop"}

    endpoint.reply = reply
    ask = from_server(Endpoint(endpoint.url, "big"))
    assert write_answers([asking(str(n)) for n in range(4)], ask, tmp_path / "out") == Count(written=3, cut_off=1)


def test_a_server_that_dies_leaves_what_it_has_said(minimind, endpoint, tmp_path):
    out = tmp_path / "out"

    def reply(prompt):
        while prompt == "b" and not (out.exists() and out.stat().st_size):
            time.sleep(0.01)
        return "one" if prompt == "a" else 401

    endpoint.reply = reply
    data = tmp_path / "prompts.jsonl"
    rows = [{"messages": [{"role": "user", "content": text}]} for text in "ab"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    teacher = ["--teacher", endpoint.url, "--teacher-model", "m"]
    argv = ["data", "answers", "--data", data, *teacher, "--out", out]
    refused(minimind(*argv), 1, "--teacher http", "401", "--teacher-model m")
    assert [row["messages"][1]["content"] for row in read(out)] == ["one"]
    endpoint.reply = lambda prompt: "two"
    ended = minimind(*argv, "--json")
    assert json.loads(ended.out) == {"written": 1, "there": 1, "repeated": 0, "cut_off": 0, "failed": 0}


BAD_ITEMS = {
    "too long for it": 400,
    "bad call": b'{"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": "{bad"}}]}}]}',
    "no choice": b'{"choices": []}',
    "no message": b'{"choices": [{"message": null}]}',
    "content of a kind": b'{"choices": [{"message": {"content": {"a": 1}}}]}',
}
GOOD_ITEMS = {
    "half": (b'{"choices": [{"message": {"content": "half \\ud83d"}}]}', {"content": "half \ufffd"}),
    "bytes": (b'{"choices": [{"message": {"content": "\xc4\xe3"}}]}', {"content": "\ufffd\ufffd"}),
    "thought": (
        b'{"choices": [{"message": {"content": "yes", "reasoning": "so"}}]}',
        {"content": "yes", "reasoning_content": "so"},
    ),
    "call": (
        b'{"choices": [{"message": {"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}}]}',
        {"content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]},
    ),
}


def test_one_bad_item_is_left_out_and_counted(minimind, endpoint, tmp_path):
    replies = BAD_ITEMS | {name: reply for name, (reply, _) in GOOD_ITEMS.items()}
    endpoint.reply = lambda prompt: replies[prompt]
    data, out = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    rows = [{"messages": [{"role": "user", "content": text}]} for text in replies]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    argv = ["data", "answers", "--data", data, "--teacher", endpoint.url, "--teacher-model", "m", "--out", out]
    ended = minimind(*argv)
    assert ended.code == 0, ended.err
    assert f"{len(BAD_ITEMS)} prompts left out, as they failed; the first: " in ended.err
    said = {row["messages"][0]["content"]: row["messages"][1] for row in read(out)}
    assert said == {name: {"role": "assistant", **message} for name, (_, message) in GOOD_ITEMS.items()}
    again = json.loads(minimind(*argv, "--json").out)
    assert again == {"written": 0, "there": 4, "repeated": 0, "cut_off": 0, "failed": len(BAD_ITEMS)}


@pytest.mark.parametrize("reply", BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_a_run_in_which_everything_fails_fails(endpoint, tmp_path, reply):
    endpoint.reply = lambda prompt: reply
    ask = from_server(Endpoint(endpoint.url, "big", tries=1))
    with pytest.raises(UserError):
        write_answers([asking(str(n)) for n in range(3)], ask, tmp_path / "out")
    with pytest.raises(UserError):
        write_answers([asking(str(n)) for n in range(1000)], ask, tmp_path / "out")
    assert len(endpoint.requests) < 200, "it is noticed early"


def test_requests_come_back_in_the_order_in_which_they_end(monkeypatch):
    monkeypatch.setattr("minimind.eval.endpoint.PARALLEL", 1)
    ended = []
    found = [key for key, _ in at_once({number: partial(ended.append, number) for number in range(500)})]
    assert found == ended == list(range(500))


def test_a_server_that_goes_away_ends_the_run(endpoint, tmp_path):
    endpoint.reply = lambda prompt: "fine" if int(prompt) < 3 else 500
    ask = from_server(Endpoint(endpoint.url, "big", tries=1))
    with pytest.raises(UserError, match="gave no answer"):
        write_answers([asking(str(n)) for n in range(1000)], ask, tmp_path / "out")
    assert len(read(tmp_path / "out")) == 3
    assert len(endpoint.requests) < 100


def test_the_command_with_a_directory(minimind, tuned, tmp_path, world, monkeypatch):
    monkeypatch.setattr(runtime, "compute_dtype", lambda device: FLOAT32)
    argv = ["data", "answers", "--data", world / "few_rl.jsonl", "--teacher", tuned / "model", "--out", tmp_path / "o"]
    ended = minimind(*argv, "--max-new-tokens", "6", "--device", "cpu", "--json")
    assert ended.code == 0, ended.err
    count = json.loads(ended.out)
    assert count["written"] + count["cut_off"] + count["repeated"] == len(read(world / "few_rl.jsonl"))
    refused(minimind(*argv, "--max-new-tokens", "0"), 2, "--max-new-tokens")
    refused(minimind(*argv[:-4], "--teacher", tmp_path / "nowhere", "--out", tmp_path / "p"), 1, "nowhere")
    assert not (tmp_path / "p").exists()
    refused(minimind(*argv, "--teacher", "http://127.0.0.1:9/v1"), 2, "--teacher-model NAME")
