"""Requests that are meant to hold the server: each is refused or waits alone, and everybody else is answered."""

import gc
import json
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from conftest import serving
from linear import assert_linear

from minimind import tools
from minimind.engine import grammar, grammar_compile
from minimind.engine.background import EngineThread
from minimind.engine.engine import Engine
from minimind.engine.sampling import Sampling
from minimind.serve import bodies, grammars, guard, schema, server
from minimind.serve.errors import ApiError
from minimind.serve.messages_schema import MessagesRequest
from minimind.serve.service import Service
from minimind.serve.settings import Settings

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HI = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}


def chat(http, **more):
    return http.post("/v1/chat/completions", json=HI | more)


def json_form(form):
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": form}}}


# Bodies


WRONG = {
    "ids that end in a text": (schema.CompletionRequest, lambda n: {"prompt": [1] * n + ["a"]}),
    "texts that end in a number": (schema.CompletionRequest, lambda n: {"prompt": ["a"] * n + [1]}),
    "lists of anything": (schema.CompletionRequest, lambda n: {"prompt": [[{}]] * n}),
    "prompts of objects": (schema.CompletionRequest, lambda n: {"prompt": [{}] * n}),
    "empty messages": (schema.ChatRequest, lambda n: {"messages": [{}] * n}),
    "empty parts": (schema.ChatRequest, lambda n: {"messages": [{"role": "user", "content": [{}] * n}]}),
    "empty calls": (schema.ChatRequest, lambda n: {"messages": [{"role": "assistant", "tool_calls": [{}] * n}]}),
    "empty tools": (schema.ChatRequest, lambda n: HI | {"tools": [{}] * n}),
    "numbers to stop at": (schema.ChatRequest, lambda n: HI | {"stop": [1] * n}),
    "tokens to stop at": (schema.ChatRequest, lambda n: HI | {"stop_token_ids": ["a"] * n}),
    "biases": (schema.ChatRequest, lambda n: HI | {"logit_bias": {str(i): "a" for i in range(n)}}),
    "tokens": (schema.DetokenizeRequest, lambda n: {"tokens": ["a"] * n}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_million_mistakes_are_one(name):
    kind, make = WRONG[name]
    data = {n: json.dumps(make(100_000 * n)).encode() for n in (1, 4)}

    def refused(n):
        with pytest.raises(ApiError) as refusal:
            bodies.parse(kind, data[n])
        assert len(str(refusal.value)) < 1000

    assert_linear(refused)
    start = time.process_time()
    refused(1)
    assert time.process_time() - start < 2  # it was 8 and more


def test_a_turn_of_many_blocks():
    def read(n):
        results = [{"type": "tool_result", "content": f"a{i}"} for i in range(500 * n)]
        texts = [{"type": "text", "text": f"b{i}"} for i in range(500 * n)]
        MessagesRequest(max_tokens=1, messages=[{"role": "user", "content": results + texts}]).chat()

    assert_linear(read)


def test_the_answers_that_are_asked_for_are_counted_first(model, tokenizer, tmp_path):
    with serving(model, tokenizer, rollout_root=tmp_path) as (url, _):
        body = {"input_ids": [1, 2], "sampling_params": {"n": 20_000_000}}
        refused = httpx.post(f"{url}/generate", json=body)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "too_many_choices"


def test_a_text_that_cannot_fit_is_not_encoded(http, tokenizer, monkeypatch):
    encode = type(tokenizer).encode

    def watched(self, text):
        assert len(text) < 100_000
        return encode(self, text)

    monkeypatch.setattr(type(tokenizer), "encode", watched)
    text = " " * 2_000_000
    refused = chat(http, messages=[{"role": "user", "content": text}]).json()["error"]
    assert refused["code"] == "context_length_exceeded"
    assert http.post("/v1/completions", json={"prompt": text}).json()["error"]["n_prompt_tokens"] > 512


# Grammars


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(grammars, "SECONDS", 1.0)


def test_grammars_that_take_for_ever_are_stopped_and_others_go_on(http, impatient):
    assert chat(http, **json_form({"type": "boolean"})).status_code == 200  # their processes have started
    endless = [json_form({"type": "integer", "multipleOf": 10_000_019 + 2 * i}) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(chat, http, **form) for form in endless]
        start = time.monotonic()
        assert chat(http).status_code == 200
        assert time.monotonic() - start < 2
        for answer in answers:
            assert answer.result().status_code == 400
            assert "too" in answer.result().json()["error"]["message"]
    start = time.monotonic()
    assert chat(http, **endless[0]).status_code == 400
    assert time.monotonic() - start < grammars.SECONDS, "it is remembered"


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"$ref": "#"}, "no text fits"),
        ({"type": "integer", "minimum": 2, "maximum": 1}, "nsatisfiable"),
        ({"const": "x" * 300_000}, "longer than"),
        ({"type": "string", "pattern": "("}, "the schema cannot be used: regex parse error"),
    ],
    ids=["circle", "nothing", "long", "broken"],
)
def test_grammars_that_cannot_be_used_say_so(http, form, why):
    refused = chat(http, **json_form(form))
    assert refused.status_code == 400
    assert why in refused.json()["error"]["message"]


