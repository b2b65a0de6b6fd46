"""Vectors of texts, through `openai`'s client and ollama's."""

import base64
import struct

import httpx
import numpy as np
import pytest
import torch
from openai import BadRequestError, OpenAI

from minimind.model.attend import Segments

TEXTS = ["the cat sat", "天气 🙂", "x"]


@pytest.fixture
def client(url):
    """Not strict: the client asks for base64 and checks for numbers before it has turned it into them."""
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@torch.no_grad()
def expected(model, ids):
    states = model(torch.tensor([ids]), Segments.right_padded(torch.tensor([len(ids)]), len(ids), torch.device("cpu")))
    mean = states.states[0].mean(0)
    return (mean / mean.norm()).numpy()


def test_vectors_are_normalised_means_of_the_last_states(client, model, tokenizer):
    answer = client.embeddings.create(model="minimind", input=TEXTS)
    ids = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in TEXTS]
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == sum(map(len, ids))
    for one, tokens in zip(answer.data, ids, strict=True):
        assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-5)
        assert np.abs(np.array(one.embedding) - expected(model, tokens)).max() < 1e-4
    plain = client.embeddings.create(model="minimind", input=ids[1], encoding_format="float").data[0].embedding
    assert plain == pytest.approx(answer.data[1].embedding, abs=1e-5)


def test_both_encodings_hold_the_same_numbers(http):
    body = {"input": "hello"}
    plain = http.post("/v1/embeddings", json=body).json()["data"][0]["embedding"]
    packed = http.post("/embeddings", json=body | {"encoding_format": "base64"}).json()["data"][0]["embedding"]
    assert struct.unpack(f"<{len(plain)}f", base64.b64decode(packed)) == pytest.approx(plain, abs=1e-6)


def test_what_cannot_be_done_is_refused(client, model):
    for wrong, name in (
        ({"input": "x", "dimensions": 7}, "dimensions"),
        ({"input": "word " * 600}, "prompt"),
        ({"input": ["x"] * 300}, "300 texts"),
        ({"input": []}, "input"),
    ):
        with pytest.raises(BadRequestError, match=name):
            client.embeddings.create(model="minimind", **wrong)
    width = model.config.hidden_size
    assert len(client.embeddings.create(model="minimind", input="x", dimensions=width).data[0].embedding) == width


def test_ollamas(url, http):
    ollama = pytest.importorskip("ollama", reason="its client is needed: pip install 'minimind[dev]'")
    client = ollama.Client(host=url)
    theirs = client.embed(model="minimind", input=TEXTS)
    ours = [one["embedding"] for one in http.post("/v1/embeddings", json={"input": TEXTS}).json()["data"]]
    assert np.allclose(theirs.embeddings, ours, atol=1e-5)
    assert theirs.prompt_eval_count > 0
    assert np.allclose(client.embeddings(model="minimind", prompt=TEXTS[0]).embedding, ours[0], atol=1e-5)
    assert client.embed(model="minimind", input="word " * 600).prompt_eval_count == 511
    with pytest.raises(ollama.ResponseError, match="context"):
        client.embed(model="minimind", input="word " * 600, truncate=False)
    assert httpx.post(f"{url}/api/embed", json={"model": "llama3", "input": "x"}).status_code == 404
