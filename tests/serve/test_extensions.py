"""What other servers have made common: forms of answers, prefixes of answers, choices of tools, small endpoints."""

import json
import re

import pytest

import minimind

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "additionalProperties": False}}}
    for name in ("f", "g")
]
CALL = ("<tool_call>", '\n{"name": "g", "arguments": {}}\n', "</tool_call>")


def told(http, path="/v1/chat/completions", **body):
    body = {"messages": HI, **body} if "chat" in path else {"prompt": "hi", **body}
    answer = http.post(path, json={"max_tokens": 60, "temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return choice["message"]["content"] if "chat" in path else choice["text"]


def refused(http, path="/v1/chat/completions", **body):
    body = {"messages": HI, **body} if "chat" in path else {"prompt": "hi", **body}
    answer = http.post(path, json={"max_tokens": 2, **body})
    assert answer.status_code == 400, answer.text
    return answer.json()["error"]["message"]


FORMS = {
    "json": (SCHEMA, lambda text: json.loads(text)["a"] in (1, 2)),
    "regex": ("[ab]{3}-[0-9]", lambda text: re.fullmatch("[ab]{3}-[0-9]", text)),
    "choice": (['yes "indeed"', "是\n的"], lambda text: text in ('yes "indeed"', "是\n的")),
    "grammar": ('start: "x" ("y" | "z")', lambda text: text in ("xy", "xz")),
}


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_is_held_to_a_form(http, tokenizer, form):
    given, fits = FORMS[form]
    for path in ("/v1/chat/completions", "/v1/completions"):
        assert fits(told(http, path, **{f"guided_{form}": given}))
        assert fits(told(http, path, structured_outputs={form: given}))
    body = {"messages": HI, "structured_outputs": {form: given}, "open_thinking": True, "max_tokens": 100}
    bias = {"logit_bias": {str(tokenizer.control_id("</think>")): 100}}
    thinking = http.post("/v1/chat/completions", json=body | bias).json()["choices"][0]
    assert thinking["finish_reason"] == "stop"
    assert fits(thinking["message"]["content"])


def test_one_form_at_a_time(http):
    assert "one form" in refused(http, guided_regex="a", guided_choice=["b"])
    assert "one form" in refused(http, structured_outputs={})
    assert "structured_outputs" in refused(http, structured_outputs=[1], guided_regex="a")
    assert "grammar" in refused(http, guided_regex="(")
    assert "json" in refused(http, "/v1/completions", guided_json="[")
    assert json.loads(told(http, guided_json=json.dumps(SCHEMA)))["a"] in (1, 2)


def test_json_object_with_a_schema(http):
    assert json.loads(told(http, response_format={"type": "json_object", "schema": SCHEMA}))["a"] in (1, 2)
    assert "schema" in refused(http, response_format={"type": "json_object", "schema": 1})
    assert "schema" in refused(http, response_format={"type": "text", "schema": SCHEMA})


def test_an_answer_is_continued(http, tokenizer):
    turns = [*HI, {"role": "assistant", "content": "Good mor"}]
    body = {"messages": turns, "continue_final_message": True, "add_generation_prompt": False}
    prompt = http.post("/apply-template", json=body).json()["prompt"]
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\nGood mor")
    whole = told(http, messages=turns, continue_final_message=True, max_tokens=8)
    tokens = http.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).json()["usage"]["prompt_tokens"]
    assert tokens == 2
    answer = http.post(
        "/v1/chat/completions", json=body | {"max_tokens": 8, "temperature": 0, "return_token_ids": True}
    )
    ids = answer.json()["prompt_token_ids"]
    assert tokenizer.decode(ids) == prompt
    assert told(http, "/v1/completions", prompt=ids, max_tokens=8) == whole


def test_a_thought_is_continued(actor):
    actor.says(" and so.", "</think>", "\n\nYes.")
    turns = [*HI, {"role": "assistant", "reasoning_content": "Hm"}]
    options = {"model": "minimind", "messages": turns, "extra_body": {"continue_final_message": True}}
    message = actor.chat.completions.create(**options).choices[0].message
    assert (message.reasoning_content, message.content) == (" and so.", "Yes.")


def test_what_cannot_be_continued(http):
    assert "assistant" in refused(http, continue_final_message=True)
    assert "add_generation_prompt" in refused(http, add_generation_prompt=False)


def test_the_other_dialects_continue_the_last_answer(http):
    turns = [*HI, {"role": "assistant", "content": "Good mor"}]
    expected = told(http, messages=turns, continue_final_message=True, max_tokens=6)
    body = {"model": "minimind", "messages": turns, "max_tokens": 6, "temperature": 0}
    assert http.post("/v1/messages", json=body).json()["content"][0]["text"] == expected
    body = {"model": "minimind", "messages": turns, "stream": False, "options": {"num_predict": 6, "temperature": 0}}
    assert http.post("/api/chat", json=body).json()["message"]["content"] == expected


def test_some_tools_are_allowed(actor):
    actor.says(*CALL)

    def choice(*names, mode="auto"):
        tools = [{"type": "function", "function": {"name": name}} for name in names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}

    def ask(**options):
        return actor.chat.completions.create(model="minimind", messages=HI, tools=TOOLS, **options).choices[0]

    assert ask(tool_choice=choice("f", "g")).message.tool_calls[0].function.name == "g"
    assert ask(tool_choice=choice("f")).message.tool_calls is None


def test_an_allowed_tool_may_be_required(http):
    choice = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    body = {"messages": HI, "tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": choice}}
    calls = http.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["g"]
    choice["tools"][0]["function"]["name"] = "h"
    assert "'h'" in refused(http, **body)