def test_a_grammar_that_becomes_too_much_ends_the_answer_as_an_error(model, tokenizer, monkeypatch):
    monkeypatch.setitem(grammar_compile._LIMITS, "max_lexer_states", 100)
    engine = Engine(model, tokenizer, max_batch_size=2, context=128)
    form = grammar.regex("([ab]*a[ab]{30}c)*")
    request = engine.submit([1, 40], Sampling(grammar=form, seed=1))
    list(engine.run())
    assert request.finish_reason == "error"
    assert request.error


def test_an_answer_that_cannot_go_on_in_its_form_is_refused(model, tokenizer, monkeypatch):
    monkeypatch.setitem(grammar_compile._LIMITS, "max_lexer_states", 100)
    asked = {"guided_regex": "([ab]*a[ab]{30}c)*", "max_tokens": 100, "seed": 1}
    with serving(model, tokenizer) as (url, _), httpx.Client(base_url=url, timeout=60) as http:
        as_text = http.post("/v1/completions", json=asked | {"prompt": "a"})
        as_chat = http.post("/v1/chat/completions", json=asked | {"messages": [{"role": "user", "content": "a"}]})
    for reply in (as_text, as_chat):
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "grammar_failed")


def test_the_first_grammar_imports_nothing_large(tokenizer):
    """An import in the engine's thread would stop every answer; that of `llguidance.torch` takes seconds."""
    sys.modules.pop("llguidance.torch", None)
    forms = grammar.Grammars(tokenizer, tokenizer.vocab_size)
    assert forms.allowed([forms.matcher(grammar.json_object()), None]).sum(1).tolist()[1] == tokenizer.vocab_size
    assert "llguidance.torch" not in sys.modules


# Connections


def connect(url):
    return socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))


def closed(client, seconds):
    client.settimeout(seconds)
    try:
        return client.recv(1000) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_half_open_connections_keep_nobody_out(model, tokenizer):
    with serving(model, tokenizer, max_connections=20, header_seconds=30) as (url, _):
        half = [connect(url) for _ in range(100)]
        for client in half:
            client.sendall(b"GET /health HTTP/1.1\r\n")
        start = time.monotonic()
        for path in ("/health", "/v1/models"):
            assert httpx.get(url + path, timeout=10).status_code == 200
        assert time.monotonic() - start < 3
        assert closed(half[0], 1)


def test_where_all_are_served_health_is_answered(model, tokenizer):
    with serving(model, tokenizer, max_connections=4) as (url, _):
        slow = [connect(url) for _ in range(4)]
        for client in slow:
            client.sendall(POST + b"Content-Length: 100\r\n\r\n{")
        time.sleep(0.3)
        assert httpx.get(f"{url}/health").status_code == 200
        refused = httpx.get(f"{url}/v1/models")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
        for client in slow:
            client.close()
        time.sleep(0.3)
        assert httpx.get(f"{url}/v1/models").status_code == 200


def test_who_sends_a_byte_now_and_then_is_cut_off(model, tokenizer, monkeypatch):
    monkeypatch.setattr(guard, "LINGER_SECONDS", 1.0)
    with serving(model, tokenizer, header_seconds=1.0, body_seconds=1.0) as (url, _):
        whole = POST + b"Content-Length: 1000\r\n\r\n"
        answered = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for sent in (b"", POST, answered + b"G", whole):
            with connect(url) as client:
                client.sendall(sent)
                start, got = time.monotonic(), b""
                client.settimeout(0.2)
                while time.monotonic() - start < 8:
                    try:
                        client.sendall(b" " if sent == whole else b"a")
                        part = client.recv(1000)
                        got += part
                        if not part:
                            break
                    except TimeoutError:
                        continue
                    except ConnectionError:
                        break
                assert time.monotonic() - start < 6, sent
                assert (b"408" in got) == (sent == whole)


