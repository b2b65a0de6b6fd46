"""The protocol that trainers speak."""

import json
import threading
import time

import httpx
import pytest
import torch
from conftest import random_model, serving, wait_until

from minimind.engine.engine import Engine
from minimind.engine.generate import complete
from minimind.engine.sampling import GREEDY
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model

GREEDILY = {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True}
PROMPT = [1, 40, 41, 42]


class Slow(Engine):
    def step(self):
        time.sleep(0.03)
        return super().step()


@pytest.fixture(scope="module")
def other(tokenizer):
    """A model of the same shape with other weights."""
    return random_model(tokenizer, 1)


@pytest.fixture
def rollout(model, other, tokenizer, tmp_path):
    """A server with a root that holds `step-1`, and what must not be reached beside it."""
    root = tmp_path / "root"
    for folder in (root / "step-1", tmp_path / "outside"):
        save_model(other, folder, dtype="float32")
        tokenizer.save(folder)
    copy = Transformer(model.config).eval()
    copy.load_state_dict(model.state_dict())
    with (
        serving(copy, tokenizer, Slow, rollout_root=root) as (url, service),
        httpx.Client(base_url=url, timeout=20) as http,
    ):
        http.engine = service.engine.engine
        yield http


def ids(model, prompt=PROMPT, tokens=6):
    return complete(model, [prompt], GREEDY, [], tokens)[0]


def generate(http, **body):
    response = http.post("/generate", json={"sampling_params": GREEDILY} | body)
    assert response.status_code == 200, response.text
    return response.json()


@torch.inference_mode()
def logprobs(model, prompt, answer):
    ids_BT = torch.tensor([prompt + answer])
    scores = model.logits(model(ids_BT, Segments.whole(ids_BT)).states)[0].float().log_softmax(-1)
    return [scores[len(prompt) - 1 + i, id].item() for i, id in enumerate(answer)]


def test_token_ids_in_token_ids_and_log_probabilities_out(rollout, model, tokenizer):
    answer = generate(rollout, input_ids=PROMPT, return_logprob=True, top_logprobs_num=2, rid="mine")
    assert answer["output_ids"] == ids(model)
    meta = answer["meta_info"]
    assert meta["id"] == "mine"
    assert meta["finish_reason"] == {"type": "length", "length": 6}
    assert (meta["prompt_tokens"], meta["completion_tokens"], meta["weight_version"]) == (4, 6, "0")
    found, chosen, _ = zip(*meta["output_token_logprobs"], strict=True)
    assert list(chosen) == answer["output_ids"]
    assert list(found) == pytest.approx(logprobs(model, PROMPT, answer["output_ids"]), abs=1e-3)
    assert [len(top) for top in meta["output_top_logprobs"]] == [2] * 6
    assert "output_token_logprobs" not in generate(rollout, input_ids=PROMPT)["meta_info"]
    text = generate(rollout, text="hello")
    assert text["output_ids"] == ids(model, tokenizer.encode("hello"))


def test_batches_and_several_answers(rollout, model):
    prompts = [[1, 50], [1, 60, 61]]
    answers = generate(rollout, input_ids=prompts, rid=["a", "b"])
    assert [answer["output_ids"] for answer in answers] == [ids(model, prompt) for prompt in prompts]
    assert [answer["meta_info"]["id"] for answer in answers] == ["a", "b"]
    params = GREEDILY | {"temperature": 1, "n": 3, "sampling_seed": 5}
    several = [answer["output_ids"] for answer in generate(rollout, input_ids=PROMPT, sampling_params=params)]
    assert len({tuple(one) for one in several}) == 3
    assert several == [answer["output_ids"] for answer in generate(rollout, input_ids=PROMPT, sampling_params=params)]


def test_what_ended_an_answer(rollout, model):
    answer = ids(model)
    stop = GREEDILY | {"stop_token_ids": [answer[0]]}
    ended = generate(rollout, input_ids=PROMPT, sampling_params=stop)
    assert ended["meta_info"]["finish_reason"] == {"type": "stop", "matched": answer[0]}
    assert ended["output_ids"] == answer[:1]
    number = GREEDILY | {"regex": "[0-9]{3}", "max_new_tokens": 20, "ignore_eos": False}
    assert generate(rollout, input_ids=PROMPT, sampling_params=number)["text"].isdecimal()
    for schema in ({"type": "boolean"}, '{"type": "boolean"}'):  # as an object, or as text, which SGLang's clients send
        flag = number | {"regex": None, "json_schema": schema}
        assert generate(rollout, input_ids=PROMPT, sampling_params=flag)["text"] in ("true", "false")


