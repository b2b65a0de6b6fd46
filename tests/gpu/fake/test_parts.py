"""Decoding, packing and scoring on a GPU that is not there, and that what would wait for it is found."""

from unittest.mock import patch

import pytest
import torch
from fake_cuda import DEVICE, Synchronisation, fake_cuda
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.nn import functional as F

from minimind import runtime
from minimind.config import PRESETS
from minimind.engine import graphs
from minimind.engine.engine import Engine
from minimind.engine.sampling import Sampling
from minimind.losses.log_probs import token_log_probs
from minimind.model.attend import Documents, Layout, Segments
from minimind.model.cache import KVCache, Span
from minimind.model.qwen3 import Transformer

RULES = [
    Sampling(temperature=0, max_new_tokens=6),
    Sampling(temperature=0.7, max_new_tokens=9),
    Sampling(top_p=0.9, top_k=50, min_p=0.1, max_new_tokens=5),
    Sampling(repetition_penalty=1.1, presence_penalty=0.5, logit_bias={3: 1.0}, max_new_tokens=7),
]


def build(preset="tiny", dtype=torch.float32):
    return Transformer(PRESETS[preset].with_(num_hidden_layers=2, vocab_size=512)).to(DEVICE, dtype)


def waits(*kinds):
    return pytest.raises((Synchronisation, *kinds))


def test_the_mode_finds_what_waits():
    with fake_cuda() as mode:
        there, here = torch.zeros(4, device=DEVICE), torch.zeros(4)
        assert (there + 1).sum().item() == 0, "not measured, it may be asked"
        with mode.measured():
            for act in (there.tolist, there.any().__bool__, there.sum().item, there.max().__float__):
                with waits(DataDependentOutputException):
                    act()
            for act in (there.nonzero, lambda: there[there > 0]):
                with pytest.raises(DynamicOutputShapeException):
                    act()
            for act in (there.cpu, lambda: here.to(DEVICE), lambda: torch.tensor([1], device=DEVICE)):
                with pytest.raises(Synchronisation):
                    act()
            with pytest.raises(RuntimeError, match="device"):
                there + here
            assert runtime.sent(here, DEVICE).device == DEVICE
            assert (here + 1).sum().item() == 4, "the host may be asked"


def test_gradients_have_the_shapes_of_their_parameters():
    with fake_cuda():
        x, w = (torch.zeros(3, 4, device=DEVICE, requires_grad=True) for _ in range(2))
        unused = torch.zeros(4, device=DEVICE, requires_grad=True)
        ((x * w[:1]).sum() + x.sum()).backward()
        assert (x.grad.shape, w.grad.shape, unused.grad) == (x.shape, w.shape, None)
    x = torch.arange(6.0).view(2, 3).requires_grad_()
    with fake_cuda():
        (x.exp() * x.sum(1, keepdim=True)).sum().backward()
    found, x.grad = x.grad, None
    (x.exp() * x.sum(1, keepdim=True)).sum().backward()
    torch.testing.assert_close(found, x.grad)


def former_layout(segments, dtype):
    """Documents looked for on the device."""
    ids = segments.document_ids
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids[:, :-1]
    starts = torch.nn.functional.pad(first.flatten().nonzero().flatten(), (0, 1), value=ids.numel())
    return Layout(None, Documents(starts.int(), ids.shape[1]))


@pytest.mark.parametrize("preset", ["tiny", "tiny-moe"])
def test_a_pass_takes_the_kernel_that_skips_other_documents(preset):
    lengths = torch.tensor([5, 64, 33])
    with fake_cuda() as mode:
        model = build(preset)
        with mode.measured(), torch.autocast("cuda", dtype=torch.bfloat16):
            segments = Segments.right_padded(lengths, 64, DEVICE)
            ids = torch.zeros(3, 64, dtype=torch.int64, device=DEVICE)
            varlen = patch("minimind.model.attend._attend_varlen", side_effect=NotImplementedError)
            with varlen as kernel, pytest.raises(NotImplementedError):
                model(ids, segments)
            starts, longest = kernel.call_args.args[3:]
            assert (starts.shape, longest) == ((9,), 64), "five documents, padding among them; a power of two"
            model(ids, segments)
            former = patch("minimind.model.attend.make_layout", former_layout)
            with former, pytest.raises(DynamicOutputShapeException):
                model(ids, segments)


def test_labels_on_the_device_would_be_waited_for():
    with fake_cuda() as mode, mode.measured():
        states, weight = torch.zeros(2, 8, 16, device=DEVICE), torch.zeros(32, 16, device=DEVICE)
        labels = torch.zeros(2, 8, dtype=torch.int64)
        token_log_probs(states, weight, labels)
        with pytest.raises(Synchronisation):
            token_log_probs(states, weight, runtime.sent(labels, DEVICE))


def test_no_mask_meets_grouped_heads():
    """Together they leave CUDA the kernel that holds all scores. Here: a prompt whose beginning is cached."""
    with fake_cuda(), torch.inference_mode():
        model = build(dtype=torch.bfloat16)
        cache = KVCache(model.config, 32, torch.bfloat16, DEVICE)
        ids = torch.zeros(1, 8, dtype=torch.int64, device=DEVICE)
        with patch.object(F, "scaled_dot_product_attention", wraps=F.scaled_dot_product_attention) as kernel:
            model(ids, cache.read([Span(cache.all_pages, 8, 16)]))
    assert kernel.call_count == 2
    for call in kernel.call_args_list:
        q, k, _ = call.args
        assert call.kwargs["attn_mask"] is not None
        assert q.shape[1] == k.shape[1]


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("preset", ["tiny", "tiny-moe"])
def test_a_pass_of_the_engine_waits_only_for_its_tokens(preset, recorded, monkeypatch):
    read, asked = Engine._tokens, []
    if not recorded:
        monkeypatch.setattr(graphs, "make", lambda *_: None)
    with fake_cuda() as mode:

        def tokens(*args):
            asked.append(len(args[2]))
            with mode.measured(strict=False):
                return read(*args)

        monkeypatch.setattr(Engine, "_tokens", tokens)
        engine = Engine(build(preset, torch.bfloat16), max_batch_size=4, context=96)
        requests = [engine.submit(list(range(2, 9 + n)), rules) for n, rules in enumerate(RULES)]
        with mode.measured():
            while any(request.finish_reason is None for request in requests):
                engine.step()
        step = engine._model_runners[None].decode_step
        assert (isinstance(step, graphs.GraphStep) and len(step._graphs) > 1) == recorded
    assert sum(asked) == sum(rules.max_new_tokens for rules in RULES)
