"""The change of a frozen model: its formula, its start at exactly nothing, what it may be put on."""

import copy

import pytest
import torch
from torch.nn import functional as F

from minimind.config import ModelConfig
from minimind.errors import UsageError
from minimind.model import lora
from minimind.model.attend import Segments
from minimind.model.linear import Linear
from minimind.model.qwen3 import Transformer
from minimind.model.settings import LoraConfig

DENSE = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    moe_intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
)
SHAPES = {
    "dense": DENSE,
    "bias": DENSE.with_(attention_bias=True, tie_word_embeddings=False),
    "moe": DENSE.with_(num_experts=4, num_experts_per_tok=2),
}
KINDS = {
    "lora": LoraConfig(rank=4),
    "rslora": LoraConfig(rank=8, rslora=True, alpha=4.0),
    "dora": LoraConfig(rank=4, dora=True),
}
IDS = torch.arange(40).remainder(64)[None]
SEGMENTS = Segments.whole(IDS)


def base(shape="dense", seed=0):
    torch.manual_seed(seed)
    return Transformer(SHAPES[shape]).eval()


def adapted(model, config, stirred=False):
    """`model` with a change; `stirred` makes it an arbitrary one."""
    model = copy.deepcopy(model)
    lora.attach(model, config, base="somewhere")
    if stirred:
        with torch.no_grad():
            for update in lora.updates(model).values():
                update.B.normal_(0, 0.05)
                if update.magnitude is not None:
                    update.magnitude.mul_(torch.rand_like(update.magnitude) + 0.5)
    return model


def states(model):
    return model(IDS, SEGMENTS).states


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_starts_from_exactly_the_base(shape, kind):
    model = base(shape)
    if (shape, kind) != ("bias", "dora"):  # there the bias is added apart from the product
        assert torch.equal(states(adapted(model, KINDS[kind])), states(model))
    half = adapted(model, KINDS[kind])
    lora.freeze_in(half, torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        expected, got = states(model), states(half)
    torch.testing.assert_close(got, expected, rtol=0, atol=0 if shape != "bias" else 0.02)
    assert half.layers[0].self_attn.q_proj.weight.dtype == torch.bfloat16
    assert half.embed_tokens.weight.dtype == half.layers[0].self_attn.q_proj.lora.A.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_merged_it_computes_the_same(shape, kind):
    model = adapted(base(shape), KINDS[kind], stirred=True)
    plain = lora.merged(model)
    assert plain.adaptation is None
    assert not lora.updates(plain)
    assert (states(model) - states(base(shape))).abs().max() > 0.01
    torch.testing.assert_close(states(plain), states(model), atol=2e-5, rtol=1e-4)
    assert plain.embed_tokens.weight.data_ptr() == model.embed_tokens.weight.data_ptr(), "shared"


def test_the_formula_of_the_papers():
    torch.manual_seed(0)
    layer, x = Linear(12, 20, bias=False), torch.randn(7, 12)
    for config, scale in ((LoraConfig(rank=4, alpha=6.0), 1.5), (LoraConfig(rank=4, alpha=6.0, rslora=True), 3.0)):
        changed = lora.LoraLinear(layer, config)
        torch.nn.init.normal_(changed.lora.B)
        expected = x @ layer.weight.T + scale * x @ changed.lora.A.T @ changed.lora.B.T
        torch.testing.assert_close(changed(x), expected)


def test_dora_trains_lengths_and_takes_the_norm_for_a_constant():
    torch.manual_seed(0)
    layer, x = Linear(12, 20), torch.randn(7, 12)
    layer.requires_grad_(False)
    changed = lora.LoraLinear(layer, LoraConfig(rank=4, alpha=4.0, dora=True))
    torch.nn.init.normal_(changed.lora.B)
    changed(x).square().sum().backward()
    A, B, m = (p.detach().clone().requires_grad_() for p in (changed.lora.A, changed.lora.B, changed.lora.magnitude))
    direction = layer.weight + B @ A
    y = F.linear(x, m[:, None] * direction / direction.detach().norm(dim=1, keepdim=True), layer.bias)
    torch.testing.assert_close(changed(x), y)
    y.square().sum().backward()
    for own, expected in zip((changed.lora.A, changed.lora.B, changed.lora.magnitude), (A, B, m), strict=True):
        torch.testing.assert_close(own.grad, expected.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", ["dense", "moe"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_the_change_is_trained(shape, checkpointing):
    model = adapted(base(shape), LoraConfig(rank=4, dropout=0.5), stirred=True).train()
    model.activation_checkpointing = checkpointing
    states(model).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad == (".lora." in name), name
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"{trained:,} parameters are trained" in lora.report(model)
    assert "14 matrices" in lora.report(model)


def test_dropout_is_only_for_training():
    model = adapted(base(), LoraConfig(rank=4, dropout=0.5), stirred=True)
    assert torch.equal(states(model), states(model))
    assert not torch.equal(states(model.train()), states(model))


@pytest.mark.parametrize("shape", ["dense", "moe"])
def test_switched_off_it_is_the_base(shape):
    model = adapted(base(shape), KINDS["dora"], stirred=True)
    changed, expected = states(model), states(base(shape).requires_grad_(False))
    with lora.off(model):
        assert torch.equal(states(model), expected)
    assert torch.equal(states(model), changed)
    with pytest.raises(TypeError), lora.off(model):
        model(None)
    assert torch.equal(states(model), changed), "on again, whatever happened"


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (["q_proj"], ["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"]),
        (["layers.1.self_attn.[kv]_proj"], ["layers.1.self_attn.k_proj", "layers.1.self_attn.v_proj"]),
        (["model.layers.0.mlp.up_proj", "0.*.up_proj"], ["layers.0.mlp.up_proj"]),
    ],
)
def test_patterns(targets, names):
    model = adapted(base(), LoraConfig(rank=2, targets=targets))
    assert list(model.adaptation.names) == names
    assert list(lora.updates(model)) == [f"{name}.weight" for name in names]


def test_experts_are_stacked_and_the_head_can_be_changed_too():
    model = adapted(base("moe"), LoraConfig(rank=2, targets=["up_proj"]))
    assert model.layers[0].mlp.experts.lora["up_proj"].A.shape == (4, 2, 32)
    assert model.layers[0].mlp.experts.lora["up_proj"].B.shape == (4, 48, 2)
    assert list(adapted(base("bias"), LoraConfig(rank=2, targets=["lm_head"])).adaptation.names) == ["lm_head"]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            LoraConfig(rank=2, targets=["q_proj", "query"]),
            ["'query'", "k_proj", "up_proj", "layers.0.self_attn.q_proj"],
        ),
        (LoraConfig(rank=17), ["lora.rank = 17", "k_proj of 16 × 32", "at most 16"]),
    ],
)
def test_what_cannot_be_is_refused(config, words):
    model = base()
    with pytest.raises(UsageError) as refused:
        lora.attach(model, config, base="somewhere")
    assert all(word in str(refused.value) for word in words), refused.value
    assert all(parameter.requires_grad for parameter in model.parameters()), "nothing was changed"
