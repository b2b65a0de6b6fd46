"""A server over a tiny random model, in a thread of this process."""

import threading
import time
from contextlib import contextmanager
from typing import ClassVar

import httpx
import pytest
import torch
import uvicorn

from minimind.config import PRESETS
from minimind.engine.background import EngineThread
from minimind.engine.engine import Engine
from minimind.model.qwen3 import Transformer
from minimind.serve.server import configure
from minimind.serve.service import Service
from minimind.serve.settings import Settings
from minimind.tokenizer.bpe import Tokenizer

TOOLS = ("calculate_math", "text_length")


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.load("default")


def random_model(tokenizer, seed, preset="tiny", **sizes):
    """A model whose layers have more say than a fresh one's, so that it does not only repeat its last token."""
    torch.manual_seed(seed)
    config = PRESETS[preset].with_(vocab_size=tokenizer.vocab_size, num_hidden_layers=2, **sizes)
    model = Transformer(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight *= 5
    return model


@pytest.fixture(scope="session")
def model(tokenizer):
    return random_model(tokenizer, 0)


@contextmanager
def serving(model, tokenizer, engine=Engine, context=512, **settings):
    """Start a server; yields `(base URL, service)`."""
    service = Service(Settings(model="minimind", tools=TOOLS, **settings), tokenizer)
    if model is not None:
        service.attach(EngineThread(engine(model, tokenizer, max_batch_size=8, context=context), max_waiting=10**6))
    config = configure(service)
    config.port = 0
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}", service
    finally:
        server.should_exit = True
        service.close()
        thread.join(10)


@pytest.fixture(scope="session")
def served(model, tokenizer):
    with serving(model, tokenizer) as (url, service):
        yield url, service


@pytest.fixture(scope="session")
def url(served):
    return served[0]


@pytest.fixture(scope="session")
def http(url):
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


class Scripted(Engine):
    """Says what it is told to, whatever the model thinks: `scripts` are the ids of the next answers, the last stays."""

    scripts: ClassVar[list[list[int]]] = []
    pause = 0.0

    def step(self):
        time.sleep(self.pause)
        return super().step()

    def _draw(self, logits_BV, requests):
        draws = super()._draw(logits_BV, requests)
        ids = []
        for request in requests:
            if not hasattr(request, "script"):
                request.script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            ids.append(request.script[min(len(request.tokens), len(request.script) - 1)])
        ids_B = torch.tensor(ids)
        return draws._replace(ids=ids_B, logprobs=draws.model.gather(1, ids_B[:, None])[:, 0])


def wait_until(true, seconds=60):
    """Wait for what comes in a moment; on a busy machine that may be a long one."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def script(tokenizer, *parts):
    """Ids of an answer, from texts and the names of control tokens."""
    ids = []
    for part in parts:
        control = tokenizer.control_id(part)
        ids += tokenizer.encode(part) if control is None else [control]
    return [*ids, tokenizer.control_id("<|im_end|>")]


@pytest.fixture(scope="session")
def actor(model, tokenizer):
    """A client of a server that says what `actor.says(...)` was last given: texts, and control tokens by name."""
    from openai import OpenAI

    class Actor(Scripted):
        scripts: ClassVar[list[list[int]]] = []

    def says(*parts):
        Actor.scripts[:] = [script(tokenizer, *parts)]

    with serving(model, tokenizer, Actor) as (url, _):
        client = OpenAI(base_url=f"{url}/v1", api_key="none", _strict_response_validation=True, max_retries=0)
        client.says = says
        yield client
