"""OpenAI's newer interface, read by OpenAI's own client, which checks every field."""

import json

import pytest
from openai import BadRequestError
from openai.types.responses import ResponseErrorEvent

from minimind.serve import responses
from minimind.serve.errors import ApiError
from minimind.serve.responses_schema import ResponsesRequest
from minimind.serve.schema import ChatRequest

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}, "strict": False}
CHUNK = {"choices": [{"delta": {"content": "a"}, "logprobs": None, "finish_reason": None}]}
CALL = ("<tool_call>", '\n{"name": "f", "arguments": {"a": 1}}\n', "</tool_call>")


def ask(actor, **more):
    return actor.responses.create(**{"model": "minimind", "input": "hi", "max_output_tokens": 60} | more)


def both(actor, **more):
    """The whole answer, and the one that a stream adds up to."""
    with actor.responses.stream(**{"model": "minimind", "input": "hi", "max_output_tokens": 60} | more) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    return ask(actor, **more), events[-1].response, events


def test_text(actor):
    actor.says("Good day.")
    whole, streamed, events = both(actor)
    assert whole.output_text == streamed.output_text == "Good day."
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == "Good day."
    assert (whole.status, whole.usage.output_tokens) == ("completed", streamed.usage.output_tokens)
    assert whole.usage.input_tokens > 0


def test_log_probabilities_if_included(actor):
    actor.says("Good day.")
    whole, streamed, events = both(actor, include=["message.output_text.logprobs"], top_logprobs=2)
    pieces = [entry for e in events if e.type == "response.output_text.delta" for entry in e.logprobs]
    assert "".join(entry.token for entry in pieces) == "Good day."
    for response in (whole, streamed):
        entries = response.output[0].content[0].logprobs
        assert [entry.token for entry in entries] == [entry.token for entry in pieces]
        assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in entries)
    assert ask(actor, top_logprobs=2).output[0].content[0].logprobs == []


@pytest.mark.parametrize("kind", [{"a": 1}, [], None, 3])
def test_parts_of_no_known_type(http, kind):
    refused = http.post("/v1/responses", json={"input": [{"role": "user", "content": [{"type": kind, "text": "a"}]}]})
    assert refused.status_code == 400


def test_thoughts_are_an_item(actor):
    actor.says("Hm.", "</think>", "\n\nYes.")
    whole, streamed, _ = both(actor, reasoning={"effort": "low"})
    for response in (whole, streamed):
        thought, said = response.output
        assert (thought.type, thought.content[0].text, said.content[0].text) == ("reasoning", "Hm.", "Yes.")
    assert whole.usage.output_tokens_details.reasoning_tokens > 0


def test_calls_and_their_results(actor):
    actor.says("Wait.", *CALL)
    whole, streamed, events = both(actor, tools=[TOOL])
    for response in (whole, streamed):
        said, call = response.output
        assert said.content[0].text == "Wait."
        assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "f", {"a": 1})
    assert [e.type for e in events].count("response.function_call_arguments.done") == 1
    actor.says("Done.")
    items = [{"role": "user", "content": "hi"}, *whole.output]
    items += [{"type": "function_call_output", "call_id": whole.output[1].call_id, "output": "2"}]
    assert ask(actor, input=items, tools=[TOOL]).output_text == "Done."
    only = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "g"}]}
    actor.says(*CALL)
    assert [item.type for item in ask(actor, tools=[TOOL], tool_choice=only).output] == ["message"]


def test_strict_tools_are_held_to_their_schemas(tokenizer):
    """As those of chats are, which tests/serve/test_openai.py shows."""
    theirs = {"type": "function", "function": {"name": "f", "parameters": TOOL["parameters"], "strict": True}}
    form = ChatRequest.model_validate({"messages": [{"role": "user", "content": "hi"}], "tools": [theirs]})
    asked = {"input": "hi", "tools": [TOOL | {"strict": True}]}
    assert ResponsesRequest.model_validate(asked).chat().form(tokenizer) == form.form(tokenizer) is not None
    assert ResponsesRequest.model_validate(asked | {"tools": [TOOL]}).chat().form(tokenizer) is None


def test_an_answer_that_is_cut(actor):
    actor.says("one two three four five six seven")
    whole, streamed, events = both(actor, max_output_tokens=2)
    for response in (whole, streamed):
        assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert events[-1].type == "response.incomplete"
    done = next(event for event in events if event.type == "response.output_item.done")
    assert done.item.status == streamed.output[0].status == "incomplete"


def test_a_failure_in_the_middle_is_the_next_event():
    writer = responses.Writer(ResponsesRequest(input="hi"), "minimind")
    before = [*writer.begin(1), *writer.take(CHUNK)]
    failed = writer.framing.failed(ApiError(504, "too slow", "timeout"))
    assert ResponseErrorEvent.model_validate(failed, strict=True).sequence_number == len(before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tools": [{"type": "web_search"}]},
        {"previous_response_id": "resp_1"},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"reasoning": {"effort": "endless"}},
        {"background": True},
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(actor, wrong):
    actor.says("a")
    with pytest.raises(BadRequestError):
        ask(actor, **wrong)
