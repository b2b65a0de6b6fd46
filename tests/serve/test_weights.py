"""A trainer elsewhere gives the server new weights, and asks about them, as it would ask SGLang."""

import base64
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import types
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler

import httpx
import pytest
import torch
from conftest import random_model, serving

from minimind.engine.generate import complete
from minimind.engine.sampling import GREEDY
from minimind.model.qwen3 import Transformer
from minimind.model.store import disk_names, save_model

PROMPT = [1, 40, 41, 42]
BODY = {"input_ids": PROMPT, "sampling_params": {"temperature": 0, "max_new_tokens": 6, "ignore_eos": True}}


SMALL = {"hidden_size": 64, "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
KINDS = {"dense": {}, "moe": {"preset": "minimind-3-moe", "moe_intermediate_size": 96, **SMALL}}


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tokenizer):
    """The model that is served, and the one that a trainer has."""
    return tuple(random_model(tokenizer, seed, **KINDS[request.param]) for seed in (0, 1))


@pytest.fixture
def trainer(pair, tokenizer, tmp_path):
    """A client of a server that has the first model's weights; its cache, as `.cache`."""
    copy = Transformer(pair[0].config).eval()
    copy.load_state_dict(pair[0].state_dict())
    with (
        serving(copy, tokenizer, rollout_root=tmp_path, max_bytes=2**24, seconds=60) as (url, service),
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        http.cache = service.engine.engine._cache
        yield http


def ids(model):
    return complete(model, [PROMPT], GREEDY, [], 6)[0]


def generate(http):
    answer = http.post("/generate", json=BODY).json()
    return answer["output_ids"], answer["meta_info"]["weight_version"]


def named(model):
    """Names and tensors as they lie in a model directory."""
    for ours, parameter in model.named_parameters():
        names = disk_names(ours, parameter)
        yield from zip(names, parameter.detach().unbind(0) if len(names) > 1 else [parameter.detach()], strict=True)


def packed(content, pickler=pickle):
    return base64.b64encode(bytes(pickler.dumps(content))).decode()


def give(http, payload, **more):
    return http.post("/update_weights_from_tensor", json={"serialized_named_tensors": [payload], **more})


def test_tensors_in_requests_of_some_at_a_time(trainer, pair):
    tensors = [(name, tensor.clone()) for name, tensor in named(pair[1])]
    assert generate(trainer) == (ids(pair[0]), "0")
    for i, half in enumerate((tensors[::2], tensors[1::2])):
        done = give(trainer, packed(half), weight_version=f"step-{i}", flush_cache=i == 1)
        assert (done.status_code, done.json()["success"]) == (200, True), done.text
    assert generate(trainer) == (ids(pair[1]), "step-1")
    assert ids(pair[0]) != ids(pair[1])


def test_tensors_flattened_into_one(trainer, pair, monkeypatch):
    @dataclass
    class FlattenedTensorMetadata:
        name: str
        shape: torch.Size
        dtype: torch.dtype
        start_idx: int
        end_idx: int
        numel: int

    place = "sglang.srt.weight_sync.tensor_bucket"
    FlattenedTensorMetadata.__module__, FlattenedTensorMetadata.__qualname__ = place, "FlattenedTensorMetadata"
    for name in ("sglang", "sglang.srt", "sglang.srt.weight_sync", place):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[place].FlattenedTensorMetadata = FlattenedTensorMetadata
    metadata, flat, at = [], [], 0
    for name, tensor in named(pair[1]):
        flat.append(tensor.flatten().view(torch.uint8))
        end = at + flat[-1].numel()
        metadata.append(FlattenedTensorMetadata(name, tensor.shape, tensor.dtype, at, end, end - at))
        at = end
    payload = packed({"flattened_tensor": torch.cat(flat), "metadata": metadata})
    for name in ("sglang", "sglang.srt", "sglang.srt.weight_sync", place):
        monkeypatch.delitem(sys.modules, name)
    assert give(trainer, payload, load_format="flattened_bucket").json()["success"]
    assert generate(trainer) == (ids(pair[1]), "1")


class Evil:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (packed([("norm", Evil())]), "system, which no tensor is made of"),
        (packed([("model.norm.weight", torch.ones(3))], ForkingPickler), "send them by value"),
        (packed([("model.norm.wieght", torch.ones(3))]), "'model.norm.wieght' has no place"),
        (packed([("model.norm.weight", torch.ones(3))]), "has no place"),
        (packed([("model.norm.weight", 3)]), "no pickle of names and tensors"),
        (packed(torch.ones(3)), "no pickle of names and tensors"),
        ("????", "no pickle of names and tensors"),
    ],
    ids=["call", "handle", "name", "shape", "number", "bare", "noise"],
)
def test_a_pickle_builds_tensors_and_calls_nothing(trainer, pair, payload, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused = give(trainer, payload)
    assert (refused.status_code, refused.json()["success"]) == (400, False)
    assert said in refused.json()["message"]
    assert not (tmp_path / "hacked").exists()
    assert generate(trainer) == (ids(pair[0]), "0")


TRAINER = """
import datetime, json, sys, threading, urllib.request
import torch, torch.distributed as dist
from torch.distributed import distributed_c10d as c10d
from torch.distributed.rendezvous import rendezvous
from safetensors.torch import load_file

url, port, weights = sys.argv[1:]

def post(path, **body):
    request = urllib.request.Request(url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.loads(urllib.request.urlopen(request).read())

def meanwhile(path, **body):
    box = []
    thread = threading.Thread(target=lambda: box.append(post(path, **body)))
    thread.start()
    return lambda: (thread.join(), box[0])[1]

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # the trainer's own world
where = {"master_address": "127.0.0.1", "master_port": int(port), "rank_offset": 1, "world_size": 2}
joined = meanwhile("/init_weights_update_group", **where, group_name="pushed", backend="gloo")
store, rank, world = next(rendezvous(f"tcp://127.0.0.1:{port}", 0, 2))
group, _ = c10d._new_process_group_helper(
    2, 0, [], dist.Backend("gloo"), dist.PrefixStore("pushed", store), "pushed", timeout=datetime.timedelta(seconds=60)
)
c10d._world.pg_group_ranks[group] = {0: 0, 1: 1}
assert joined()["success"]
post("/pause_generation", mode="abort")
tensors = list(load_file(weights).items())
half = len(tensors) // 2
for some, bucket in ((tensors[:half], False), (tensors[half:], True)):
    about = {"names": [name for name, _ in some], "shapes": [list(tensor.shape) for _, tensor in some]}
    about |= {"dtypes": [str(tensor.dtype).removeprefix("torch.") for _, tensor in some], "weight_version": "7"}
    about |= {"load_format": "flattened_bucket"} if bucket else {}
    done = meanwhile("/update_weights_from_distributed", **about, group_name="pushed")
    flat = torch.cat([tensor.flatten().view(torch.uint8) for _, tensor in some])
    for tensor in [flat] if bucket else [tensor for _, tensor in some]:
        dist.broadcast(tensor, 0, group=group)
    assert done()["success"]
post("/continue_generation")
left = meanwhile("/destroy_weights_update_group", group_name="pushed")
dist.destroy_process_group(group)
assert left()["success"]
"""


def test_a_trainer_broadcasts(trainer, pair, tmp_path):
    save_model(pair[1], tmp_path / "new", dtype="float32")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", TRAINER, str(trainer.base_url), str(port), tmp_path / "new/model.safetensors"]
    assert subprocess.run(command, timeout=90, check=False).returncode == 0
    assert generate(trainer) == (ids(pair[1]), "7")
    gone = trainer.post("/destroy_weights_update_group", json={"group_name": "pushed"})
    assert (gone.status_code, gone.json()["success"]) == (404, False)


def test_a_group_that_is_not_there(trainer):
    refused = trainer.post(
        "/update_weights_from_distributed",
        json={"names": ["a"], "dtypes": ["bfloat16"], "shapes": [[1]], "group_name": "none"},
    )
    assert (refused.status_code, refused.json()["success"]) == (404, False)


def test_a_directory_has_the_version_that_it_was_given_with(trainer, pair, tmp_path, tokenizer):
    save_model(pair[1], tmp_path / "step-9", dtype="float32")
    trainer.post("/update_weights_from_disk", json={"model_path": "step-9", "weight_version": "nine"})
    assert generate(trainer) == (ids(pair[1]), "nine")
    renamed = trainer.post("/update_weight_version", json={"new_version": "ten"}).json()
    assert renamed == {"success": True, "message": "weights ten", "new_version": "ten"}
    assert trainer.get("/get_weight_version").json() == {"weight_version": "ten"}
    assert generate(trainer)[1] == "ten"


def test_weights_are_shown_by_name(trainer, pair):
    name, tensor = list(named(pair[0]))[3]
    for method in ("GET", "POST"):
        shown = trainer.request(method, "/get_weights_by_name", json={"name": name, "truncate_size": 2}).json()
        assert torch.equal(torch.tensor(shown), tensor[:2])
    assert trainer.post("/get_weights_by_name", json={"name": "none"}).status_code == 404


@pytest.mark.parametrize("tags", [None, ["kv_cache"], ["weights"]])
def test_memory_is_given_up_and_taken_again(trainer, pair, tags):
    def held():
        return trainer.cache.keys.untyped_storage().nbytes()

    before = held()
    assert generate(trainer)[0] == ids(pair[0])
    assert trainer.post("/release_memory_occupation", json={"tags": tags}).status_code == 200
    assert held() == (before if tags == ["weights"] else 0)
    box = []
    thread = threading.Thread(target=lambda: box.append(generate(trainer)))
    thread.start()
    time.sleep(0.2)
    assert trainer.get("/health_generate").status_code == 200
    assert not box, "nothing is computed without memory"
    give(trainer, packed([(name, tensor.clone()) for name, tensor in named(pair[1])]))
    assert trainer.post("/resume_memory_occupation", json={}).status_code == 200
    thread.join(20)
    assert box == [(ids(pair[1]), "1")]
    assert held() == before


def test_what_a_router_asks(trainer, pair):
    model, server = (trainer.get(f"/{path}").json() for path in ("model_info", "server_info"))
    assert (model["model_path"], model["is_generation"], model["weight_version"]) == ("minimind", True, "0")
    assert model["model_type"] == ("qwen3_moe" if pair[0].config.num_experts else "qwen3")
    assert (server["tp_size"], server["dp_size"], server["max_running_requests"]) == (1, 1, 8)
    assert trainer.get("/get_model_info").json() == model
    assert trainer.get("/get_server_info").json() == server
    assert trainer.get("/health_generate").json() == {"status": "ok"}
    assert trainer.get("/flush_cache").status_code == 200


def test_strangers_change_nothing(model, tokenizer, tmp_path):
    with serving(model, tokenizer, rollout_root=tmp_path, api_key="secret") as (url, _), httpx.Client() as http:
        for path in ("update_weights_from_tensor", "init_weights_update_group", "release_memory_occupation"):
            assert http.post(f"{url}/{path}", json={}).status_code == 401
            elsewhere = {"Origin": "https://evil.example", "Authorization": "Bearer secret"}
            assert http.post(f"{url}/{path}", json={}, headers=elsewhere).status_code == 403
            assert http.get(f"{url}/{path}", headers={"Authorization": "Bearer secret"}).status_code == 405


def test_without_rollout_there_is_none_of_it(http):
    for path in ("update_weights_from_tensor", "update_weights_from_distributed", "release_memory_occupation"):
        assert http.post(f"/{path}", json={}).status_code == 404
    assert http.get("/model_info").status_code == 404
