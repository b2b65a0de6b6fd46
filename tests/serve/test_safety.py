"""What a server refuses, what it survives, and what it never does."""

import copy
import json
import re
import socket
import threading
import time

import httpx
import pytest
from conftest import serving, wait_until

from minimind.engine.background import EngineThread
from minimind.engine.engine import Engine
from minimind.serve.server import is_loopback

HI = {"model": "minimind", "messages": [{"role": "user", "content": "hi"}]}
LONG = HI | {"max_tokens": 400, "temperature": 0, "ignore_eos": True}


def post(http, path="/v1/chat/completions", **changes):
    return http.post(path, json=HI | changes)


def assert_is_error(response, status, code=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) >= {"message", "type", "param", "code"}
    assert code in (None, error["code"])
    return error


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"temperature": "1"}, "temperature"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": -1}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 99}, "n"),
        ({"n": 1.5}, "n"),
        ({"n": True}, "n"),
        ({"seed": 2**70}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": 3}, "stop"),
        ({"logit_bias": {"": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"logit_bias": {"9999999": 1}}, None),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, None),
        ({"stream": "yes"}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "bot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}, None),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, None),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, None),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}}, None),
    ],
    ids=str,
)
def test_mistakes_are_named(http, changes, param):
    error = assert_is_error(post(http, **changes), 400)
    assert error["type"] == "invalid_request_error"
    if param:
        assert error["param"] == param


def test_unknown_fields_and_nulls_are_no_mistakes(http):
    nulls = dict.fromkeys(("temperature", "top_p", "n", "stop", "tools", "tool_choice", "seed", "logit_bias", "stream"))
    assert post(http, **nulls, max_tokens=1, user="me", metadata={"a": 1}, whatever=[]).status_code == 200


def test_every_kind_of_error_has_the_same_body(http):
    assert_is_error(http.get("/nowhere"), 404)
    assert_is_error(http.get("/v1/models/other"), 404, "model_not_found")
    wrong = http.get("/v1/chat/completions")
    assert_is_error(wrong, 405)
    assert "POST" in wrong.headers["allow"]
    assert_is_error(http.post("/v1/chat/completions", content="model=x", headers={"content-type": "text/plain"}), 415)
    assert http.post("/v1/chat/completions", content=json.dumps(HI)).status_code == 200, "a program that says nothing"
    assert_is_error(
        http.post("/v1/chat/completions", content=json.dumps(HI), headers={"origin": str(http.base_url)}), 415
    )
    form = {"Content-Type": "text/plain"}
    assert_is_error(http.post("/v1/chat/completions", content=json.dumps(HI), headers=form), 415)
    kind = {"Content-Type": "application/json"}
    assert_is_error(http.post("/v1/chat/completions", content="{", headers=kind), 400, "invalid_json")
    assert_is_error(http.post("/v1/chat/completions", content=b"\xff\xfe{", headers=kind), 400)
    assert_is_error(http.post("/v1/chat/completions", content="[" * 100_000, headers=kind), 400)
    assert_is_error(http.post("/v1/chat/completions", content='{"a":' + "9" * 5000 + "}", headers=kind), 400)
    odd = '{"model": "\\ud800", "messages": [{"role": "user", "content": "\\ud800"}]}'
    assert_is_error(http.post("/v1/chat/completions", content=odd, headers=kind), 404)
    odd = odd.replace('"model": "\\ud800"', '"max_tokens": 1')
    assert http.post("/v1/chat/completions", content=odd, headers=kind).status_code == 200


def test_unprefixed_names(http):
    assert http.get("/models").json() == http.get("/v1/models").json()
    assert http.get("/models/minimind").json()["id"] == "minimind"
    assert http.post("/chat/completions", json=HI | {"max_tokens": 1}).json()["object"] == "chat.completion"
    assert http.post("/completions", json={"prompt": "a", "max_tokens": 1}).json()["object"] == "text_completion"


