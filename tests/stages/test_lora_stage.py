"""`train lora`: an adapter as the result, from exactly the base on, exactly resumed, on any number of ranks."""

import json
import shutil

import pytest
import torch
from processes import in_ranks
from safetensors.torch import load_file, save_file
from test_bad_input import refused, state
from test_exact import killed_again_and_again
from test_stages import figures, weights

import minimind as package
from minimind import recipe as recipes
from minimind import runtime
from minimind.model.lora import LoraLinear
from minimind.model.store import load_model, save_model
from minimind.stages import lora as stage
from minimind.stages import setup
from minimind.tokenizer.bpe import Tokenizer


@pytest.fixture(scope="module")
def flags(sft_flags, tuned):
    """A LoRA run of four steps; add `--out`."""
    return ["train", "lora", *sft_flags[2:], "--init", str(tuned / "model"), "--save-every", "2"]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, minimind, flags):
    run = tmp_path_factory.mktemp("lora") / "run"
    ended = minimind(*flags, "--out", run)
    assert ended.code == 0, ended.err
    assert "parameters are trained" in " ".join(ended.err.split())
    return run


def test_the_result_is_an_adapter(adapted, tuned):
    names = {"adapter_config.json", "adapter_model.safetensors", "base.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in (adapted / "model").iterdir()} == names
    last = adapted / "checkpoints" / "step-00000004"
    assert weights(adapted) == (last / "adapter_model.safetensors").read_bytes()
    size = sum(path.stat().st_size for path in last.rglob("*") if path.suffix != ".json")
    base = (tuned / "model" / "model.safetensors").stat().st_size
    assert size < base, "no copy of the base; moments are float32, and it is bfloat16"
    tensors = load_file(adapted / "model" / "adapter_model.safetensors")
    assert all(tensor.any() for tensor in tensors.values()), "every factor was trained"


def test_the_first_step_sees_exactly_the_base(adapted, minimind, sft_flags, tuned, tmp_path):
    ended = minimind(*sft_flags, "--init", tuned / "model", "--max-steps", "1", "--out", tmp_path / "sft")
    assert ended.code == 0, ended.err
    assert figures(adapted)[0]["loss"] == figures(tmp_path / "sft")[0]["loss"]


def test_dora_measures_the_rows_as_they_will_be_multiplied(tuned, tmp_path):
    base = load_model(tuned / "model", device=torch.device("cpu"))
    with torch.no_grad():
        for parameter in base.parameters():
            parameter *= 1 + 2**-9 * torch.rand_like(parameter)  # what bfloat16 rounds away
    shutil.copytree(tuned / "model", tmp_path / "base")
    save_model(base, tmp_path / "base", "float32")
    settings = {"init": str(tmp_path / "base"), "lora.rank": 4, "lora.dora": True, "train.dtype": "bfloat16"}
    settings |= {"stage": "lora", "data.sequence_length": 64, "train.device": "cpu"}
    model = setup.make_model(recipes.override(recipes.Recipe(), settings), Tokenizer.load(tuned / "model"))
    adapted = [one for one in model.modules() if isinstance(one, LoraLinear)]
    assert adapted
    for one in adapted:
        assert torch.equal(one.lora.magnitude, one.weight.bfloat16().float().norm(dim=-1))


def test_an_adapter_is_taken_for_a_model(adapted, tuned, minimind, world, tmp_path):
    lm = package.load(adapted / "model", "cpu")
    beside = package.load(tuned / "model", "cpu", lora=adapted / "model")
    ids = lm.tokenizer.encode("Hello, 你好")
    assert torch.equal(lm.logits(ids), beside.logits(ids))
    assert not torch.equal(lm.logits(ids), package.load(tuned / "model", "cpu").logits(ids))
    asked = ["--prompt", "Who are you?", "--max-new-tokens", "8", "--device", "cpu"]
    alone = minimind("chat", adapted / "model", *asked)
    assert alone.code == 0, alone.err
    assert minimind("chat", tuned / "model", "--lora", adapted / "model", *asked).out == alone.out
    argv = ["eval", "bpb", "--data", world / "few_pretrain_valid.jsonl", "--json", "--device", "cpu"]
    assert json.loads(minimind(*argv, adapted / "model").out)["bpb"] > 0

    merged = minimind("export", "merge-lora", adapted / "model", tmp_path / "merged", "--json")
    assert merged.code == 0, merged.err
    saved = runtime.compute_dtype(torch.device("cpu"))
    assert json.loads(merged.out)["dtype"] == str(saved).removeprefix("torch."), "as the run saved its weights"
    expected = load_model(adapted / "model")
    for name, value in load_model(tmp_path / "merged").named_parameters():
        assert torch.equal(value, expected.get_parameter(name).to(saved).float()), name
    assert package.load(tmp_path / "merged", "cpu").tokenizer.fingerprint == lm.tokenizer.fingerprint
    exact = minimind("export", "merge-lora", adapted / "model", tmp_path / "exact", "--dtype", "float32")
    assert exact.code == 0, exact.err
    assert torch.equal(package.load(tmp_path / "exact", "cpu").logits(ids), lm.logits(ids))


def test_another_stage_goes_on_from_it_merged(adapted, sft_flags, minimind, tmp_path):
    ended = minimind(*sft_flags, "--init", adapted / "model", "--max-steps", "1", "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    learned, before = figures(tmp_path / "run")[0]["loss"], figures(adapted)[0]["loss"]
    assert learned < before, "of the same conversations, which the adapter has seen"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_base_of_16_bits_is_validated_in_them(flags, world, minimind, tmp_path, dtype):
    more = ["--valid", world / "lora_valid.jsonl", "--max-steps", "1", "--set.train.dtype", dtype]
    ended = minimind(*flags, *more, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert "validation bpb" in " ".join(ended.err.split())


def in_all_ways(before, out):
    """The run of `before` again, in this rank."""
    for kind in ("ddp", "fsdp"):
        stage.run(recipes.load(recipes.Recipe, before / "recipe.toml", {"train.parallel": kind}), out / kind)


def test_ranks_change_nothing(adapted, tmp_path):
    in_ranks(2, in_all_ways, adapted, tmp_path)
    expected = load_file(adapted / "model" / "adapter_model.safetensors")
    for kind in ("ddp", "fsdp"):
        for one, other in zip(figures(adapted), figures(tmp_path / kind), strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
        tensors = load_file(tmp_path / kind / "model" / "adapter_model.safetensors")
        assert tensors.keys() == expected.keys()
        for name, tensor in tensors.items():
            assert torch.cosine_similarity(tensor.flatten(), expected[name].flatten(), dim=0) > 0.98, name


@pytest.mark.parametrize(
    ("dtype", "compiled", "preset"),
    [
        ("float32", "never", "dora"),
        pytest.param("bfloat16", "never", "dropout", marks=pytest.mark.slow),
        pytest.param("bfloat16", "always", "rslora", marks=pytest.mark.slow),
    ],
)
def test_killed_at_any_instant(flags, tmp_path, dtype, compiled, preset):
    kinds = {"dora": ["dora", "true"], "dropout": ["dropout", "0.1"], "rslora": ["rslora", "true"]}
    name, value = kinds[preset]
    argv = [*flags, f"--set.lora.{name}", value, "--set.train.dtype", dtype, "--set.train.compile", compiled]
    killed_again_and_again([*argv, "--max-steps", "6"], tmp_path, f"{dtype} {compiled} {preset}")


@pytest.fixture
def base(tuned, tmp_path):
    return shutil.copytree(tuned / "model", tmp_path / "base")


def test_mistakes_are_one_sentence_and_leave_nothing(minimind, flags, base, adapted, tmp_path):
    argv = [*flags, "--init", base, "--out", tmp_path / "run"]
    before = state(tmp_path)
    no_init = [*flags[: flags.index("--init")], "--out", tmp_path / "run"]
    refused(minimind(*no_init), 2, "--init MODEL_DIR")
    refused(minimind(*argv, "--set.lora.rank", "0"), 2, "--set.lora.rank N")
    refused(minimind(*argv, "--set.lora.rank", "4000"), 2, "lora.rank = 4000", "at most")
    refused(minimind(*argv, "--set.lora.targets", '["query"]'), 2, "'query' matches no matrix", "q_proj", "down_proj")
    refused(minimind(*argv, "--set.lora.targets", "[]"), 2, "lora.targets")
    refused(minimind(*argv, "--set.lora.dropout", "1.0"), 2, "lora.dropout")
    refused(minimind(*argv, "--init", adapted / "model"), 1, "is an adapter", "export merge-lora")
    refused(minimind("export", "merge-lora", base, tmp_path / "out"), 1, "adapter_config.json")
    refused(minimind("export", "gguf", adapted / "model", tmp_path / "a.gguf"), 1, "is an adapter", "merge-lora")
    assert state(tmp_path) == before


def test_a_run_goes_on_only_from_its_base_and_rank(minimind, flags, base, tmp_path):
    argv = [*flags, "--init", base, "--out", tmp_path / "run", "--max-steps", "2"]
    assert minimind(*argv).code == 0
    refused(minimind(*argv, "--max-steps", "3", "--set.lora.rank", "4"), 1, "lora.rank was 8 and is 4 now")
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    refused(minimind(*argv, "--max-steps", "3"), 1, "has other weights than the run started from")
    refused(minimind("chat", tmp_path / "run" / "model", "--prompt", "hi"), 1, "adapter of other weights", str(base))
