"""What the server says of given texts: `echo`, `logprobs`, `prompt_logprobs`, token ids; lm-eval over HTTP."""

import json

import pytest
from openai import BadRequestError, OpenAI

from minimind.eval.choice import log_likelihoods, plant
from minimind.eval.tasks import Question

TEXT = "The 🙂 is 天气 <|im_end|> so"
QUESTIONS = [
    Question("The capital of France is", ["Paris", "London, of course", "a big 城市"], 0),
    Question("二加二等于", ["四", "五"], 0),
    Question("Question: which is red?\nAnswer:", ["a rose", "grass 🙂"], 0),
]


@pytest.mark.parametrize("batch", [1, 3])
def test_lm_eval_over_http_scores_as_eval_choice_does(url, model, tokenizer, batch, tmp_path):
    pytest.importorskip("tenacity", reason="lm-eval's HTTP clients need it: pip install 'minimind[dev]'")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    tokenizer.save(tmp_path)
    lm = LocalCompletionsAPI(
        base_url=f"{url}/v1/completions",
        model="minimind",
        tokenizer=str(tmp_path),
        tokenizer_backend="huggingface",
        max_length=512,
        batch_size=batch,
    )
    asked = [(question.prompt, f" {choice}") for question in QUESTIONS for choice in question.choices]
    requests = [Instance("loglikelihood", {}, arguments, i) for i, arguments in enumerate(asked)]
    found = lm.loglikelihood(requests, disable_tqdm=True)
    ours = log_likelihoods(model, [plant(question, tokenizer) for question in QUESTIONS])
    expected = [score for of_one in ours for score in of_one]
    assert [logprob for logprob, _ in found] == pytest.approx([score.logprob for score in expected], abs=1e-3)
    assert [greedy for _, greedy in found] == [score.greedy for score in expected]
    assert len({round(score.logprob, 3) for score in expected}) == len(expected), "else anything would be equal"


@pytest.fixture
def client(url):
    """Not strict: the client's types forbid what OpenAI itself sends here, null where nothing predicts a token."""
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def test_an_echo_is_scored_token_by_token(client, http, tokenizer):
    options = {"model": "minimind", "prompt": TEXT, "temperature": 0, "logprobs": 3, "echo": True}
    choice = client.completions.create(**options, max_tokens=3).choices[0]
    told, ids = choice.logprobs, [tokenizer.bos_id, *tokenizer.encode(TEXT)]
    assert choice.text.startswith(TEXT)
    assert {len(values) for values in (told.tokens, told.token_logprobs, told.top_logprobs, told.text_offset)} == {
        len(ids) + 3
    }
    assert told.token_logprobs[0] is None
    assert told.top_logprobs[0] is None
    assert all(value < 0 for value in told.token_logprobs[1:])
    for name, offset in zip(told.tokens[1:], told.text_offset[1:], strict=True):
        assert name.startswith("bytes:") or choice.text[offset : offset + len(name)] == name
    for name, value, top in zip(told.tokens[1:], told.token_logprobs[1:], told.top_logprobs[1:], strict=True):
        assert 3 <= len(top) <= 4
        assert top[name] == value
        assert list(top.values())[:3] == sorted(top.values(), reverse=True)[:3]
    silent = client.completions.create(**options, max_tokens=0).choices[0]
    assert (silent.text, silent.finish_reason) == (TEXT, "length")
    assert silent.logprobs.token_logprobs[1:] == pytest.approx(told.token_logprobs[1 : len(ids)], abs=1e-3)
    whole = http.post("/v1/completions", json={**options, "max_tokens": 3, "add_special_tokens": False}).json()
    assert len(whole["choices"][0]["logprobs"]["tokens"]) == len(ids) + 2