def test_health_metrics_props_and_tokens(http):
    assert http.get("/health").json() == {"status": "ok"}

    def generated():
        return float(re.search(r"^minimind_generated_tokens_total (\S+)", http.get("/metrics").text, re.MULTILINE)[1])

    before = generated()
    post(http, max_tokens=5)
    assert generated() == before + 5
    assert 'minimind_requests_total{path="/v1/chat/completions",status="200"}' in http.get("/metrics").text
    props = http.get("/props").json()
    assert (props["model"], props["n_ctx"]) == ("minimind", 512)
    assert [tool["function"]["name"] for tool in props["tools"]] == ["calculate_math", "text_length"]
    text = "Hello, 世界 <think>"
    told = http.post("/tokenize", json={"content": text}).json()
    assert told["count"] == len(told["tokens"])
    assert http.post("/tokenize", json={"prompt": text}).json() == told
    assert http.post("/detokenize", json={"tokens": told["tokens"]}).json()["content"] == text
    pieces = http.post("/tokenize", json={"content": text, "with_pieces": True}).json()["tokens"]
    assert [piece["id"] for piece in pieces] == told["tokens"]
    assert_is_error(http.post("/detokenize", json={"tokens": [10**6]}), 400)
    assert_is_error(http.post("/tokenize", json={}), 400)


def test_tools_run_only_where_allowed(http):
    ran = http.post("/tools/calculate_math", json={"arguments": '{"expression": "12 * 3"}'})
    assert ran.json() == {"result": '{"result": "36"}'}
    fault = http.post("/tools/calculate_math", json={"arguments": {"expression": "1 / 0"}})
    assert "error" in json.loads(fault.json()["result"])
    assert_is_error(http.post("/tools/random_number", json={"arguments": {}}), 404)
    assert_is_error(http.post("/tools/eval", json={"arguments": {}}), 404)


