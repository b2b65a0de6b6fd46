"""ollama's interface, read by ollama's own client."""

import json
from datetime import UTC, datetime

import pytest

ollama = pytest.importorskip("ollama", reason="its client is needed: pip install 'minimind[dev]'")

HI = [{"role": "user", "content": "hi"}]
CALL = ("<tool_call>", '\n{"name": "f", "arguments": {"a": [1, "二"]}}\n', "</tool_call>")
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


@pytest.fixture
def client(actor):
    with ollama.Client(host=str(actor.base_url).removesuffix("/v1/")) as client:
        client.says = actor.says
        yield client


def both(client, **options):
    """A whole answer, and the one that a stream adds up to."""
    whole = client.chat(model="minimind", messages=options.pop("messages", HI), **options)
    lines = list(client.chat(model="minimind:latest", messages=HI, stream=True, **options))
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    assert not lines[-1].message.content
    calls = [call for line in lines for call in line.message.tool_calls or []]
    text, thought = ("".join(getattr(line.message, name) or "" for line in lines) for name in ("content", "thinking"))
    return whole, lines[-1], (text, thought, calls)


def test_a_chat(client):
    client.says("Good day, 世界.")
    whole, last, (text, thought, calls) = both(client)
    assert whole.message.content == text == "Good day, 世界."
    assert (thought, calls, whole.message.thinking, whole.message.tool_calls) == ("", [], None, None)
    for end in (whole, last):
        assert (end.done, end.done_reason) == (True, "stop")
        assert end.prompt_eval_count > 0 < end.eval_count
        assert end.total_duration >= end.prompt_eval_duration + end.eval_duration > 0
        assert abs((datetime.fromisoformat(end.created_at) - datetime.now(UTC)).total_seconds()) < 60


@pytest.mark.parametrize("think", [True, "high"])
def test_thoughts(client, think):
    client.says("Hm.", "</think>", "\n\nYes.")
    whole, _, streamed = both(client, think=think)
    assert (whole.message.thinking, whole.message.content) == ("Hm.", "Yes.")
    assert streamed == ("Yes.", "Hm.", [])
    with pytest.raises(ollama.ResponseError, match="reasoning_effort"):
        client.chat(model="minimind", messages=HI, think="enormous")


def test_tools(client):
    client.says("Wait.", *CALL)
    whole, _, (text, _, calls) = both(client, tools=[TOOL])
    for said, made in ((whole.message.content, whole.message.tool_calls), (text, calls)):
        assert said == "Wait."
        assert [(call.function.name, call.function.arguments) for call in made] == [("f", {"a": [1, "二"]})]
    client.says("Done.")
    turns = [*HI, whole.message, {"role": "tool", "tool_name": "f", "content": "2"}]
    assert client.chat(model="minimind", messages=turns, tools=[TOOL]).message.content == "Done."

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    client.says("Done.")
    assert client.chat(model="minimind", messages=HI, tools=[add]).message.content == "Done."


def test_options(client):
    client.says("one two three four")
    short = client.chat(model="minimind", messages=HI, options={"num_predict": 2, "num_ctx": 4096, "num_gpu": 1})
    assert (short.done_reason, short.eval_count) == ("length", 2)
    stopped = client.chat(model="minimind", messages=HI, options={"stop": ["three"], "num_predict": -1})
    assert (stopped.message.content, stopped.done_reason) == ("one two ", "stop")
    with pytest.raises(ollama.ResponseError, match="mirostat"):
        client.chat(model="minimind", messages=HI, options={"mirostat": 2})


def test_seed_minus_one_is_none(url):
    client = ollama.Client(host=url)
    rules = {"temperature": 2.0, "num_predict": 8}
    drawn = [
        {
            client.generate(model="minimind", prompt="a", raw=True, options=rules | {"seed": seed}).response
            for _ in range(6)
        }
        for seed in (-1, 5)
    ]
    assert [len(texts) > 1 for texts in drawn] == [True, False]


def test_the_form_of_an_answer(url):
    client = ollama.Client(host=url)
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    told = client.chat(model="minimind", messages=HI, format=schema | {"additionalProperties": False})
    assert set(json.loads(told.message.content)) == {"a"}
    refused = client._client.post("/api/chat", json={"model": "minimind", "messages": HI, "format": "xml"})
    assert (refused.status_code, list(refused.json())) == (400, ["error"])


def test_logprobs(client):
    client.says("one two")
    whole = client.chat(model="minimind", messages=HI, logprobs=True, top_logprobs=2)
    assert "".join(token.token for token in whole.logprobs) == "one two"
    assert {len(token.top_logprobs) for token in whole.logprobs} == {2}


def test_generate(client):
    client.says("Good day.")
    assert client.generate(model="minimind", prompt="hi", system="Be kind.").response == "Good day."
    lines = list(client.generate(model="minimind", prompt="hi", stream=True))
    assert "".join(line.response for line in lines) == "Good day."
    asked = client.generate(model="minimind", prompt="hi").prompt_eval_count
    raw = client.generate(model="minimind", prompt="hi", raw=True, options={"num_predict": 3})
    assert raw.response.startswith("Good")
    assert raw.prompt_eval_count < asked
    assert raw.done_reason == "length"
    for more in ({"suffix": "x"}, {"template": "x"}, {"context": [1]}, {"images": ["aGk="]}):
        with pytest.raises(ollama.ResponseError, match=next(iter(more))):
            client.generate(model="minimind", prompt="hi", **more)


def test_what_clients_ask_first(client):
    """ollama's own, and what Open WebUI asks: the version, the models, those that are loaded, and each in detail."""
    assert client._client.head("/").status_code == 200
    assert client._client.head("/").content == b""
    assert client._client.get("/api/version").json()["version"].count(".") == 2
    (listed,) = client.list().models
    assert (listed.model, listed.details.family, len(listed.digest)) == ("minimind:latest", "qwen3", 64)
    assert listed.size > 10**5
    shown = client.show("minimind")
    assert shown.modelinfo["general.architecture"] == "qwen3"
    assert shown.modelinfo["qwen3.context_length"] == 512
    assert set(shown.capabilities) >= {"completion", "tools", "thinking"}
    assert client.ps().models[0].model == "minimind:latest"
    loaded = client.chat(model="minimind", messages=[], keep_alive=-1)
    assert (loaded.done, loaded.done_reason) == (True, "load")
    assert client.generate(model="minimind").done_reason == "load"


def test_mistakes(client):
    with pytest.raises(ollama.ResponseError, match="no model") as refused:
        client.chat(model="llama3", messages=HI)
    assert refused.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="no images") as refused:
        client.chat(model="minimind", messages=[{"role": "user", "content": "hi", "images": ["aGk="]}])
    assert refused.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="messages"):
        client.chat(model="minimind", messages=[{"role": "pirate", "content": "hi"}])
