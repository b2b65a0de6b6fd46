"""The chunked loss equals the plain one, in value and in gradient."""

import pytest
import torch
from torch.nn import functional as F

from minimind.losses.lm import labelled_rows, linear_cross_entropy, token_nll


def example(dtype=torch.float32, rows=70):
    torch.manual_seed(0)
    states = torch.randn(rows, 16, dtype=dtype, requires_grad=True)
    weight = torch.randn(50, 16, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 50, (rows,))
    labels[::3] = -100
    return states, weight, labels


@pytest.mark.parametrize("chunk", [1, 32, 70, 1000])
def test_value_and_gradients_equal_the_plain_loss(chunk):
    states, weight, labels = example()
    ours = linear_cross_entropy(states, weight, labels, chunk=chunk)
    plain = F.cross_entropy(states @ weight.t(), labels, reduction="sum")
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(
        torch.autograd.grad(ours * 0.25, (states, weight)),
        torch.autograd.grad(plain * 0.25, (states, weight)),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_gradcheck():
    states, weight, labels = example(torch.float64, 7)
    assert torch.autograd.gradcheck(lambda s, w: linear_cross_entropy(s, w, labels, chunk=3), (states, weight))


@pytest.mark.parametrize("chunk", [16, 1000])
def test_leaving_out_unsupervised_rows_changes_nothing(chunk):
    states, weight, labels = example(torch.float64)
    sums = [linear_cross_entropy(states, weight, labels, chunk=chunk, sparse=sparse) for sparse in (False, True)]
    torch.testing.assert_close(*sums)
    torch.testing.assert_close(*(torch.autograd.grad(total, (states, weight)) for total in sums))
    nothing = linear_cross_entropy(states, weight, torch.full_like(labels, -100), sparse=True)
    assert nothing == 0
    assert not torch.autograd.grad(nothing, states)[0].any()


def test_labelled_rows_come_in_whole_chunks():
    labels = torch.full((12,), -100)
    cpu = torch.device("cpu")
    assert len(labelled_rows(labels, 4, cpu)[0]) == 0
    labels[[1, 3, 7, 8, 10]] = 5
    rows, their_labels = labelled_rows(labels, 4, cpu)
    assert torch.equal(their_labels, labels[rows])
    assert len(rows) == 8
    assert rows[:5].tolist() == [1, 3, 7, 8, 10]
    assert (labels[rows[5:]] == -100).all()
    assert len(labelled_rows(labels, 100, cpu)[0]) == 12, "there are no more"


def test_a_tied_weight_gets_both_gradients():
    _, weight, labels = example()
    ids = labels.clamp(min=0)
    ours = linear_cross_entropy(F.embedding(ids, weight).tanh(), weight, labels, chunk=16)
    plain = F.cross_entropy(F.embedding(ids, weight).tanh() @ weight.t(), labels, reduction="sum")
    (mine,), (theirs,) = torch.autograd.grad(ours, weight), torch.autograd.grad(plain, weight)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_token_nll_is_zero_where_unsupervised():
    states, weight, labels = example()
    nll = token_nll(states, weight, labels, chunk=16)
    plain = F.cross_entropy(states @ weight.t(), labels, reduction="none")
    torch.testing.assert_close(nll, plain.detach())
    assert not nll.requires_grad
    torch.testing.assert_close(linear_cross_entropy(states, weight, labels), nll.sum())


def test_nothing_supervised_gives_zero_and_no_gradient():
    states, weight, labels = example()
    loss = linear_cross_entropy(states, weight, torch.full_like(labels, -100))
    loss.backward()
    assert loss.item() == 0
    assert states.grad.abs().sum() == 0


def test_autocast_products_are_bfloat16_and_the_sum_float32():
    states, weight, labels = example()
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(states, weight, labels)
    rounded = (states.bfloat16() @ weight.bfloat16().t()).float()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(rounded, labels, reduction="sum"))
