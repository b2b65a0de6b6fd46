"""Adapters on the disk: as `peft` writes and reads them, and what is refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_lora import IDS, KINDS, SHAPES, adapted, base, states

from minimind.errors import UserError
from minimind.model import lora
from minimind.model.adapter import is_adapter, peft_trouble, save_adapter
from minimind.model.files import weights_checksum
from minimind.model.settings import LoraConfig
from minimind.model.store import load_config, load_model, save_model


@pytest.fixture(scope="module", params=["dense", "moe"])
def shape(request):
    return request.param


@pytest.fixture
def place(tmp_path):
    """Writes a random model of a shape, and a stirred adapter of it; returns the model that has both."""

    def make(shape, config, seed=0):
        folder = tmp_path / "base"
        save_model(base(shape, seed), folder, "float32")
        model = adapted(load_model(folder), config, stirred=True)
        model.adaptation = lora.Adaptation(config, model.adaptation.names, folder, weights_checksum(folder))
        weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
        save_adapter(model, weights, tmp_path / "adapter")
        return model

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read_back(place, tmp_path, shape, kind):
    model = place(shape, KINDS[kind])
    read = load_model(tmp_path / "adapter")
    assert read.adaptation is None
    for name, value in lora.plain_weights(model).items():
        assert torch.equal(read.get_parameter(name), value), name
    assert load_config(tmp_path / "adapter") == SHAPES[shape]
    half = load_model(tmp_path / "base", torch.bfloat16, adapter=tmp_path / "adapter")
    assert torch.equal(half.layers[0].self_attn.q_proj.weight, read.layers[0].self_attn.q_proj.weight.bfloat16())


def theirs(tmp_path, adapter=None):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    return pytest.importorskip("peft").PeftModel.from_pretrained(model, adapter).eval() if adapter else model


def logits(model):
    return model.logits(states(model))


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_ours(place, tmp_path, kind):
    model = place("dense", KINDS[kind])
    assert peft_trouble(model) is None
    torch.testing.assert_close(theirs(tmp_path, tmp_path / "adapter")(IDS).logits, logits(model), atol=1e-4, rtol=1e-4)


def test_peft_reads_ours_of_experts(place, tmp_path):
    model = place("moe", KINDS["lora"])
    assert peft_trouble(model) is None
    torch.testing.assert_close(theirs(tmp_path, tmp_path / "adapter")(IDS).logits, logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (KINDS["dora"], "DoRA"),
        (KINDS["rslora"], "rsLoRA"),
        (LoraConfig(rank=2, dropout=0.1), "dropout"),
        (LoraConfig(rank=2, targets=["up_proj"]), "gate_proj without up_proj"),
        (LoraConfig(rank=2, targets=["layers.1.*.down_proj"]), "experts of some layers"),
        (LoraConfig(rank=2, targets=["q_proj"]), None),
    ],
)
def test_what_peft_cannot_read_is_known(config, reason):
    trouble = peft_trouble(adapted(base("moe"), config))
    assert trouble is reason or reason in trouble


@pytest.mark.parametrize("targets", [["layers.1.self_attn.q_proj", "layers.0.mlp.down_proj"], ["o_proj"]])
def test_peft_changes_the_same_layers(place, tmp_path, targets):
    model = place("dense", LoraConfig(rank=2, targets=targets))
    their = theirs(tmp_path, tmp_path / "adapter")
    found = {name.split(".model.model.")[1] for name, module in their.named_modules() if hasattr(module, "lora_A")}
    assert found == set(model.adaptation.names)
    torch.testing.assert_close(their(IDS).logits, logits(model), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}], ids=["lora", "dora", "rslora"])
def test_ours_reads_theirs(place, tmp_path, options):
    place("dense", KINDS["lora"])
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], **options)
    model = peft.get_peft_model(theirs(tmp_path), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
        elif "magnitude" in name:
            parameter.data.mul_(1.5)
    model.save_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(logits(load_model(tmp_path / "theirs")), model(IDS).logits, atol=1e-4, rtol=1e-4)


def edit(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def refused(directory, *words, **more):
    with pytest.raises(UserError) as error:
        load_model(directory, **more)
    text = str(error.value)
    assert all(word in text for word in words), text


def test_an_adapter_of_something_else_is_refused(place, tmp_path):
    place("dense", KINDS["lora"])
    adapter, other = tmp_path / "adapter", tmp_path / "other"
    save_model(base("dense", seed=1), other)
    refused(other, "other weights than those in", str(other), adapter=adapter)
    save_model(base("moe"), other)
    tensors = load_file(adapter / "adapter_model.safetensors")
    (adapter / "base.json").unlink()  # as peft's are: of which weights is not said
    refused(other, "mlp.", "has no place in", "of another model", adapter=adapter)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file(tensors | {name: torch.zeros(4, 31)}, adapter / "adapter_model.safetensors")
    refused(adapter, "lora_A.weight", "layers.0.self_attn.q_proj", "[4, 31]", "[4, 32]", "of another model")
    save_file({n: t for n, t in tensors.items() if n != name}, adapter / "adapter_model.safetensors")
    refused(adapter, "layers.0.self_attn.q_proj", "missing")
    shutil.rmtree(tmp_path / "base")
    refused(adapter, "is an adapter of", "which is not there", "--lora")


def test_a_model_that_is_written_where_an_adapter_was_takes_its_place(place, tmp_path):
    model = place("dense", KINDS["lora"])
    save_model(lora.merged(model), tmp_path / "adapter")
    assert not is_adapter(tmp_path / "adapter")
    load_model(tmp_path / "adapter")


def test_half_an_adapter_and_those_of_other_kinds_are_refused(place, tmp_path):
    place("dense", KINDS["lora"])
    adapter, config = tmp_path / "adapter", tmp_path / "adapter" / "adapter_config.json"
    refused(tmp_path / "base", "is no adapter", "adapter_config.json", adapter=tmp_path / "base")
    refused(adapter, "merge it first", adapter=adapter)
    save_file({}, adapter / "adapter_model.safetensors")
    refused(adapter, "is empty")
    (adapter / "adapter_model.safetensors").unlink()
    refused(adapter, "no adapter_model.safetensors")
    edit(config, lambda content: content.update(lora_dropout=None, use_dora=None, bias=None, rank_pattern=None))
    refused(adapter, "no adapter_model.safetensors")  # which it comes to: null is the default
    edit(config, lambda content: content.update(lora_alpha="six"))
    refused(adapter, "lora_alpha is 'six', but should be a number")
    edit(config, lambda content: content.update(lora_alpha=6))
    edit(config, lambda content: content.update(r=0))
    refused(adapter, "r is 0, but should be")
    edit(config, lambda content: content.update(rank_pattern={"q_proj": 2}))
    refused(adapter, "rank_pattern", "merge_and_unload")
    for other in ({"alora_invocation_tokens": [7]}, {"init_lora_weights": "pissa_niter_4"}):
        edit(config, lambda content, other=other: content.update({"rank_pattern": {}} | other))
        refused(adapter, next(iter(other)), "merge_and_unload")
    edit(config, lambda content: content.update(peft_type="LOHA"))
    refused(adapter, "LOHA")


def test_an_expert_that_is_missing_is_noticed(place, tmp_path):
    place("moe", KINDS["lora"])
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({n: t for n, t in load_file(path).items() if ".experts.2.up_proj.lora_B" not in n}, path)
    refused(tmp_path / "adapter", "lora_B.weight of layers.0.mlp.experts.up_proj", "each of its experts")
