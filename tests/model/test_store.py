"""Model directories: what is written, what is refused, and with which words."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

from minimind.config import PRESETS
from minimind.errors import UserError
from minimind.model.attend import Segments
from minimind.model.hf_config import config_from_hf, config_to_hf
from minimind.model.qwen3 import Transformer
from minimind.model.store import load_config, load_model, save_model

CONFIG = PRESETS["tiny-moe"].with_(num_hidden_layers=1, vocab_size=50)


@pytest.fixture
def directory(tmp_path):
    torch.manual_seed(0)
    save_model(Transformer(CONFIG), tmp_path)
    return tmp_path


def change(directory, edit):
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_the_directory_is_bfloat16_with_separate_experts_and_nothing_temporary(directory):
    assert {f.name for f in directory.iterdir()} == {"config.json", "generation_config.json", "model.safetensors"}
    tensors = load_file(directory / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert tensors["model.layers.0.mlp.experts.3.down_proj.weight"].shape == (192, 512)
    content = json.loads((directory / "config.json").read_text())
    assert content["architectures"] == ["Qwen3MoeForCausalLM"]
    assert GenerationConfig.from_pretrained(directory).eos_token_id == 2
    assert {p.dtype for p in load_model(directory).parameters()} == {torch.float32}


def test_a_bfloat16_model_keeps_float32_rotations_and_saves_the_same_bytes(directory):
    model = load_model(directory, dtype=torch.bfloat16)
    assert model.rope.frequencies.dtype == torch.float32
    ids = torch.tensor([[1, 2, 3]])
    assert model(ids, Segments.whole(ids)).states.dtype == torch.bfloat16
    before = (directory / "model.safetensors").read_bytes()
    save_model(model, directory)
    assert (directory / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("preset", PRESETS)
def test_config_round_trips(preset):
    config = PRESETS[preset].with_(rope_scaling={"rope_type": "yarn", "factor": 2.0})
    assert config_from_hf(json.loads(json.dumps(config_to_hf(config)))) == config


def test_both_spellings_of_rope_are_read():
    older = config_to_hf(CONFIG.with_(rope_scaling={"rope_type": "yarn", "factor": 2.0}, rope_theta=5e4))
    newer = dict(older)
    newer["rope_parameters"] = {"rope_theta": newer.pop("rope_theta"), **newer.pop("rope_scaling")}
    assert config_from_hf(newer) == config_from_hf(older)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda t: t.pop("model.norm.weight"), ["model.norm.weight", "missing"]),
        (lambda t: t.update(extra=torch.zeros(1)), ["'extra'", "no place"]),
        (lambda t: t.update({"model.norm.weight": torch.zeros(7)}), ["model.norm.weight", r"\[7\]", r"\[192\]"]),
    ],
)
def test_tensors_that_do_not_fit_are_named(directory, edit, words):
    change(directory, edit)
    for word in words:
        with pytest.raises(UserError, match=word):
            load_model(directory)


def test_the_head_of_a_tied_model_may_be_there(directory):
    change(directory, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    load_model(directory)
    change(directory, lambda t: t["lm_head.weight"].add_(1))
    with pytest.raises(UserError, match="set tie_word_embeddings to false"):
        load_model(directory)


def test_what_is_no_model_is_called_so(directory, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(UserError, match="not a model directory"):
        load_model(empty)
    (directory / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(UserError, match="not a readable safetensors"):
        load_model(directory)
    (directory / "config.json").write_text('{"model_type": "minimind"}')
    with pytest.raises(UserError, match="another architecture"):
        load_config(directory)
    (directory / "config.json").write_text("{")
    with pytest.raises(UserError, match="JSON"):
        load_config(directory)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_model(Transformer(CONFIG), tmp_path / "file" / "model")
