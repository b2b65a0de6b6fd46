"""Checkpoints of others, made here: MiniMind's `.pth` files and directories, `transformers`' own, and broken ones."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import DENSE, SHAPES, TOKENIZER, random_model

import minimind
from minimind.convert.gguf_tokenizer import PROBE
from minimind.convert.minimind_pth import import_model
from minimind.errors import UserError
from minimind.model.store import load_config

IDS = TOKENIZER.encode(PROBE)[:100]


def state_dict(directory, **extra):
    """A model's tensors as the source project names and saves them: in half precision, the tied head too."""
    tensors = {name: tensor.half() for name, tensor in load_file(directory / "model.safetensors").items()}
    return {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]} | extra


@pytest.fixture
def published(model_of, tmp_path):
    """`published(shape)`: a folder with `full_sft_768.pth` and the tokenizer's files, and its state dict."""

    def make(shape):
        folder = tmp_path / "published"
        folder.mkdir()
        tensors = state_dict(model_of(shape))
        torch.save(tensors, folder / "full_sft_768.pth")
        TOKENIZER.save(folder)
        return folder / "full_sft_768.pth", tensors

    return make


@pytest.mark.parametrize("shape", ["dense", "moe, normalised"])
def test_a_state_dict_becomes_the_same_model(published, model_of, tmp_path, shape):
    file, tensors = published(shape)
    figures = import_model(file, tmp_path / "out")
    assert figures["dtype"] == "float16"
    config = load_config(tmp_path / "out")
    assert config == SHAPES[shape].with_(max_position_embeddings=32768)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert written.keys() == tensors.keys() - {"lm_head.weight"}
    assert all(torch.equal(written[name], tensors[name]) for name in written)
    logits = minimind.load(tmp_path / "out", "cpu").logits(IDS)
    assert (logits - minimind.load(model_of(shape), "cpu").logits(IDS)).abs().max() < 0.1, "but for half precision"


def test_the_old_format_of_torch_files_and_an_untied_head(published, tmp_path):
    file, tensors = published("dense")
    tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    torch.save(tensors, file, _use_new_zipfile_serialization=False)
    import_model(file, tmp_path / "out", dtype="float32")
    assert load_config(tmp_path / "out").tie_word_embeddings is False
    assert load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"].dtype == torch.float32


@pytest.mark.parametrize("use_moe", [False, True])
@pytest.mark.parametrize("pickled", [False, True])
def test_a_directory_of_the_source_project(model_of, tmp_path, use_moe, pickled):
    shape = "moe, normalised" if use_moe else "dense"
    source = shutil.copytree(model_of(shape), tmp_path / "minimind-3")
    content = {
        "model_type": "minimind",
        "architectures": ["MiniMindForCausalLM"],
        "use_moe": use_moe,
        "vocab_size": 6400,
    }
    content |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    content |= {"num_key_value_heads": 2, "eos_token_id": 2, "bos_token_id": 1, "max_position_embeddings": 1024}
    (source / "config.json").write_text(json.dumps(content), encoding="utf-8")
    if pickled:
        torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
        (source / "model.safetensors").unlink()
    import_model(source, tmp_path / "out")
    config = load_config(tmp_path / "out")
    assert (config.head_dim, config.rope_theta, config.tie_word_embeddings) == (16, 1e6, True)
    assert config.num_experts == (4 if use_moe else 0)
    assert config.norm_topk_prob == use_moe, "as it was"
    wanted = minimind.load(model_of(shape), "cpu").logits(IDS)
    assert torch.equal(minimind.load(tmp_path / "out", "cpu").logits(IDS), wanted)


@pytest.mark.parametrize("shape", ["untied", "moe, two of four"])
def test_what_transformers_saves_in_shards(model_of, tmp_path, shape):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(model_of(shape), dtype=torch.bfloat16)
    model.generation_config.temperature = 0.25
    model.save_pretrained(tmp_path / "theirs", max_shard_size="300KB")
    TOKENIZER.save(tmp_path / "theirs")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    figures = import_model(tmp_path / "theirs", tmp_path / "out")
    assert (figures["dtype"], figures["files"]) == ("bfloat16", 1)
    with torch.inference_mode():
        wanted = model.float()(torch.tensor([IDS])).logits[0]
    assert (minimind.load(tmp_path / "out", "cpu").logits(IDS) - wanted).abs().max() < 1e-3
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["temperature"] == 0.25


