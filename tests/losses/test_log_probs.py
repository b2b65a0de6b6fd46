"""Chunked log-probabilities against the plain formula on all logits at once."""

import pytest
import torch

from minimind.losses.log_probs import token_log_probs


def problem(dtype=torch.float64):
    torch.manual_seed(0)
    states = torch.randn(2, 7, 5, dtype=dtype, requires_grad=True)
    weight = torch.randn(11, 5, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 11, (2, 7))
    labels[0, :3] = labels[1, -1] = -100
    return states, weight, labels


def plain(states, weight, labels, temperature):
    logp = (states @ weight.t() / temperature).log_softmax(-1)
    scored = (labels != -100).to(logp.dtype)
    log_probs = logp.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1)
    return log_probs * scored, -(logp.exp() * logp).sum(-1) * scored


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_values_and_gradients_equal_the_plain_formula(chunk, temperature):
    states, weight, labels = problem()
    weights = torch.randn(2, *labels.shape, dtype=torch.float64)
    results = []
    for outputs in (
        token_log_probs(states, weight, labels, temperature, chunk),
        plain(states, weight, labels, temperature),
    ):
        total = sum((w * output).sum() for w, output in zip(weights, outputs, strict=True))
        results.append((*outputs, *torch.autograd.grad(total, (states, weight))))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)


def test_gradients_equal_finite_differences():
    states, weight, labels = problem()
    assert torch.autograd.gradcheck(lambda s, w: token_log_probs(s, w, labels, 1.3, chunk=4), (states, weight))


def test_no_scored_token_gives_zeros_and_a_zero_gradient():
    states, weight, labels = problem()
    log_probs, entropy = token_log_probs(states, weight, torch.full_like(labels, -100))
    (log_probs + entropy).sum().backward()
    assert not log_probs.any()
    assert not states.grad.any()
    assert not weight.grad.any()


def test_under_autocast_products_are_16_bit_and_log_probs_float32():
    states, weight, labels = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = token_log_probs(states, weight, labels)
    assert found.log_probs.dtype == torch.float32
    expected = token_log_probs(states.bfloat16(), weight.bfloat16(), labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    found.log_probs.sum().backward()
    assert states.grad.dtype == weight.grad.dtype == torch.float32


def three_likeliest(p_NV):
    return p_NV >= p_NV.topk(3).values[:, -1:]


def test_filtered_it_is_the_distribution_over_what_is_left():
    states, weight, labels = problem()
    found = token_log_probs(states, weight, labels, 0.7, chunk=4, keep=three_likeliest)
    z = (states @ weight.t() / 0.7).flatten(0, 1)
    kept = three_likeliest(z.softmax(-1)).scatter(1, labels.flatten().clamp(min=0)[:, None], True)
    logp = z.masked_fill(~kept, -1e30).log_softmax(-1).unflatten(0, labels.shape)
    scored = labels != -100
    expected = logp.gather(-1, labels.clamp(min=0)[..., None]).squeeze(-1) * scored
    entropy = -(logp.exp() * logp).sum(-1) * scored
    torch.testing.assert_close(tuple(found), (expected, entropy))
    weights = torch.randn(2, *labels.shape, dtype=torch.float64)
    gradients = [
        torch.autograd.grad((weights[0] * a + weights[1] * b).sum(), (states, weight), retain_graph=True)
        for a, b in (found, (expected, entropy))
    ]
    torch.testing.assert_close(*gradients)
    assert found.log_probs.isfinite().all(), "the label stays possible, however unlikely"


def test_without_entropy_the_log_probabilities_are_the_same():
    states, weight, labels = problem()
    both = [token_log_probs(states, weight, labels, 0.7, chunk=4, entropy=entropy) for entropy in (True, False)]
    torch.testing.assert_close(both[0].log_probs, both[1].log_probs, rtol=0, atol=0)
    assert not both[1].entropy.any()
    torch.testing.assert_close(*(torch.autograd.grad(one.log_probs.sum(), (states, weight)) for one in both))


@pytest.mark.slow
@pytest.mark.parametrize("entropy", [True, False])
def test_compiled_it_is_the_same(entropy):
    states, weight, labels = problem()
    found = []
    for compiled in (False, True):
        one = token_log_probs(states, weight, labels, 0.7, chunk=4, entropy=entropy, compiled=compiled)
        total = one.log_probs.sum() + 0.3 * one.entropy.sum()
        found.append((*one, *torch.autograd.grad(total, (states, weight))))
    torch.testing.assert_close(found[1], found[0])
