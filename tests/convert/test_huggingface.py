"""What we write, read by `transformers` itself without `trust_remote_code`; and the copy with its model card."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_models import ASKED, CALL, GREETED, SHAPES, THOUGHT, TOKENIZER, TOOL, random_model

import minimind
from minimind import recipe as recipes
from minimind.convert.gguf_tokenizer import PROBE
from minimind.convert.huggingface import export_hf, merge_lora
from minimind.data.settings import DataConfig
from minimind.errors import UsageError, UserError
from minimind.model.adapter import save_adapter
from minimind.model.lora import attach
from minimind.model.settings import LoraConfig
from minimind.recipe import Recipe
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render

transformers = pytest.importorskip("transformers")
IDS = TOKENIZER.encode(PROBE)[:300]


def theirs(directory, ids=IDS):
    """Logits `[time, vocab]` of `transformers`' own class."""
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.inference_mode():
        return model, model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_computes_the_same(model_of, shape):
    model, logits = theirs(model_of(shape))
    assert type(model).__name__ == ("Qwen3MoeForCausalLM" if "moe" in shape else "Qwen3ForCausalLM")
    assert (minimind.load(model_of(shape), "cpu").logits(IDS) - logits).abs().max() < 1e-3


def test_the_tokenizer_and_the_template_are_ours(model_of):
    tokenizer = transformers.AutoTokenizer.from_pretrained(model_of("dense"))
    for text in PROBE.splitlines():
        assert tokenizer.encode(text) == TOKENIZER.encode(text)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    turns = [{"role": "system", "content": "简短。"}, *GREETED, THOUGHT, *ASKED]
    after = [*ASKED, CALL, {"role": "tool", "content": "晴"}]
    for messages, tools in ((turns, None), (turns, [TOOL]), (after, [TOOL])):
        for thinking in (False, True):
            wanted, _ = render(messages, TOKENIZER, tools, open_thinking=thinking, add_generation_prompt=True)
            for name in ("open_thinking", "enable_thinking"):
                options = {"tools": tools, "add_generation_prompt": True, "return_dict": False, name: thinking}
                assert tokenizer.apply_chat_template(messages, **options) == wanted


@pytest.mark.parametrize("shape", ["dense", "moe"])
def test_shards_hold_the_same_model(model_of, tmp_path, shape):
    source = model_of(shape)
    figures = export_hf(source, tmp_path / "out", "keep", "400KB", ())
    assert figures["files"] > 1
    shards = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(shards) == figures["files"]
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    for shard in shards:
        with safe_open(shard, framework="pt") as handle:
            names = list(handle.keys())
        assert {index["weight_map"][name] for name in names} == {shard.name}
        assert shard.stat().st_size < 410_000 or len(names) == 1
    wanted = minimind.load(source, "cpu").logits(IDS)
    assert torch.equal(minimind.load(tmp_path / "out", "cpu").logits(IDS), wanted)
    assert (theirs(tmp_path / "out")[1] - wanted).abs().max() < 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_number_format_changes_in_file_and_configuration(model_of, tmp_path, dtype):
    export_hf(model_of("dense"), tmp_path / "out", dtype, questions=())
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as handle:
        assert {handle.get_tensor(name).dtype for name in handle.keys()} == {getattr(torch, dtype)}  # noqa: SIM118
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == getattr(torch, dtype)