def test_biases_by_text(http, tokenizer):
    assert told(http, logit_bias={"哈": 100}, max_tokens=3) == "哈哈哈"
    assert told(http, "/v1/completions", logit_bias={"哈": 100}, max_tokens=2) == "哈哈"


def test_minus_one_means_as_many_as_there_is_room_for(http):
    end = {"logit_bias": {"哈": 100}, "stop": "哈" * 70, "max_tokens": -1}
    assert told(http, **end) == told(http, "/v1/completions", **end) == ""
    assert "max_tokens" in refused(http, max_tokens=-2)
    assert "max_tokens" in refused(http, max_tokens=0)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_usage_in_every_chunk(http, path):
    body = {"messages": HI} if "chat" in path else {"prompt": "hi"}
    body |= {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}, "max_tokens": 4}
    lines = [line for line in http.post(path, json=body).text.splitlines() if line.startswith("data: {")]
    counts = [json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"] for line in lines]
    assert counts == sorted(counts)
    assert counts[-1] == 4


def test_nothing_is_silently_ignored(http):
    assert "tools" in refused(http, functions=[{"name": "f"}])
    assert "tool_choice" in refused(http, function_call="auto")
    assert "stream" in refused(http, stream_options={"include_usage": True})


def test_turns_of_the_assistant_without_content(http):
    for turn in ({"reasoning_content": "Hm"}, {"refusal": "I will not."}):
        assert told(http, messages=[*HI, {"role": "assistant", **turn}, *HI], max_tokens=2) is not None
    said = [*HI, {"role": "assistant", "refusal": "I will not."}, *HI]
    assert "I will not." in http.post("/apply-template", json={"messages": said}).json()["prompt"]


def test_timings(http):
    answer = http.post("/v1/chat/completions", json={"messages": HI, "max_tokens": 5}).json()
    timings = answer["timings"]
    assert timings["predicted_n"] == answer["usage"]["completion_tokens"]
    assert timings["prompt_n"] + timings["cache_n"] == answer["usage"]["prompt_tokens"]
    assert timings["prompt_ms"] > 0 < timings["predicted_per_second"]


def test_small_endpoints(http):
    assert http.get("/version").json() == {"version": minimind.__version__}
    slots = http.get("/slots").json()
    assert [slot["id"] for slot in slots] == list(range(8))
    assert {slot["n_ctx"] for slot in slots} == {512}
    for path in ("/", "/health", "/v1/models", "/api/version", "/version"):
        head = http.head(path)
        assert (head.status_code, head.content) == (200, b"")
    assert http.head("/v1/chat/completions").status_code == 405


def test_a_conversation_without_the_generation_prompt(http):
    body = {"messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": False}
    assert "assistant" not in http.post("/apply-template", json=body).json()["prompt"]
    assert "add_generation_prompt" in refused(http, add_generation_prompt=False)


def test_tokens_with_what_stands_before_a_text(http, tokenizer):
    plain = http.post("/tokenize", json={"content": "a b"}).json()["tokens"]
    assert http.post("/tokenize", json={"content": "a b", "add_special": True}).json()["tokens"] == [1, *plain]
    assert tokenizer.bos_id == 1


def test_usage_is_counted_always_only_where_it_is_counted(http):
    options = {"include_usage": False, "continuous_usage_stats": True}
    for path, asked in (("completions", {"prompt": "a"}), ("chat/completions", {"messages": HI})):
        body = {**asked, "max_tokens": 2, "stream": True, "stream_options": options}
        assert '"usage"' not in http.post(f"/v1/{path}", json=body).text


def test_timings_come_with_the_usage(http):
    body = {"messages": HI, "max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}}
    *_, last, _ = http.post("/v1/chat/completions", json=body).text.strip().split("\n\n")
    last = json.loads(last.removeprefix("data: "))
    assert last["choices"] == []
    assert last["timings"]["predicted_n"] == last["usage"]["completion_tokens"]


def test_logit_bias_in_pairs(http, tokenizer):
    (laugh,) = tokenizer.encode("哈")
    for biases in ([[laugh, 100]], [["哈", 100]], {str(laugh): 100}):
        assert told(http, max_tokens=2, logit_bias=biases) == "哈哈"
    for wrong in ([[laugh]], [laugh, 1], [["a", "b"]], [[laugh, 1]] * 1025):
        assert "logit_bias" in refused(http, logit_bias=wrong)
