"""`minimind serve` as a process: what it refuses to start with, and how it ends."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--host", "0.0.0.0"], "--insecure"),
        (["--host", "::"], "MINIMIND_API_KEY"),
        (["--rollout"], "--rollout-root"),
        (["--rollout-root", "."], "--rollout"),
        (["--rollout", "--rollout-root", "nowhere"], "nowhere"),
        (["--tools", "calculator"], "calculator"),
        (["--parallel", "0"], "--parallel 0"),
        (["--cache-tokens", "4095"], "--cache-tokens 4095: one conversation (--context 4096) must fit"),
        (["--dtype", "float8"], "bfloat16"),
        (["--device", "gpu"], "--device gpu"),
        (["--port", "-1"], "--port"),
        (["--cors-origin", "*"], "https://chat.example.org"),
        (["--cors-origin", "https://x.org/"], "no path"),
        (["--allowed-host", "*"], "--allowed-host"),
        (["--port", "70000"], "--port"),
    ],
    ids=str,
)
def test_what_cannot_be_served(minimind, tuned, flags, told):
    ended = minimind("serve", tuned / "model", "--device", "cpu", *flags)
    assert ended.code == 2, ended.err
    assert told in ended.err


def test_a_directory_that_is_no_model(minimind, tmp_path):
    ended = minimind("serve", tmp_path, "--device", "cpu")
    assert ended.code == 1
    assert "is not a model directory" in ended.err


def test_a_port_that_is_taken(minimind, tuned):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = minimind("serve", tuned / "model", "--device", "cpu", "--port", port)
    assert ended.code == 1
    assert f"127.0.0.1:{port}" in ended.err


@contextmanager
def process(*flags):
    """A server in a process of its own; yields it and its address once it is ready."""
    command = [sys.executable, "-m", "minimind", "serve", *map(str, flags), "--device", "cpu", "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        told = ""
        while "Ready" not in told:
            line = server.stderr.readline()
            assert line, told
            told += line
        yield server, re.search(r"chat page\s+(\S+?)/\s", told)[1]
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


BODY = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "ignore_eos": True, "max_tokens": 1500}


def interrupted_stream(url, stop, **more):
    """The events of a long answer during which `stop` is called."""
    events = []
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=BODY | more, timeout=60) as response:
        for line in response.iter_lines():
            if line:
                events.append(line.removeprefix("data: "))
            if len(events) == 3 and line:
                threading.Thread(target=stop).start()
    return events


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to ask a process to end")
def test_a_server_that_is_told_to_stop_finishes_its_answers(tuned):
    with process(tuned / "model", "--name", "mine", "--grace", "30") as (server, url):
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "mine"
        events = interrupted_stream(url, lambda: server.send_signal(signal.SIGINT))
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"
        assert server.wait(15) == 0
        assert "Traceback" not in server.stderr.read()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to ask a process to end")
def test_and_aborts_those_that_take_longer_than_its_grace(tuned):
    with process(tuned / "model", "--grace", "0") as (server, url):
        start = time.monotonic()
        events = interrupted_stream(url, server.terminate, n=8)  # eight: a busy machine may be late to ask for the end
        assert json.loads(events[-1])["error"]["code"] == "aborted"
        server.wait(15)
        assert time.monotonic() - start < 15
        assert "Traceback" not in server.stderr.read()


LOADS_FOR_LONG = """
import torch
from minimind.serve import server
from minimind.serve.service import Service
from minimind.serve.settings import Settings
from minimind.tokenizer.bpe import Tokenizer

def load():
    print("loading", flush=True)
    while True:
        torch.ones(3000, 3000) @ torch.ones(3000, 3000)

server.run(Service(Settings(model="m"), Tokenizer.load("default")), load, server.listen("127.0.0.1", 0))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals to ask a process to end")
def test_a_server_that_is_stopped_while_it_loads_just_ends():
    command = [sys.executable, "-c", LOADS_FOR_LONG]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8") as server:
        assert server.stdout.readline() == "loading\n"
        time.sleep(1)  # for uvicorn to take the signals over
        server.send_signal(signal.SIGINT)
        _, told = server.communicate(timeout=60)
    assert (server.returncode, told) == (0, "")