def test_only_our_own_names_are_answered(http, url):
    port = url.rpartition(":")[2]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}", "LOCALHOST", f"192.168.1.5:{port}"):
        assert http.get("/health", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", f"evil.example:{port}", f"localhost.evil.example:{port}", "127.0.0.1.evil.example"):
        for path in ("/health", "/", "/v1/models"):
            assert_is_error(http.get(path, headers={"Host": host}), 403, "host_not_allowed")


def test_pages_of_other_sites_cannot_call(http, url):
    assert_is_error(http.get("/v1/models", headers={"Origin": "https://evil.example"}), 403, "origin_not_allowed")
    assert_is_error(http.get("/v1/models", headers={"Origin": "null"}), 403)
    assert http.get("/v1/models", headers={"Origin": url}).status_code == 200
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in http.options("/v1/chat/completions", headers=asked).headers


def test_the_pages_that_are_allowed_can(model, tokenizer):
    origin = {"Origin": "https://chat.example.org"}
    settings = {"cors_origins": ("https://chat.example.org",), "allowed_hosts": ("mybox.lan",)}
    with serving(model, tokenizer, **settings) as (url, _):
        asked = {**origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        asked = httpx.options(f"{url}/v1/chat/completions", headers=asked)
        assert asked.headers["access-control-allow-origin"] == "https://chat.example.org"
        got = httpx.post(f"{url}/v1/chat/completions", json=HI | {"max_tokens": 1}, headers=origin)
        assert got.status_code == 200
        assert got.headers["access-control-allow-origin"] == "https://chat.example.org"
        assert httpx.get(f"{url}/health", headers={"Host": "mybox.lan:80"}).status_code == 200


def test_an_api_key_is_asked_for(model, tokenizer):
    with serving(model, tokenizer, api_key="sécret") as (url, _):

        def status(path, key=None):
            headers = {} if key is None else {"Authorization": key.encode()}
            return httpx.get(url + path, headers=headers).status_code

        for path in ("/v1/models", "/models", "/props", "/metrics", "/nowhere"):
            assert status(path) == status(path, "Bearer wrong") == status(path, "sécret") == 401
            assert status(path, "Bearer sécret") in (200, 404)
        assert [status(path) for path in ("/health", "/", "/page/main.js", "/docs")] == [200] * 4
        refused = httpx.post(f"{url}/v1/chat/completions", json=HI)
        assert assert_is_error(refused, 401, "invalid_api_key")["type"] == "authentication_error"
        assert refused.headers["www-authenticate"] == "Bearer"


def test_bodies_are_limited(model, tokenizer):
    with serving(model, tokenizer, max_bytes=2000, max_messages=3, max_tokens=4) as (url, _):
        chat = f"{url}/v1/chat/completions"
        large = HI | {"messages": [{"role": "user", "content": "a" * 3000}]}
        assert_is_error(httpx.post(chat, json=large), 413)
        pieces = (part for part in [json.dumps(large).encode()[i : i + 500] for i in range(0, 3100, 500)])
        unannounced = httpx.post(chat, content=pieces, headers={"Content-Type": "application/json"})
        assert_is_error(unannounced, 413)
        many = HI | {"messages": HI["messages"] * 4}
        assert_is_error(httpx.post(chat, json=many), 400, "too_many_messages")
        answer = httpx.post(chat, json=HI | {"max_tokens": 50}).json()
        assert answer["usage"]["completion_tokens"] == 4
        assert httpx.post(chat, json=HI | {"messages": [{"role": "user", "content": "a" * 1500}]}).status_code == 400


class Slow(Engine):
    """Twenty steps a second."""

    def step(self):
        time.sleep(0.05)
        return super().step()


def test_a_full_server_says_when_to_come_back(model, tokenizer):
    with serving(model, tokenizer, Slow, max_open=2) as (url, service), httpx.Client(base_url=url) as http:
        with http.stream("POST", "/v1/chat/completions", json=LONG | {"stream": True}) as first:
            lines = first.iter_lines()  # kept: a closed iterator closes the connection
            next(lines)
            refused = http.post("/v1/chat/completions", json=HI | {"n": 2, "stream": True})
            assert_is_error(refused, 429, "queue_full")
            assert refused.headers["retry-after"] == "1"
        wait_until(lambda: service._open == 0)
        assert http.post("/v1/chat/completions", json=HI | {"max_tokens": 1}).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_slot(model, tokenizer, stream):
    with serving(model, tokenizer, Slow) as (url, service):
        engine = service.engine.engine
        port = int(url.rpartition(":")[2])
        body = json.dumps(LONG | {"stream": stream}).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until(lambda: engine.has_work)
            time.sleep(0.1)
            assert engine.has_work
        wait_until(lambda: not engine.has_work, 5)  # the answer would take four times as long
        wait_until(lambda: service._open == 0)


def test_a_request_has_a_time_limit(model, tokenizer):
    with serving(model, tokenizer, Slow, seconds=0.3) as (url, service):
        chat = f"{url}/v1/chat/completions"
        assert_is_error(httpx.post(chat, json=LONG), 504, "timeout")
        events = httpx.post(chat, json=LONG | {"stream": True}).text.strip().split("\n\n")
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "timeout"
        wait_until(lambda: not service.engine.engine.has_work)


def test_while_the_model_is_loaded(model, tokenizer):
    with serving(None, tokenizer) as (url, service):
        for response in (httpx.get(f"{url}/health"), httpx.post(f"{url}/v1/chat/completions", json=HI)):
            assert_is_error(response, 503, "loading")
            assert response.headers["retry-after"]
        assert httpx.get(f"{url}/").status_code == 200
        service.attach(EngineThread(Engine(model, tokenizer, max_batch_size=2, context=64)))
        assert httpx.get(f"{url}/health").status_code == 200


def test_the_end_of_a_server_is_told_to_its_streams(model, tokenizer):
    with serving(model, tokenizer, Slow) as (url, service):
        lines = []
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=LONG | {"stream": True}) as stream:
            for line in stream.iter_lines():
                lines.append(line)
                if len(lines) == 3:  # the role, a blank line, the first token: the engine is at work
                    threading.Thread(target=service.close).start()
        told = [line for line in lines if line]
        assert json.loads(told[-1].removeprefix("data: "))["error"]["code"] == "aborted"
        assert_is_error(httpx.post(f"{url}/v1/chat/completions", json=HI), 503, "shutting_down")


def test_a_bug_is_a_500_without_its_secrets(model, tokenizer, caplog):
    class Broken(Engine):
        def step(self):
            raise RuntimeError("the secret")

    with serving(model, tokenizer, Broken) as (url, _):
        error = assert_is_error(httpx.post(f"{url}/v1/chat/completions", json=HI), 500)
        assert "secret" not in error["message"]
        stream = httpx.post(f"{url}/v1/chat/completions", json=HI | {"stream": True})
        assert (
            json.loads(stream.text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]["code"]
            == "internal_error"
        )
    assert "the secret" in caplog.text


def test_nothing_but_the_page_is_read_from_disk(http):
    for path in (
        "/page/../schema.py",
        "/page/..%2fschema.py",
        "/page/%2e%2e/schema.py",
        "/page//etc/passwd",
        "/page/x.js",
    ):
        assert http.get(path).status_code == 404, path
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


def test_the_page_needs_nothing_from_elsewhere(http):
    for name in ("index.html", "docs.html", "style.css", "answer.css", "main.js", "markdown.js", "view.js", "glass.js"):
        text = http.get(f"/page/{name}").text
        for foreign in ("http://", "https://", "//cdn", "@import"):
            assert foreign not in text.replace("http://www.w3.org/2000/svg", ""), (name, foreign)


def test_rollouts_are_answered_only_if_asked_for(http):
    for path in ("/generate", "/update_weights_from_disk", "/flush_cache", "/pause_generation", "/abort_request"):
        assert_is_error(http.post(path, json={}), 404)


def test_loopback():
    assert all(map(is_loopback, ("127.0.0.1", "127.1.2.3", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "example.org", "127.0.0.1.evil.example")))


def nulled(value, path=()):
    """Every object in a JSON value, by its path, with each of its fields in turn set to null."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, key), lambda copy, path=path, key=key: at(copy, path).__setitem__(key, None)
            yield from nulled(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from nulled(inner, (*path, index))


def at(value, path):
    for part in path:
        value = value[part]
    return value


def test_null_is_what_is_left_out_in_every_body(http):
    """For each field: null is answered exactly as its absence is."""
    tool = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    chat = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": "a", "reasoning_content": "b", "reasoning": "b", "tool_calls": [call]},
            {"role": "tool", "content": "c", "tool_call_id": "1"},
        ],
        **{"tools": [tool], "max_tokens": 2, "temperature": 0, "seed": 1, "stop": "x", "n": 1, "logit_bias": {"5": 1}},
        **{"response_format": {"type": "text"}, "chat_template_kwargs": {"enable_thinking": False}, "top_k": 4},
        **{"structured_outputs": {"regex": "a+"}, "presence_penalty": 0.5, "model": "minimind"},
    }
    bodies = {
        "/v1/chat/completions": chat,
        "/v1/completions": {"prompt": "a", "max_tokens": 2, "temperature": 0, "logprobs": 1},
        "/tokenize": {"content": "a", "add_generation_prompt": True, "with_pieces": True},
    }
    for path, body in bodies.items():
        assert http.post(path, json=body).status_code == 200
        for where, change in nulled(body):
            if where[0] == "logit_bias" and len(where) > 1:
                continue  # a table of numbers, no fields
            null, absent = copy.deepcopy(body), copy.deepcopy(body)
            change(null)
            del at(absent, where[:-1])[where[-1]]
            answers = [http.post(path, json=one) for one in (null, absent)]
            assert answers[0].status_code == answers[1].status_code < 500, (where, answers[0].text)


def test_an_assistant_that_only_reasoned_and_a_bare_tool_are_known(http):
    body = {
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "reasoning": "well"},
            {"role": "user", "content": "And?"},
        ],
        "max_tokens": 1,
    }
    assert http.post("/v1/chat/completions", json=body).status_code == 200
    wrapped = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    counts = {
        http.post("/tokenize", json={"messages": body["messages"], "tools": [tool]}).json()["count"]
        for tool in (wrapped, wrapped["function"])
    }
    assert len(counts) == 1