def test_a_stream_grows(rollout, model):
    body = {"input_ids": PROMPT, "sampling_params": GREEDILY, "stream": True}
    *events, end = rollout.post("/generate", json=body).text.strip().split("\n\n")
    assert end == "data: [DONE]"
    grown = [json.loads(event.removeprefix("data: ")) for event in events]
    assert [len(one["output_ids"]) for one in grown] == [1, 2, 3, 4, 5, 6]
    assert grown[-1]["output_ids"] == ids(model)
    assert [one["meta_info"]["finish_reason"] is None for one in grown] == [True] * 5 + [False]


def test_weights_are_replaced(rollout, model, other):
    assert generate(rollout, input_ids=PROMPT)["output_ids"] == ids(model)
    done = rollout.post("/update_weights_from_disk", json={"model_path": "step-1"})
    assert (done.status_code, done.json()["success"]) == (200, True)
    answer = generate(rollout, input_ids=PROMPT)
    assert answer["output_ids"] == ids(other) != ids(model)
    assert answer["meta_info"]["weight_version"] == "1"
    assert rollout.post("/flush_cache").json() == {"success": True}


def test_weights_come_from_under_the_root_alone(rollout, tmp_path):
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside")
    inner = tmp_path / "root" / "inner"
    inner.mkdir()
    for file in (tmp_path / "outside").iterdir():
        (inner / file.name).symlink_to(file)
    outside = [
        str(tmp_path / "outside"),
        "../outside",
        "step-1/../../outside",
        "link",
        "inner",
        "/",
        "nowhere",
        "~",
        "a\0b",
        "a" * 5000,
    ]
    for path in outside:
        refused = rollout.post("/update_weights_from_disk", json={"model_path": path})
        assert (refused.status_code, refused.json()["success"]) == (403, False), path
        assert str(tmp_path) not in refused.json()["message"]
    inside = str(tmp_path / "root" / "step-1")
    assert rollout.post("/update_weights_from_disk", json={"model_path": inside}).status_code == 200


def in_background(http, call):
    """A request whose answer is being written."""
    box = []
    thread = threading.Thread(target=lambda: box.append(call()))
    thread.start()
    wait_until(lambda: any(len(one.tokens) > 1 for one in list(http.engine._scheduler.running)))
    return thread, box


LONG = {"temperature": 0, "max_new_tokens": 80, "ignore_eos": True}


def test_requests_are_aborted_by_name(rollout):
    thread, box = in_background(
        rollout, lambda: generate(rollout, input_ids=[PROMPT] * 2, rid=["a", "b"], sampling_params=LONG)
    )
    assert rollout.post("/abort_request", json={"rid": "a"}).json() == {"success": True}
    assert rollout.post("/abort_request", json={"rid": "unknown"}).status_code == 200
    time.sleep(0.1)
    rollout.post("/abort_request", json={"abort_all": True})
    thread.join(10)
    a, b = box[0]
    assert a["meta_info"]["finish_reason"]["type"] == b["meta_info"]["finish_reason"]["type"] == "abort"
    assert 0 < len(a["output_ids"]) < len(b["output_ids"]) < 80, "what was sampled is not lost"


def test_pausing_in_place_changes_weights_in_the_middle_of_an_answer(rollout, model):
    thread, box = in_background(
        rollout, lambda: generate(rollout, input_ids=PROMPT, sampling_params=LONG, return_logprob=True)
    )
    assert rollout.post("/pause_generation", json={"mode": "in_place"}).status_code == 200
    rollout.post("/update_weights_from_disk", json={"model_path": "step-1"})
    time.sleep(0.2)
    assert not box
    rollout.post("/continue_generation")
    thread.join(20)
    versions = box[0]["meta_info"]["output_weight_versions"]
    assert versions == sorted(versions)
    assert set(versions) == {"0", "1"}
    assert len(versions) == 80


def test_pausing_aborts_by_default(rollout):
    thread, box = in_background(rollout, lambda: generate(rollout, input_ids=PROMPT, sampling_params=LONG))
    rollout.post("/pause_generation", json={})
    thread.join(10)
    assert box[0]["meta_info"]["finish_reason"]["type"] == "abort"
    rollout.post("/continue_generation")
    assert generate(rollout, input_ids=PROMPT)["output_ids"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": "a", "input_ids": [1]},
        {"input_ids": []},
        {"input_ids": [-1]},
        {"input_ids": [10**6]},
        {"input_ids": [[1], [2]], "rid": ["a"]},
        {"input_ids": [[1], [2]], "sampling_params": [{}]},
        {"input_ids": [1], "sampling_params": {"top_p": 0}},
        {"input_ids": [1] * 600},
        {"input_ids": [1], "sampling_params": {"regex": "("}},
    ],
    ids=str,
)
def test_mistakes(rollout, body):
    assert rollout.post("/generate", json=body).status_code == 400
