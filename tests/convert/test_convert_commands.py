"""`minimind export`, `import` and `push` from the command line: figures, next steps, and mistakes in one sentence."""

import json
import os
import pickle
import shutil
import sys
import warnings

import pytest
from small_models import TOKENIZER

pytest.importorskip("gguf")


def refused(ended, code, *words):
    assert ended.code == code, ended.err
    assert ended.err.count("minimind: ") == 1
    assert "Traceback" not in ended.err
    sentence = ended.err.split("minimind: ", 1)[1].strip()
    assert "\n" not in sentence
    for word in words:
        assert word in sentence, sentence


@pytest.fixture
def here(tmp_path, monkeypatch, model_of):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(model_of("moe"), tmp_path / "model")
    return tmp_path


def test_there_and_back(minimind, here):
    ended = minimind("export", "gguf", "model", "new/model.gguf", "--type", "q8_0", "--json")
    assert json.loads(ended.out)["architecture"] == "bailingmoe2"
    assert minimind("export", "ollama", "model", "for-ollama", "--type", "f16").code == 0
    ended = minimind("export", "hf", "model", "copy", "--dtype", "float16", "--questions", "hi", "--json")
    assert json.loads(ended.out)["dtype"] == "float16"
    ended = minimind("import", "copy", "again", "--json")
    assert json.loads(ended.out)["dtype"] == "float16"
    assert (here / "again" / "model.safetensors").read_bytes() == (here / "copy" / "model.safetensors").read_bytes()
    ended = minimind("push", "copy", "hf:me/small", "--dry-run", "--json")
    assert "README.md" in json.loads(ended.out)["files"]
    assert "Nothing was sent" in minimind("push", "model", "modelscope:me/small", "--dry-run").err


def test_every_command_has_a_help_page(minimind):
    for argv in (["export"], ["export", "gguf"], ["export", "ollama"], ["export", "hf"], ["import"], ["push"]):
        ended = minimind(*argv, "--help")
        assert ended.code == 0, ended.err
        assert "usage" in ended.out