def test_an_echo_in_a_stream(client):
    options = {"model": "minimind", "prompt": [TEXT, "Hi"], "temperature": 0, "logprobs": 1, "echo": True}
    whole = client.completions.create(**options, max_tokens=3)
    for choice in whole.choices:
        chunks = client.completions.create(**options, max_tokens=3, stream=True)
        pieces = [piece for chunk in chunks for piece in chunk.choices if piece.index == choice.index]
        assert "".join(piece.text for piece in pieces) == choice.text
        assert [name for piece in pieces for name in piece.logprobs.tokens] == choice.logprobs.tokens
        assert [at for piece in pieces for at in piece.logprobs.text_offset] == choice.logprobs.text_offset


def test_offsets_are_right_behind_text_that_is_held_back(actor):
    actor.says("one two 🙂 thr and on")
    options = {"model": "minimind", "prompt": "a", "max_tokens": 50, "stop": ["two 🙂 three", "e two two"]}
    choice = actor.completions.create(**options, logprobs=0).choices[0]
    told = choice.logprobs
    assert choice.text == "one two 🙂 thr and on"
    seen = [(n, o) for n, o in zip(told.tokens, told.text_offset, strict=True) if not n.startswith(("bytes:", "<|"))]
    assert all(choice.text[offset : offset + len(name)] == name for name, offset in seen)
    assert len(seen) > 4
    assert all(list(top) == [name] for name, top in zip(told.tokens, told.top_logprobs, strict=True))


def test_prompt_logprobs(http, tokenizer):
    ids = [tokenizer.bos_id, *tokenizer.encode("one 二 🙂")]
    body = {"prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 2}
    told = http.post("/v1/completions", json=body).json()["choices"][0]["prompt_logprobs"]
    assert told[0] is None
    for id, entry in zip(ids[1:], told[1:], strict=True):
        assert 2 <= len(entry) <= 3
        assert sorted(one["rank"] for one in entry.values())[:2] == [1, 2]
        assert entry[str(id)]["decoded_token"] == tokenizer.token_bytes(id).decode("utf-8", "replace")
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    answer = http.post("/v1/chat/completions", json=chat | {"prompt_logprobs": 0}).json()
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]
    assert all(len(entry) == 1 for entry in answer["prompt_logprobs"][1:])
    assert "prompt_logprobs" not in http.post("/v1/chat/completions", json=chat).json()
    for wrong in ({"prompt_logprobs": 0, "stream": True}, {"prompt_logprobs": -1}, {"prompt_logprobs": 21}):
        assert http.post("/v1/chat/completions", json=chat | wrong).status_code == 400


def test_more_scores_than_anybody_reads_are_refused(client):
    with pytest.raises(BadRequestError) as refused:
        client.completions.create(model="minimind", prompt=["word " * 400] * 16, echo=True, logprobs=20)
    assert refused.value.code == "too_many_logprobs"


def test_token_ids(http, tokenizer):
    body = {"prompt": "Once", "max_tokens": 4, "temperature": 0, "return_token_ids": True}
    choice = http.post("/v1/completions", json=body).json()["choices"][0]
    assert choice["prompt_token_ids"] == [tokenizer.bos_id, *tokenizer.encode("Once")]
    assert tokenizer.decode(choice["token_ids"], skip_special=True) == choice["text"]
    chat = {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 4,
        "temperature": 0,
        "return_token_ids": True,
    }
    answer = http.post("/v1/chat/completions", json=chat).json()
    assert len(answer["prompt_token_ids"]) == answer["usage"]["prompt_tokens"]
    assert len(answer["choices"][0]["token_ids"]) == 4
    for path, sent in (("/v1/completions", body), ("/v1/chat/completions", chat)):
        lines = http.post(path, json=sent | {"stream": True}).text.split("\n\n")
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        places = [place for chunk in chunks for place in (chunk, *chunk["choices"])]
        prompts = [place["prompt_token_ids"] for place in places if "prompt_token_ids" in place]
        streamed = [id for chunk in chunks for one in chunk["choices"] for id in one.get("token_ids", [])]
        whole = choice if path == "/v1/completions" else answer | answer["choices"][0]
        assert (prompts, streamed) == ([whole["prompt_token_ids"]], whole["token_ids"])
