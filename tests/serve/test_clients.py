"""The requests that well-known programs send, in the shapes that they send them, and what they read of the answers."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import Scripted, script, serving

ROOT = Path(__file__).parents[2]
KIND = {"Content-Type": "application/json", "Authorization": "Bearer sk-anything"}


def events(response):
    assert response.status_code == 200, response.text
    *found, end = response.text.strip().split("\n\n")
    assert end == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in found]


def test_open_webui(http):
    """Connection check, model list, a streamed chat, and the title that it asks for afterwards."""
    models = http.get("/v1/models", headers=KIND).json()
    assert [model["id"] for model in models["data"]] == ["minimind"]
    chat = {
        "stream": True,
        "model": "minimind",
        "messages": [
            {"role": "system", "content": "You are kind.\n"},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "Hi.", "reasoning_content": "Greet."},
            {"role": "user", "content": [{"type": "text", "text": "and again"}]},
        ],
        "temperature": 0.8,
        "top_p": 0.9,
        "max_tokens": 6,
        "frequency_penalty": 0.1,
        "stop": ["<end>"],
        "seed": 7,
        "stream_options": {"include_usage": True},
        "logit_bias": {},
        "params": {},
        "metadata": {"chat_id": "local"},
        "features": {"web_search": False},
    }
    chunks = events(http.post("/v1/chat/completions", json=chat, headers=KIND))
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-1]["usage"]["completion_tokens"] == 6
    title = {
        "model": "minimind",
        "messages": [{"role": "user", "content": "### Task:\nGenerate a title as JSON"}],
        "stream": False,
        "max_completion_tokens": 5,
    }
    told = http.post("/v1/chat/completions", json=title, headers=KIND).json()
    assert isinstance(told["choices"][0]["message"]["content"], str)


def test_open_webui_with_tools(http):
    chat = {
        "stream": True,
        "model": "minimind",
        "messages": [
            {"role": "user", "content": "12 * 3?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "index": 0,
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "calculate", "arguments": '{"expression": "12 * 3"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "36"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "calculate",
                    "description": "Calculates",
                    "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}},
                },
            }
        ],
        "max_tokens": 4,
    }
    assert events(http.post("/v1/chat/completions", json=chat, headers=KIND))[-1]["choices"][0]["finish_reason"]


def test_fastgpt(http):
    """Base URL with and without /v1; nulls, empty lists and fields of its own; a test request with one word."""
    body = {
        "model": "minimind",
        "temperature": 0.01,
        "max_tokens": 8,
        "stream": True,
        "messages": [{"role": "user", "content": "hi"}],
        "tools": None,
        "tool_choice": None,
        "stop": None,
        "response_format": None,
        "stream_options": {"include_usage": True},
        "detail": False,
        "chatId": None,
    }
    for path in ("/v1/chat/completions", "/chat/completions"):
        assert events(http.post(path, json=body, headers=KIND))[-1]["usage"]["prompt_tokens"] > 0
    with_picture = {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]}
    refused = http.post("/v1/chat/completions", json=body | with_picture, headers=KIND)
    assert refused.status_code == 400
    assert "image_url" in refused.json()["error"]["message"]


@pytest.mark.parametrize("mode", ["chat", "completion"])
def test_dify(http, mode):
    """Validation of the credentials (a short request that is not streamed), then an answer in a stream."""
    if mode == "chat":
        path, prompt = "/v1/chat/completions", {"messages": [{"role": "user", "content": "ping"}]}
    else:
        path, prompt = "/v1/completions", {"prompt": "ping"}
    check = http.post(path, json={"model": "minimind", "max_tokens": 5, **prompt}, headers=KIND).json()
    assert check["object"] == ("chat.completion" if mode == "chat" else "text_completion")
    assert check["usage"]["total_tokens"]
    body = {
        "model": "minimind",
        "stream": True,
        "user": "abc-123",
        "temperature": 0.7,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "max_tokens": 5,
        "stream_options": {"include_usage": True},
        **prompt,
    }
    chunks = events(http.post(path, json=body, headers=KIND | {"Accept": "text/event-stream"}))
    assert chunks[-2]["choices"][0]["finish_reason"] in ("stop", "length")
    assert chunks[-1]["choices"] == []


def test_lm_eval_generation(http):
    """`lm_eval --model local-chat-completions`."""
    body = {
        "messages": [{"role": "user", "content": "Question"}],
        "model": "minimind",
        "max_tokens": 4,
        "temperature": 0,
        "stop": ["\n\n"],
        "seed": 1234,
    }
    assert http.post("/v1/chat/completions", json=body, headers=KIND).status_code == 200


def test_the_example(url):
    example = ROOT / "examples" / "openai_client.py"
    command = [sys.executable, str(example), "--base-url", f"{url}/v1"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=os.environ | {"PYTHONUTF8": "1"})
    assert done.returncode == 0, done.stderr
    shown = re.split(r"^--- (\w+)$", done.stdout, flags=re.MULTILINE)
    parts = dict(zip(shown[1::2], shown[2::2], strict=True))
    assert list(parts) == ["chat", "stream", "think", "use_tools", "look_inside", "answer_in_json"]
    assert all(part.strip() for part in parts.values())
    assert set(ast.literal_eval(parts["answer_in_json"].strip())) == {"city", "sunny"}


# The examples of docs/en/programs.md, where their library is installed.

EXAMPLES = re.findall(r"```py\n(.*?)```", (ROOT / "docs/en/programs.md").read_text(encoding="utf-8"), re.DOTALL)
SUM = '\n{"name": "%s", "arguments": {%s}}\n'
CALL = ("<tool_call>", SUM % ("add", '"a": 12, "b": 34'), "</tool_call>")
TOLD = {
    "litellm": ([("It is 46.",)], "It is 46."),
    "langchain_openai": ([CALL], "{'a': 12, 'b': 34}"),
    "agents": ([CALL, ("It is 46.",)], "It is 46."),
    "pydantic_ai": ([CALL, ("It is 46.",)], "It is 46."),
    "llama_index.core": ([CALL], "46"),
    "instructor": ([('{"a": 12, "b": 34}',)], "a=12 b=34"),
    "smolagents": ([CALL, ("<tool_call>", SUM % ("final_answer", '"answer": "46"'), "</tool_call>")], "46"),
}


def library(example):
    return re.match(r"(?:from|import) (\w+(?:\.core)?)", example)[1]


def test_every_example_is_known():
    assert set(map(library, EXAMPLES)) == set(TOLD)


@pytest.mark.parametrize("example", EXAMPLES, ids=library)
def test_the_examples_of_the_page(model, tokenizer, example, tmp_path):
    pytest.importorskip(library(example))
    answers, printed = TOLD[library(example)]

    class Actor(Scripted):
        scripts: ClassVar[list[list[int]]] = [script(tokenizer, *answer) for answer in answers]

    with serving(model, tokenizer, Actor, context=4096) as (url, _):
        (tmp_path / "example.py").write_text(example.replace("http://127.0.0.1:8000", url), encoding="utf-8")
        command = [sys.executable, str(tmp_path / "example.py")]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", env=os.environ | {"PYTHONUTF8": "1"})
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip().splitlines()[-1] == printed
