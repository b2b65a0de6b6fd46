"""Model directories of strangers: whatever a file says, one sentence within seconds, and never a dead process."""

import json
import shutil
import time

import pytest
import torch

from minimind.config import PRESETS
from minimind.convert.minimind_pth import import_model
from minimind.errors import UserError
from minimind.model import lora
from minimind.model.adapter import save_adapter
from minimind.model.files import weights_checksum
from minimind.model.hf_config import read_generation
from minimind.model.qwen3 import Transformer
from minimind.model.settings import LoraConfig
from minimind.model.store import load_model, save_model
from minimind.tokenizer.bpe import Tokenizer

SHAPE = {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 16, "moe_intermediate_size": 16, "head_dim": 8}
SHAPE |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 6400}
SECONDS = 10.0

CONFIG = {
    "num_hidden_layers": [4096, 10**6, 10**30, -1, 0, "8", 1.5, [], True],
    "num_experts": [65536, 10**6, -1, "4", {}],
    "num_experts_per_tok": [0, 5, "1"],
    "vocab_size": [2**24, 10**9, -1, "6400", None],
    "hidden_size": [2**20, 2**40, 0, [16]],
    "head_dim": [7, 2**21, -8],
    "num_attention_heads": [3, 0, 2**21],
    "rms_norm_eps": [0, -1, "1e-6", [], 1e308],
    "max_position_embeddings": [0, -5, 2**40, "long"],
    "eos_token_id": [{}, "two", -1, [[]], 2**40],
    "mlp_only_layers": [["a"], 3, {}],
    "rope_theta": [0, -1, "x", []],
    "rope_scaling": [[1], "yarn", {"rope_type": "yarn", "factor": -1}, {"rope_type": 3}, {"rope_type": "moon"}],
    "model_type": ["llama", 3, None, []],
}
SPLIT = {"type": "Split", "pattern": {"Regex": 3}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
TOKENIZER = {
    "model": [None, [], "BPE", {}, {"type": "BPE"}],
    "model.vocab": [[], {}, "a", {"a": -1}, {"a": 1.5}, {"a": 10**12}, {"a": None}],
    "model.merges": [{}, "a b", [1], [["a"]], ["a"]],
    "model.continuing_subword_prefix": ["x"],
    "pre_tokenizer": [[1], "x", True, {"type": "moon"}],
    "pre_tokenizer.pretokenizers": ["x", [1], {}, [SPLIT, BYTES]],
    "added_tokens": ["x", [1], [{}], [{"id": -1, "content": "a"}], [{"id": "1", "content": "a"}]],
    "decoder": [1, "x", [], {"type": 3}],
    "normalizer": [1, "x", [1]],
}
TOKENIZER_CONFIG = {"eos_token": [3, [], {}, "no such token", {"content": 3}], "chat_template": [3, {}, [3]]}
GENERATION = {
    "temperature": ["hot", -1, [], 1e9],
    "top_p": [2, -1, "x"],
    "top_k": [-1, 1.5, [], 2**70],
    "repetition_penalty": [0, -1, "x"],
}
ADAPTER = {
    "r": [0, -1, "8", 2**31 - 1, 1e300],
    "lora_alpha": ["x", [], 1e300],
    "lora_dropout": [2, "x"],
    "peft_type": ["ADALORA", 3, None],
    "use_dora": ["yes"],
    "base_model_name_or_path": [3, []],
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    torch.manual_seed(0)
    model = Transformer(PRESETS["tiny-moe"].with_(**SHAPE))
    save_model(model, folder / "model")
    Tokenizer.load("default").save(folder / "model")
    model = load_model(folder / "model")
    lora.attach(model, LoraConfig(rank=2), folder / "model", weights_checksum(folder / "model"))
    save_adapter(model, {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}, folder / "adapter")
    return folder


def write(folder, name, where, value):
    """The file with one value in it replaced; None: left out."""
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    *path, last = where.split(".")
    place = content
    for key in path:
        place = place[key]
    place[last] = value
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def cases(table):
    return [(where, value) for where, values in table.items() for value in values]


def check(read):
    """One sentence or success; in bounded time."""
    start, said = time.perf_counter(), ""
    try:
        read()
    except UserError as error:
        said = str(error)
    assert time.perf_counter() - start < SECONDS
    assert len(said) < 1000
    assert "\n" not in said.strip()
    return said


def uses(folder):
    """What chat, serve, eval and train do first."""
    load_model(folder)
    tokenizer = Tokenizer.load(folder)
    tokenizer.decode(tokenizer.encode("hi 你好 \U0001f642"))


@pytest.mark.parametrize(("where", "value"), cases(CONFIG), ids=str)
def test_config(good, tmp_path, where, value):
    folder = shutil.copytree(good / "model", tmp_path / "model")
    write(folder, "config.json", where, value)
    check(lambda: uses(folder))


@pytest.mark.parametrize(
    ("name", "where", "value"),
    [("tokenizer.json", *case) for case in cases(TOKENIZER)]
    + [("tokenizer_config.json", *case) for case in cases(TOKENIZER_CONFIG)],
    ids=str,
)
def test_tokenizer(good, tmp_path, name, where, value):
    folder = shutil.copytree(good / "model", tmp_path / "model")
    write(folder, name, where, value)
    check(lambda: uses(folder))


@pytest.mark.parametrize(("where", "value"), cases(ADAPTER), ids=str)
def test_adapter(good, tmp_path, where, value):
    folder = shutil.copytree(good / "adapter", tmp_path / "adapter")
    write(folder, "adapter_config.json", where, value)
    assert check(lambda: load_model(folder))


@pytest.mark.parametrize(("where", "value"), cases(GENERATION), ids=str)
def test_generation_config(good, tmp_path, where, value):
    (tmp_path / "generation_config.json").write_text(json.dumps({where: value}), encoding="utf-8")
    assert check(lambda: read_generation(tmp_path))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(
    "text", ["", "[]", "null", '{"a": ', "[" * 200_000, '{"a":' * 200_000, "\ufeff{}", "1e999", "NaN"]
)
def test_no_json(good, tmp_path, name, text):
    folder = shutil.copytree(good / "model", tmp_path / "model")
    (folder / name).write_text(text, encoding="utf-8")
    check(lambda: uses(folder))


PTH = {
    "a layer of a number like none": {"model.layers.99999999.self_attn.q_proj.weight": torch.zeros(16, 16)},
    "a layer that is no number": {"model.layers.x.self_attn.q_proj.weight": torch.zeros(16, 16)},
    "no tensors": {"a": 1, "b": [2]},
    "a norm of size 0": {"model.norm.weight": torch.zeros(0), "model.embed_tokens.weight": torch.zeros(6400, 0)},
    "a scalar": {"model.embed_tokens.weight": torch.tensor(1.0)},
    "numbers for names": {1: torch.zeros(2)},
    "a list": [torch.zeros(2)],
}


@pytest.mark.parametrize("name", PTH)
def test_pth(tmp_path, name):
    torch.save(PTH[name], tmp_path / "full_sft_512.pth")
    assert check(lambda: import_model(tmp_path / "full_sft_512.pth", tmp_path / "out"))


def test_pth_that_is_none(tmp_path):
    (tmp_path / "full_sft_512.pth").write_bytes(b"\x80\x02cposix\nsystem\n.")
    assert check(lambda: import_model(tmp_path / "full_sft_512.pth", tmp_path / "out"))
