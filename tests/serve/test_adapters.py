"""Several adapters on one served base: the name of the model chooses."""

import copy
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import pytest
import torch
from conftest import serving

from minimind.engine.engine import Engine
from minimind.model import lora
from minimind.model.settings import LoraConfig

NAMES = ("red", "blue")


@pytest.fixture(scope="module")
def variants(model):
    made = {}
    for seed, name in enumerate(NAMES):
        torch.manual_seed(seed)
        changed = copy.deepcopy(model)
        lora.attach(changed, LoraConfig(rank=4), base="somewhere")
        for update in lora.updates(changed).values():
            torch.nn.init.normal_(update.B, std=0.5)
        made[name] = lora.merged(changed)
    return made


@pytest.fixture(scope="module")
def client(model, tokenizer, variants):
    engine = partial(Engine, variants=variants, batch_invariant=True)
    with serving(model, tokenizer, engine, adapters=NAMES) as (url, _), httpx.Client(base_url=url, timeout=60) as http:
        yield http


def ask(client, kind, name):
    said = {"messages": [{"role": "user", "content": "Hi"}]} if kind == "chat/completions" else {"prompt": "Hi there"}
    reply = client.post(f"/v1/{kind}", json={"model": name, "max_tokens": 12, "temperature": 0, "seed": 1, **said})
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("kind", ["chat/completions", "completions"])
def test_the_name_chooses_even_all_at_once(client, model, tokenizer, variants, kind):
    expected = {}
    for name, alone in {"minimind": model, **variants}.items():
        engine = partial(Engine, batch_invariant=True)
        with serving(alone, tokenizer, engine) as (url, _), httpx.Client(base_url=url, timeout=60) as other:
            expected[name] = ask(other, kind, "minimind")["choices"]
    with ThreadPoolExecutor(6) as pool:
        names = [*expected] * 2
        for name, reply in zip(names, pool.map(partial(ask, client, kind), names), strict=True):
            assert reply["model"] == name
            assert reply["choices"] == expected[name]
    assert len({str(choices) for choices in expected.values()}) == 3, "the models differ"


def test_adapters_are_models_to_clients(client):
    listed = client.get("/v1/models").json()["data"]
    assert [one["id"] for one in listed] == ["minimind", "red", "blue"]
    assert client.get("/v1/models/blue").json() == listed[2]
    reply = client.post("/v1/completions", json={"model": "green", "prompt": "Hi"})
    assert reply.status_code == 404
    assert reply.json()["error"]["message"] == (
        "there is no model 'green' here; this server has 'minimind', 'red', 'blue'"
    )


def test_what_cannot_be_served(minimind, tuned, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    for flags, code, told in (
        (["red"], 2, "NAME=DIR"),
        ([f"red={tmp_path}"], 1, "no adapter_config.json"),
        ([f"red={adapter}", f"red={adapter}"], 2, "there is a model 'red' already"),
        ([f"red={adapter}", "--name", "red"], 2, "there is a model 'red' already"),
        ([f"red={adapter}", "--rollout", "--rollout-root", str(tmp_path)], 2, "use one of them"),
    ):
        ended = minimind("serve", tuned / "model", "--device", "cpu", "--lora", *flags)
        assert ended.code == code, ended.err
        assert told in " ".join(ended.err.split())
    ended = minimind("serve", adapter, "--device", "cpu")
    assert (ended.code, "which is not there" in " ".join(ended.err.split())) == (1, True), ended.err
