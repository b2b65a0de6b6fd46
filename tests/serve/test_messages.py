"""Anthropic's interface, read by Anthropic's own client."""

import pytest

from minimind.serve import errors
from minimind.serve.messages_schema import MessagesRequest
from minimind.serve.schema import ChatRequest

anthropic = pytest.importorskip("anthropic")

TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {}}}
CALL = ("<tool_call>", '\n{"name": "f", "arguments": {"a": 1}}\n', "</tool_call>")
HI = {"model": "minimind", "max_tokens": 60, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def client(actor):
    base = str(actor.base_url).removesuffix("/v1/")
    with anthropic.Anthropic(base_url=base, api_key="none", max_retries=0) as client:
        client.says = actor.says
        yield client


def both(client, **more):
    """The whole answer, and the one that a stream adds up to."""
    with client.messages.stream(**HI | more) as stream:
        events = list(stream)
    return client.messages.create(**HI | more), stream.get_final_message(), events


def test_text(client):
    client.says("Good day.")
    for message in both(client)[:2]:
        assert [block.text for block in message.content] == ["Good day."]
        assert (message.stop_reason, message.role, message.type) == ("end_turn", "assistant", "message")
        assert message.usage.input_tokens > 0
        assert message.usage.output_tokens > 0


def test_thoughts(client):
    client.says("Hm.", "</think>", "\n\nYes.")
    for message in both(client, thinking={"type": "enabled", "budget_tokens": 1024})[:2]:
        assert [(b.type, getattr(b, b.type)) for b in message.content] == [("thinking", "Hm."), ("text", "Yes.")]


def test_calls_and_their_results(client):
    client.says("Wait.", *CALL)
    whole, streamed, _ = both(client, tools=[TOOL])
    for message in (whole, streamed):
        assert message.stop_reason == "tool_use"
        said, call = message.content
        assert (said.text, call.name, call.input) == ("Wait.", "f", {"a": 1})
    client.says("Done.")
    result = {"type": "tool_result", "tool_use_id": whole.content[1].id, "content": [{"type": "text", "text": "2"}]}
    turns = [*HI["messages"], {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
    assert client.messages.create(**HI | {"messages": turns}, tools=[TOOL]).content[0].text == "Done."


def test_strict_tools_are_held_to_their_schemas(tokenizer):
    """As OpenAI's are, which tests/serve/test_openai.py shows."""
    theirs = {"type": "function", "function": {"name": "f", "parameters": TOOL["input_schema"], "strict": True}}
    form = ChatRequest.model_validate({"messages": HI["messages"], "tools": [theirs]}).form(tokenizer)
    request = MessagesRequest.model_validate(HI | {"tools": [TOOL | {"strict": True}]})
    assert request.chat().form(tokenizer) == form is not None
    assert MessagesRequest.model_validate(HI | {"tools": [TOOL]}).chat().form(tokenizer) is None


def test_ends(client):
    client.says("one two three four")
    assert client.messages.create(**HI | {"max_tokens": 2}).stop_reason == "max_tokens"
    stopped = client.messages.create(**HI, stop_sequences=["three"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "three")
    assert stopped.content[0].text == "one two "


def test_tokens_are_counted(client):
    client.says("a")
    plain = {key: HI[key] for key in ("model", "messages")}
    count = client.messages.count_tokens(**plain, system="be kind", tools=[TOOL]).input_tokens
    for _ in range(2):  # the second time from the cache, and then once all the same
        used = client.messages.create(**HI, system="be kind", tools=[TOOL]).usage
        assert used.input_tokens + used.cache_read_input_tokens == count
    assert used.cache_read_input_tokens > 0


def test_what_cannot_be_done_is_refused(client):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    with pytest.raises(anthropic.BadRequestError, match="text only"):
        client.messages.create(**HI | {"messages": [{"role": "user", "content": [image]}]})
    with pytest.raises(anthropic.NotFoundError, match="no model"):
        client.messages.create(**HI | {"model": "claude"})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_errors_have_its_types(status, kind):
    assert errors.anthropic(errors.ApiError(status, "no"))["error"] == {"type": kind, "message": "no"}
