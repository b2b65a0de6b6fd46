"""Attention document by document against PyTorch's with a mask of all pairs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from minimind.config import PRESETS
from minimind.model import attend as attention
from minimind.model.attend import Segments
from minimind.model.document_attention import BLOCK, attend_documents, attend_documents_backward, blocks
from minimind.model.qwen3 import Transformer


def rows(*lengths):
    """Document ids `[B, T]` of documents of these lengths, row by row."""
    return torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths]).int()


def inputs(document_ids, heads=4, key_heads=2, dtype=torch.float64):
    torch.manual_seed(0)
    shape = (*document_ids.shape, heads, 8)
    q = torch.randn(shape, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(*shape[:2], key_heads, 8, dtype=dtype, requires_grad=True) for _ in range(2))
    return q, k, v


def dense(q, k, v, document_ids):
    seen = (document_ids[:, :, None] == document_ids[:, None, :]).tril()[:, None]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(1, 2)


LONG = rows((3, 600, 5, 1, 91), (250, 6, 300, 144))


@pytest.mark.parametrize(("document_ids", "heads", "key_heads"), [(LONG, 4, 2), (LONG, 3, 3), (rows((1,)), 2, 1)])
def test_values_and_gradients_equal_those_of_a_dense_mask(document_ids, heads, key_heads):
    q, k, v = inputs(document_ids, heads, key_heads)
    weight = torch.randn(q.shape, dtype=q.dtype)
    found, expected = attend_documents(q, k, v, document_ids), dense(q, k, v, document_ids)
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad((found * weight).sum(), (q, k, v))
    theirs = torch.autograd.grad((expected * weight).sum(), (q, k, v))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_the_operators_are_what_they_tell_the_compiler():
    document_ids = rows((3, 9), (12,))
    q, k, v = inputs(document_ids, dtype=torch.float32)
    torch.library.opcheck(attend_documents, (q, k, v, document_ids))
    plain = [x.detach() for x in (torch.ones_like(q), q, k, v)]
    torch.library.opcheck(attend_documents_backward, (*plain, document_ids))


lengths = st.lists(st.integers(1, 700), min_size=1, max_size=30)


@given(lengths)
def test_every_token_asks_once_and_sees_its_whole_document(lengths):
    found = list(blocks(rows(lengths)))
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    asked = 0
    for row, start, first, end in found:
        assert row == 0
        assert first == asked, "one after the other"
        assert start in starts, "a window begins with a document"
        assert 0 < end - first <= BLOCK
        asked = end
    assert asked == sum(lengths)
    for window in {start for _, start, _, _ in found}:
        end = max(end for _, start, _, end in found if start == window)
        inside = [start for start in starts if window <= start < end]
        assert end - window <= BLOCK or len(inside) == 1, "more than one document only where they fit"


def test_padding_is_no_long_document():
    row = torch.cat([torch.zeros(10), torch.full((2000,), -1)]).int()[None]
    found = list(blocks(row))
    assert found[-1].end == 2010
    assert all(end - start <= BLOCK for _, start, _, end in found)


@pytest.mark.parametrize("preset", ["tiny", "tiny-moe"])
def test_a_model_gives_long_rows_the_gradients_of_short_ones(preset, monkeypatch):
    torch.manual_seed(0)
    model = Transformer(PRESETS[preset].with_(vocab_size=64, hidden_size=32, num_hidden_layers=2))
    document_ids = rows((100, 200, 20), (1, 19, 300))
    ids = torch.randint(0, 64, document_ids.shape)
    segments = Segments(document_ids, torch.arange(320).expand(2, 320))

    def gradients():
        model.zero_grad()
        states = model(ids, segments).states
        (states * torch.linspace(-1, 1, states.numel()).view_as(states)).sum().backward()
        return states.detach(), [
            parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None
        ]

    by_mask, expected = gradients()
    monkeypatch.setattr(attention, "PRODUCTS_UP_TO", 319)
    by_document, found = gradients()
    torch.testing.assert_close(by_document, by_mask, rtol=1e-4, atol=1e-5)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_compiled_function_calls_it():
    document_ids = rows((40, 60))
    q, k, v = inputs(document_ids, dtype=torch.float32)

    def loss(q, k, v):
        return (attend_documents(2 * q, k, v, document_ids) ** 2).sum()

    expected = torch.autograd.grad(loss(q, k, v), (q, k, v))
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for one, other in zip(torch.autograd.grad(compiled(q, k, v), (q, k, v)), expected, strict=True):
        torch.testing.assert_close(one, other)