MISTAKES = {
    "format": (["export", "ggfu", "model", "a.gguf"], 2, ["ggfu", "did you mean 'gguf'"]),
    "type": (["export", "gguf", "model", "a.gguf", "--type", "q8"], 2, ["--type q8", "did you mean 'q8_0'"]),
    "ollama's type": (["export", "ollama", "model", "out", "--type", "f61"], 2, ["--type f61", "did you mean 'f16'"]),
    "no gguf": (["export", "gguf", "model", "a.bin"], 2, ["a.bin", ".gguf"]),
    "no model": (["export", "gguf", "none", "a.gguf"], 1, ["none", "not a model directory"]),
    "no model for hf": (["export", "hf", "none", "out"], 1, ["none", "not a model directory"]),
    "dtype": (["export", "hf", "model", "out", "--dtype", "int8"], 2, ["int8"]),
    "size": (["export", "hf", "model", "out", "--max-shard-size", "big"], 2, ["--max-shard-size big", "500MB"]),
    "there already": (["export", "hf", "model", "model"], 1, ["model is there already"]),
    "below a file": (["export", "gguf", "model", "model/config.json/a.gguf"], 1, ["cannot be written", "another"]),
    "nothing to import": (["import", "none.pth", "out"], 1, ["none.pth does not exist", "hf:user/name"]),
    "a name without its hub": (["import", "Qwen/Qwen3-0.6B", "out"], 1, ["does not exist", "hf:user/name"]),
    "half a name": (["import", "hf:Qwen3", "out"], 2, ["hf:user/name"]),
    "no destination": (["push", "model"], 2, ["DEST"]),
    "destination": (["push", "model", "me/small"], 2, ["hf:user/name"]),
    "push nothing": (["push", "none", "hf:me/small"], 1, ["none", "not a model directory"]),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_sentence_and_leave_nothing(minimind, here, case):
    argv, code, words = MISTAKES[case]
    before = sorted(str(path.relative_to(here)) for path in here.rglob("*"))
    refused(minimind(*argv), code, *words)
    assert sorted(str(path.relative_to(here)) for path in here.rglob("*")) == before


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a folder that the user cannot write")
def test_a_read_only_folder(minimind, here):
    (here / "locked").mkdir(mode=0o500)
    refused(minimind("export", "gguf", "model", "locked/a.gguf"), 1, "cannot be written", "another")
    refused(minimind("export", "hf", "model", "locked/out"), 1, "cannot be written", "another")


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files, which stands for a full disk")
def test_a_full_disk_leaves_nothing(minimind, here):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = sorted(here.rglob("*"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        ended = [
            minimind("export", "gguf", "model", "a.gguf"),
            minimind("export", "hf", "model", "out", "--questions"),
            minimind("import", "model", "out"),
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for one in ended:
        refused(one, 1, "cannot be written", "File too large")
    assert sorted(here.rglob("*")) == before


def test_an_offline_hub_is_one_sentence(minimind, here, monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for argv in (["import", "hf:me/small", "out"], ["push", "model", "hf:me/small"]):
        refused(minimind(*argv), 1, "http://127.0.0.1:9/me/small cannot be reached", "check the connection")
    assert not (here / "out").exists()


def test_the_reason_is_the_systems_not_the_clients(here):
    from minimind.convert.hub import _reason

    wrapped = "[E1020] HTTPConnectionPool(host='127.0.0.1'): (Caused by Error('x: [Errno 111] Connection refused'))"
    assert _reason(OSError(wrapped)) == "Connection refused"
    assert _reason(ValueError("no such thing\nmore")) == "no such thing"


def test_pickles_that_are_not_torchs(minimind, here):
    class Program:
        def __reduce__(self):
            return (os.mkdir, (str(here / "ran"),))

    (here / "evil.pth").write_bytes(pickle.dumps(Program()))
    with warnings.catch_warnings(record=True) as warned:
        refused(minimind("import", "evil.pth", "out"), 1, "evil.pth", "more than tensors", "any program")
    assert not warned
    assert not (here / "ran").exists()
    (here / "text.pth").write_text("hello", encoding="utf-8")
    refused(minimind("import", "text.pth", "out"), 1, "text.pth", "damaged or no torch file", "fetch it again")


def test_what_is_broken_says_what_to_do(minimind, here):
    weights = here / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    for argv in (["export", "gguf", "model", "a.gguf"], ["import", "model", "out"], ["push", "model", "hf:me/small"]):
        refused(minimind(*argv), 1, "not a readable safetensors file", "download it again")
    refused(minimind("export", "merge-lora", "model", "out"), 1, "adapter_config.json is missing")


def test_what_is_missing_on_the_command_line_is_named(minimind, here):
    refused(minimind("export", "hf"), 2, "missing: MODEL, OUT (see minimind export hf --help)")
    refused(minimind("eval", "bpb", "model"), 2, "missing: --data (see")


def test_a_missing_library_is_named(minimind, here, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    refused(minimind("export", "gguf", "model", "a.gguf"), 1, "gguf", "pip install 'minimind[export]'")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(minimind("push", "model", "hf:me/small"), 1, "huggingface_hub", "pip install 'minimind[data]'")


def test_the_tokenizer_of_a_state_dict_is_named(minimind, here, model_of):
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(model_of("dense") / "model.safetensors"), here / "full_sft_64.pth")
    refused(minimind("import", "full_sft_64.pth", "out"), 1, "--tokenizer DIR")
    ended = minimind("import", "full_sft_64.pth", "out", "--tokenizer", "default", "--json")
    assert json.loads(ended.out)["vocab_size"] == TOKENIZER.vocab_size
    assert "rope_theta 1000000.0" in " ".join(ended.err.split())