@pytest.fixture
def run(taught, tmp_path):
    """A run folder around the taught model, with everything that a run leaves."""
    folder = tmp_path / "demo" / "sft"
    folder.mkdir(parents=True)
    export_hf(taught, folder / "model", questions=())
    (folder / "model" / "README.md").unlink()
    recipe = Recipe(
        stage="sft", init="/home/me/secret/pretrain/model", data=DataConfig(files=["/home/me/secret/sft.jsonl"])
    )
    (folder / "recipe.toml").write_text(recipes.dump(recipe), encoding="utf-8")
    (folder / "environment.json").write_text('{"minimind": "0.1.0", "torch": "2.13.0"}', encoding="utf-8")
    log = [{"step": 10, "loss": 2.5, "valid_bpb": 1.5}, {"step": 20, "loss": 1.25, "tokens": 81920, "valid_bpb": 1.125}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
    scores = {"stages": {"sft": {"scores": {"facts_en": 0.75}}}}
    (folder.parent / "report.json").write_text(json.dumps(scores), encoding="utf-8")
    return folder


def test_the_card_tells_the_run(run, tmp_path):
    export_hf(run / "model", tmp_path / "out", questions=("Hello!",))
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    content = pytest.importorskip("huggingface_hub").ModelCard(card)
    assert content.data.library_name == "transformers"
    assert content.data.language == ["zh", "en"]
    for words in (
        "| data | sft.jsonl |",
        "pretrain/model",
        "| steps | 20 |",
        "1.1250",
        "facts en | 75.0%",
        "torch 2.13.0",
    ):
        assert words in card
    assert "secret" not in card, "folders of this machine"
    assert "max_steps = 0" in card, "the whole recipe"
    assert "> Hello!\n" in card
    answer = minimind.load(run / "model", "cpu").chat([{"role": "user", "content": "Hello!"}], max_new_tokens=80)
    assert answer["content"].strip() in card


def test_the_card_of_a_model_without_a_run(model_of, tmp_path):
    export_hf(model_of("moe"), tmp_path / "out", questions=())
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "4, 1 a token" in card
    assert "## Training" not in card
    assert "## Scores" not in card


@pytest.mark.parametrize("text", ["extends = 'laptop/sft'\n", "no toml"])
def test_a_recipe_of_ones_own_beside_the_model_is_left_out(run, tmp_path, text):
    (run / "recipe.toml").write_text(text, encoding="utf-8")
    export_hf(run / "model", tmp_path / "out", questions=())
    assert "## Training" not in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_the_folder_that_one_is_in_is_not_replaced(model_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"the folder that you are in; name a new one"):
        export_hf(model_of("dense"), Path(), questions=())
    assert not list(tmp_path.iterdir())


def test_another_head_than_the_tied_one_is_not_lost(model_of, tmp_path):
    model = shutil.copytree(model_of("dense"), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    head = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors | {"lm_head.weight": head}, model / "model.safetensors")
    export_hf(model, tmp_path / "same", questions=())
    save_file(tensors | {"lm_head.weight": head + 1}, model / "model.safetensors")
    with pytest.raises(UserError, match="set tie_word_embeddings to false"):
        export_hf(model, tmp_path / "other", questions=())


def test_a_merged_adapter_keeps_its_own_tokenizer(model_of, tmp_path):
    model, base = random_model(SHAPES["dense"]), model_of("dense")
    attach(model, LoraConfig(rank=2), base, 0)
    save_adapter(model, {n: p for n, p in model.named_parameters() if ".lora." in n}, tmp_path / "adapter")
    for own in (False, True):
        if own:
            TOKENIZER.save(tmp_path / "adapter")
            config = tmp_path / "adapter" / "tokenizer_config.json"
            content = json.loads(config.read_text(encoding="utf-8")) | {"eos_token": "<|endoftext|>"}
            config.write_text(json.dumps(content), encoding="utf-8")
        merge_lora(tmp_path / "adapter", tmp_path / f"merged {own}")
        eos = TOKENIZER.control_id("<|endoftext|>") if own else TOKENIZER.eos_id
        assert Tokenizer.load(tmp_path / f"merged {own}").eos_id == eos


def test_what_is_there_is_not_overwritten_and_nothing_is_left(model_of, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious", encoding="utf-8")
    with pytest.raises(UserError, match="is there already"):
        export_hf(model_of("dense"), tmp_path / "out", questions=())
    with pytest.raises(UsageError, match="--max-shard-size 2: write a size such as"):
        export_hf(model_of("dense"), tmp_path / "new", max_shard_size="2")
    with pytest.raises(UserError, match="cannot be written"):
        export_hf(model_of("dense"), tmp_path / "out" / "mine" / "below", questions=())
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]
    assert (tmp_path / "out" / "mine").read_text(encoding="utf-8") == "precious"


def test_an_empty_folder_may_be_filled(model_of, tmp_path):
    export_hf(model_of("dense"), tmp_path, questions=())
    assert (tmp_path / "model.safetensors").is_file()