def test_all_tensors_that_do_not_fit_are_named(model_of, tmp_path):
    source = shutil.copytree(model_of("moe"), tmp_path / "model")
    tensors = load_file(source / "model.safetensors")
    for layer in (0, 1):
        del tensors[f"model.layers.{layer}.self_attn.q_norm.weight"]
        tensors[f"model.layers.{layer}.self_attn.q_bias"] = torch.zeros(3)
    tensors["model.norm.weight"] = torch.zeros(7)
    tensors["extra"] = torch.zeros(1)
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(UserError) as error:
        import_model(source, tmp_path / "out")
    said = str(error.value)
    assert "missing: model.layers.*.self_attn.q_norm.weight (2)" in said
    assert "unexpected:" in said
    assert "model.layers.*.self_attn.q_bias (2)" in said
    assert "extra" in said
    assert "model.norm.weight" in said.split("of another shape")[1]
    assert not (tmp_path / "out").exists()


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


def old_names():
    return {"tok_embeddings.weight": torch.zeros(8, 4), "layers.0.attention.wq.weight": torch.zeros(4, 4)}


def second_version(model_of):
    return {name: tensor for name, tensor in state_dict(model_of("dense")).items() if "_norm.weight" not in name[-14:]}


REFUSED = {
    "version 1": (lambda model_of: old_names(), ["v1 / v2", "QK-norm"]),
    "version 2": (second_version, ["v1 / v2", "QK-norm"]),
    "something else": (lambda model_of: {"encoder.weight": torch.zeros(2)}, ["no MiniMind-3 state dict"]),
    "hostile": (lambda model_of: {"a": torch.zeros(1), "b": Hostile()}, ["more than tensors", "any program"]),
    "training checkpoint": (lambda model_of: {"model": state_dict(model_of("dense")), "step": 3}, ["no state dict"]),
    "a list": (lambda model_of: [torch.zeros(1)], ["no state dict"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_such_state_dict_is_refused(model_of, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    make, words = REFUSED[case]
    torch.save(make(model_of), tmp_path / "model.pth")
    TOKENIZER.save(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(UserError) as error:
        import_model(tmp_path / "model.pth", tmp_path / "out")
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing ran, nothing was written"


def test_a_plain_pickle_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pth").write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(UserError, match=r"more than tensors|damaged"):
        import_model(tmp_path / "model.pth", tmp_path / "out")
    assert not (tmp_path / "pwned").exists()


def test_damaged_files_and_missing_parts(published, model_of, tmp_path):
    file, _ = published("dense")
    whole, out = file.read_bytes(), tmp_path / "out"
    for broken in (whole[: len(whole) // 2], b"", b"hello"):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=r"full_sft_768\.pth is damaged|more than tensors"):
            import_model(file, out)
    file.write_bytes(whole)
    (file.parent / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="--tokenizer DIR"):
        import_model(file, out)
    with pytest.raises(UserError, match=r"no config\.json; of a \.pth file, name the file itself"):
        import_model(file.parent, out)
    with pytest.raises(UserError, match="hf:user/name"):
        import_model(tmp_path / "user" / "name", out)
    with pytest.raises(UserError, match=r"no \.pth file"):
        import_model(model_of("dense") / "config.json", out)
    source = shutil.copytree(model_of("dense"), tmp_path / "model")
    (source / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    with pytest.raises(UserError, match="'llama', but only 'qwen3' and 'qwen3_moe'"):
        import_model(source, out)
    (source / "config.json").write_text('{"model_type": "minimind"}', encoding="utf-8")
    (source / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        import_model(source, out)
    assert not out.exists()


def test_a_tokenizer_too_large_for_the_model(tmp_path):
    small = random_model(DENSE.with_(vocab_size=600))
    state = {f"model.{name}": tensor.detach() for name, tensor in small.named_parameters()}
    torch.save(state, tmp_path / "small.pth")
    with pytest.raises(UserError, match="6400 entries"):
        import_model(tmp_path / "small.pth", tmp_path / "out", tokenizer="default")
