"""Routing: the kernel and its fallback agree, the loss is Qwen3-MoE's of each layer, padding counts for nothing."""

import pytest
import torch
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from minimind.config import PRESETS
from minimind.losses.lm import linear_cross_entropy
from minimind.model import moe
from minimind.model.attend import Segments
from minimind.model.qwen3 import Transformer

CONFIG = PRESETS["tiny-moe"].with_(num_hidden_layers=2, vocab_size=100, initializer_range=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ends", [[3, 3, 20, 32], [0, 0, 0, 32], [32, 32, 32, 32]])
def test_the_grouped_kernel_equals_the_plain_loop(dtype, ends, monkeypatch):
    torch.manual_seed(0)
    x, weight = torch.randn(32, 16, dtype=dtype), torch.randn(4, 24, 16, dtype=dtype)
    outputs = []
    for kernel in (True, False):
        monkeypatch.setattr(moe, "_has_grouped_mm", lambda x, kernel=kernel: kernel)
        a, w = x.clone().requires_grad_(), weight.clone().requires_grad_()
        out = moe.grouped_linear(a, w, torch.tensor(ends, dtype=torch.int32))
        out.backward(torch.ones_like(out))
        outputs.append((out, a.grad, w.grad))
    for kernel, plain in zip(*outputs, strict=True):
        torch.testing.assert_close(kernel, plain, rtol=2e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-2)


@pytest.mark.parametrize("top_k", [1, 2])
def test_the_balancing_loss_is_qwens_of_each_layer_with_padding_left_out(top_k):
    torch.manual_seed(0)
    model = Transformer(CONFIG.with_(num_experts_per_tok=top_k))
    logits = []
    for layer in model.layers:
        route = layer.mlp.route
        layer.mlp.route = lambda x, route=route, gate=layer.mlp.gate: (logits.append(gate(x)), route(x))[1]
    ids, lengths = torch.randint(0, 100, (3, 20)), torch.tensor([20, 7, 13])
    router = model(ids, Segments.right_padded(lengths, 20, ids.device)).router
    mask = (torch.arange(20) < lengths[:, None]).int()
    layers = [load_balancing_loss_func((one,), CONFIG.num_experts, top_k, mask) for one in logits]
    assert layers[0] != layers[1]
    torch.testing.assert_close(router.load_balancing_loss(), torch.stack(layers).mean())
    assert router.counts.sum(1).tolist() == [40 * top_k] * 2
    torch.testing.assert_close(router.load().sum(1), torch.ones(2))


def test_layers_that_neglect_opposite_experts_are_not_balanced():
    opposite = torch.tensor([[8.0, 0.0], [0.0, 8.0]])
    assert moe.RouterStatistics(opposite, opposite, torch.tensor(8.0)).load_balancing_loss() == 2
    even = torch.full((2, 2), 4.0)
    assert moe.RouterStatistics(even, even, torch.tensor(8.0)).load_balancing_loss() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padding_gives_zero_even_where_it_is_not_finite(dtype):
    torch.manual_seed(0)
    layer = Transformer(CONFIG).layers[0].mlp.to(dtype)
    x = torch.randn(2, 8, CONFIG.hidden_size, dtype=dtype)
    padding = torch.zeros(2, 8, dtype=torch.bool)
    padding[1, 5:] = True
    expected, _ = layer(x, padding)
    x[padding] = torch.nan
    out, counts = layer(x, padding)
    out.sum().backward()
    assert out[padding].abs().sum() == 0
    torch.testing.assert_close(out, expected)
    assert counts.tokens.sum() == 13
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_the_router_learns_from_the_language_model_loss_unless_the_only_gate_is_normalised():
    gradients = {}
    for normalised in (False, True):
        torch.manual_seed(0)
        model = Transformer(CONFIG.with_(norm_topk_prob=normalised))
        ids = torch.randint(0, 100, (2, 20))
        states = model(ids, Segments.whole(ids)).states
        linear_cross_entropy(states, model.output_weight, ids.roll(-1)).backward()
        gradients[normalised] = model.layers[0].mlp.gate.weight.grad.norm().item()
    assert gradients[False] > 1e-3
    assert gradients[True] < 1e-4 * gradients[False]
