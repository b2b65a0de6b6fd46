"""The model against `transformers`: every preset's shape, both gates, YaRN, tied and not, packed and one by one."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from minimind.config import PRESETS
from minimind.losses.lm import linear_cross_entropy
from minimind.model.attend import Segments
from minimind.model.cache import PAGE, KVCache, Span
from minimind.model.qwen3 import Transformer
from minimind.model.store import load_model, save_model

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
SMALL = {"num_hidden_layers": 2, "vocab_size": 100, "initializer_range": 0.1}
VARIANTS = {
    "plain": {},
    "untied": {"tie_word_embeddings": False},
    "bias": {"attention_bias": True},
    "yarn": {"rope_scaling": YARN},
    "yarn-betas": {"rope_scaling": {**YARN, "beta_fast": 16, "beta_slow": 2, "attention_factor": 1.3}},
    "yarn-mscale": {"rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}, "rope_theta": 1e4},
    "yarn-untruncated": {"rope_scaling": {**YARN, "truncate": False}},
    "top2": {"num_experts": 4, "num_experts_per_tok": 2},
    "top2-normalised": {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True},
    "top1-normalised": {"num_experts": 4, "norm_topk_prob": True},
    "every-second-layer": {"num_experts": 4, "decoder_sparse_step": 2},
    "dense-first": {"num_experts": 4, "mlp_only_layers": (0,)},
}


def build(config):
    torch.manual_seed(1)
    model = Transformer(config).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms at 1 and biases at 0 would hide a mistake
            torch.nn.init.normal_(parameter, 0.0 if name.endswith("bias") else 1.0, 0.2)
    return model


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


CASES = [pytest.param(PRESETS[name].with_(**SMALL), id=name) for name in PRESETS]
CASES += [pytest.param(PRESETS["tiny"].with_(**SMALL, **v), id=name) for name, v in VARIANTS.items()]


@pytest.mark.parametrize("config", CASES)
@torch.no_grad()
def test_logits_equal_transformers_and_the_way_back(config, tmp_path):
    model = build(config)
    save_model(model, tmp_path / "ours", "float32")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32)
    for length in (1, 17, 130):
        ids = torch.randint(0, config.vocab_size, (2, length))
        logits = model.logits(model(ids, Segments.whole(ids)).states)
        assert relative(logits, theirs(ids).logits) < 1e-4
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="200KB")
    back = load_model(tmp_path / "theirs")
    assert relative(back.logits(back(ids, Segments.whole(ids)).states), logits) < 1e-5


@pytest.mark.parametrize("preset", ["tiny", "tiny-moe"])
@torch.no_grad()
def test_packed_documents_equal_one_by_one(preset):
    model = build(PRESETS[preset].with_(**SMALL))
    lengths = [10, 1, 15]
    ids = torch.randint(0, 100, (1, 30))
    documents = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)] + [torch.full((4,), -1)]).int()[None]
    positions = torch.cat([torch.arange(n) for n in [*lengths, 4]])[None]
    packed = model(ids, Segments(documents, positions)).states
    start = 0
    for n in lengths:
        part = ids[:, start : start + n]
        assert relative(packed[:, start : start + n], model(part, Segments.whole(part)).states) < 1e-5
        start += n


@pytest.mark.parametrize("preset", ["tiny", "tiny-moe"])
@torch.no_grad()
def test_the_cache_continues_what_a_whole_pass_computes(preset):
    config = PRESETS[preset].with_(**SMALL)
    model = build(config)
    ids = torch.randint(0, 100, (3, 24))
    whole = model(ids, Segments.whole(ids)).states
    cache = KVCache(config, 8 * PAGE, torch.float32, "cpu")
    tables = [[5, 2], [7, 0], [1, 6]]
    passes = [  # (sequence, positions): whole prompts, then the newest of two and a stretch, then padding
        [(0, 0, 4), (1, 0, 14)],
        [(0, 4, 5), (2, 0, 1), (1, 14, 21)],
        [(0, 5, 6), (2, 1, 2), (1, 21, 22)],
    ]
    for parts in passes:
        tokens = [(sequence, t) for sequence, start, end in parts for t in range(start, end)]
        sequences, positions = torch.tensor([*tokens, (0, 0)]).unbind(1)
        spans = [Span(tables[sequence], start, end) for sequence, start, end in parts]
        states = model(ids[sequences, positions][None], cache.read(spans, padding=1)).states[0]
        assert relative(states[:-1], whole[sequences, positions][:-1]) < 1e-5
    again = model(ids[1:2, 16:18], cache.read([Span([7, 3], 16, 18)])).states  # another with the same beginning
    assert relative(again[0], whole[1, 16:18]) < 1e-5


@pytest.mark.parametrize("preset", ["tiny", "tiny-moe"])
def test_activation_checkpointing_changes_no_gradient(preset):
    model = build(PRESETS[preset].with_(**SMALL))
    ids = torch.randint(0, 100, (2, 12))
    gradients = []
    for on in (False, True):
        model.activation_checkpointing = on
        model.zero_grad()
        linear_cross_entropy(model(ids, Segments.whole(ids)).states, model.output_weight, ids.flatten()).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_norms_and_the_residual_stream_stay_float32_under_autocast():
    model = build(PRESETS["tiny"].with_(**SMALL))
    ids = torch.randint(0, 100, (2, 40))
    exact = model(ids, Segments.whole(ids)).states
    with torch.autocast("cpu", torch.bfloat16):
        states = model(ids, Segments.whole(ids)).states
    assert states.dtype == torch.float32
    assert relative(states, exact) < 0.03


def test_init_scales_what_writes_to_the_residual_stream():
    torch.manual_seed(0)
    model = Transformer(PRESETS["tiny"])
    layer = model.layers[0]
    assert layer.self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.mlp.down_proj.weight.std().item() == pytest.approx(0.02 / (2 * len(model.layers)) ** 0.5, rel=0.05)
    assert sum(p.numel() for p in model.parameters()) == PRESETS["tiny"].parameters()


def test_one_compiled_graph_serves_all_blocks():
    """Compiling a block once for all layers is what makes it cheap: a graph a layer would take eight times as long."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    model = build(PRESETS["tiny"].with_(**SMALL, num_experts=0)).train()
    ids = torch.randint(0, 100, (2, 32))
    plain = model(ids, Segments.whole(ids)).states
    model.compile_blocks(backend=backend)
    compiled = model(ids, Segments.whole(ids)).states
    assert len(graphs) == 1
    torch.testing.assert_close(compiled, plain)