def test_who_is_late_reads_so_although_more_is_on_its_way(model, tokenizer):
    with serving(model, tokenizer, body_seconds=0.5) as (url, _), connect(url) as client:
        client.sendall(POST + b"Content-Length: 4000000\r\n\r\n" + b" " * 1_000_000)
        time.sleep(1)
        client.sendall(b" " * 3_000_000)
        client.settimeout(20)
        assert b" 408 " in client.recv(1000)


def test_a_server_that_stood_still_does_not_blame_its_clients(model, tokenizer, monkeypatch):
    """As after SIGSTOP or without memory: when it goes on, every deadline has passed."""
    body = json.dumps(HI).encode()
    head = POST + b"Content-Length: %d\r\n\r\n" % len(body)
    with serving(model, tokenizer, header_seconds=3.0, body_seconds=3.0) as (url, service):
        monkeypatch.setattr(service.metrics, "text", lambda: str(time.sleep(8)))  # in the event loop
        with connect(url) as silent, connect(url) as sending, ThreadPoolExecutor(1) as pool:
            sending.sendall(head + body[:5])
            time.sleep(0.3)
            still = pool.submit(httpx.get, f"{url}/metrics", timeout=40)
            time.sleep(1)
            sending.sendall(body[5:])
            assert still.result().status_code == 200
            time.sleep(0.1)
            silent.sendall(head + body)
            for client in (sending, silent):
                client.settimeout(20)
                assert b" 200 " in client.recv(1000)


def test_who_leaves_in_the_middle_of_a_body_is_no_mistake_of_the_server(model, tokenizer, caplog):
    with serving(model, tokenizer) as (url, service):
        with connect(url) as client:
            client.sendall(POST + b"Content-Length: 100\r\n\r\n{")
            time.sleep(0.2)
        deadline = time.monotonic() + 10
        while "/v1/chat/completions" not in service.metrics.text().decode() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert 'status="400"' in service.metrics.text().decode()
    assert not [record for record in caplog.records if record.name == "minimind.serve"]


@pytest.mark.parametrize("chunked", [False, True])
def test_who_is_refused_while_sending_reads_why(model, tokenizer, chunked):
    with serving(model, tokenizer, max_bytes=1000) as (url, _), connect(url) as client:
        body = b" " * 8_000_000
        if chunked:
            client.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n")
        else:
            client.sendall(POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        client.settimeout(20)
        assert b" 413 " in client.recv(1000)


# Tools


def test_tools_keep_no_chat_waiting(http, monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr(tools, "call", lambda *_: "1" if let_go.wait(10) else "0")
    with ThreadPoolExecutor(12) as pool:
        calls = [pool.submit(http.post, "/tools/text_length", json={"arguments": {"text": "a"}}) for _ in range(12)]
        time.sleep(0.2)
        start = time.monotonic()
        assert chat(http).status_code == 200
        assert time.monotonic() - start < 2
        let_go.set()
        assert {call.result().status_code for call in calls} == {200}


@pytest.mark.parametrize("character", [" ", "\n", "\u3000"])
def test_white_space_without_end_is_refused_at_once(http, character):
    """The library that has to encode such runs needs 10 s for four megabytes of it."""
    text = "a" + character * 1_000_000 + "b"
    for path, body in (
        ("/tokenize", {"content": text}),
        ("/tokenize", {"messages": [{"role": "user", "content": text}]}),
        ("/v1/completions", {"prompt": text}),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "reasoning_content": text, "content": "a"}]}),
    ):
        start = time.perf_counter()
        answer = http.post(path, json=body)
        assert answer.status_code == 400
        assert time.perf_counter() - start < 3
    assert "white space" in http.post("/tokenize", json={"content": text}).json()["error"]["message"]
    assert http.post("/tokenize", json={"content": "a" + character * 40_000 + "b"}).status_code == 200


# All of it


def test_garbage_is_looked_for_among_new_things_alone(model, tokenizer, monkeypatch):
    """Python's collector holds every thread up, and a server has a third of a million objects that stay."""
    stay, service = gc.get_freeze_count(), Service(Settings(model="minimind"), tokenizer)
    told = []

    def until_loaded(running, sockets):
        deadline = time.monotonic() + 120  # it may have to compile the step first
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
        assert told == [True], "ready is said when it is"
        assert gc.get_freeze_count() > stay + 50_000

    monkeypatch.setattr(server.uvicorn.Server, "run", until_loaded)
    monkeypatch.setattr(server, "say", lambda text: told.append(service._engine is not None))
    try:
        server.run(service, lambda: EngineThread(Engine(model, tokenizer, context=64)), server.listen("127.0.0.1", 0))
    finally:
        gc.unfreeze()
