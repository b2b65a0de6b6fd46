"""The chunked distillation loss equals the plain one, in value and in gradient, and TRL's where TRL has it."""

import pytest
import torch
from torch.nn import functional as F

from minimind.losses.distill import Rule, TeacherStates, distillation_loss

RULES = [
    Rule(alpha=0.5),
    Rule(alpha=0.0, temperature=2.0),
    Rule(alpha=1.0),
    Rule(0.3, 2.0, "reverse"),
    Rule(0.0, 1.0, "reverse"),
    Rule(0.3, 3.0, "js"),
    Rule(0.0, 1.0, "js", 0.1),
    Rule(0.0, 0.7, "js", 0.9),
]


def example(dtype=torch.float64, rows=37, vocabulary=50):
    torch.manual_seed(0)
    states = torch.randn(rows, 16, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, 16, dtype=dtype, requires_grad=True)
    teacher = TeacherStates(torch.randn(rows, 24, dtype=dtype), torch.randn(vocabulary, 24, dtype=dtype) / 3)
    return states, weight, torch.randint(0, vocabulary, (rows,)), teacher


def plain(states, weight, labels, logp, rule):
    """The formulas as they stand, with all logits."""
    logits = states @ weight.t()
    logq = F.log_softmax(logits / rule.temperature, -1)
    p, q = logp.exp(), logq.exp()
    if rule.divergence == "forward":
        d = (p * (logp - logq)).sum()
    elif rule.divergence == "reverse":
        d = (q * (logq - logp)).sum()
    else:
        m = rule.beta * p + (1 - rule.beta) * q
        d = rule.beta * (p * (logp - m.log())).sum() + (1 - rule.beta) * (q * (logq - m.log())).sum()
    ce = F.cross_entropy(logits, labels, reduction="sum")
    return rule.alpha * ce + (1 - rule.alpha) * rule.temperature**2 * d, ce, d


def equal(ours, theirs, inputs, **tolerance):
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, **tolerance)
    grads = (torch.autograd.grad(loss[0] * 0.25, inputs) for loss in (ours, theirs))
    for mine, other in zip(*grads, strict=True):
        torch.testing.assert_close(mine, other, **tolerance)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("chunk", [1, 16, 100])
def test_value_and_gradients_equal_the_plain_loss(rule, chunk):
    states, weight, labels, teacher = example()
    logp = F.log_softmax(teacher.states_NC @ teacher.weight_VC.t() / rule.temperature, -1)
    ours = distillation_loss(states, weight, labels, teacher, rule, chunk)
    equal(ours, plain(states, weight, labels, logp, rule), (states, weight))


def test_rows_without_a_label_count_nothing():
    states, weight, labels, teacher = example()
    labels[::3] = -100
    some = labels != -100
    chosen = TeacherStates(teacher.states_NC[some], teacher.weight_VC)
    whole = distillation_loss(states, weight, labels, teacher, RULES[5], chunk=16)
    equal(whole, distillation_loss(states[some], weight, labels[some], chosen, RULES[5], chunk=16), (states, weight))


@pytest.mark.parametrize("rule", [Rule(0.3, 2.0, d) for d in ("forward", "reverse", "js")])
def test_gradcheck(rule):
    states, weight, labels, teacher = example(rows=5, vocabulary=9)
    total = lambda s, w: distillation_loss(s, w, labels, teacher, rule, 2).total  # noqa: E731
    assert torch.autograd.gradcheck(total, (states, weight))


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.2, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equals_trl(beta, temperature):
    gkd = pytest.importorskip("trl.experimental.gkd")
    divergence = {0.0: "forward", 1.0: "reverse"}.get(beta, "js")
    rule = Rule(0.0, temperature, divergence, beta)
    states, weight, labels, teacher = example(torch.float32)
    ours = distillation_loss(states, weight, labels, teacher, rule, 16).total / temperature**2
    logits = (states @ weight.t(), teacher.states_NC @ teacher.weight_VC.t())
    theirs = gkd.GKDTrainer.generalized_jsd_loss(*logits, beta=beta, temperature=temperature, reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for mine, other in zip(*(torch.autograd.grad(x, (states, weight)) for x in (ours, theirs)), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divergence", ["forward", "reverse", "js"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn(divergence):
    states, weight, labels, _ = example()
    loss = distillation_loss(
        states, weight, labels, TeacherStates(states.detach(), weight.detach()), Rule(0, 2, divergence)
    )
    assert loss.divergence.abs() < 1e-9
    for gradient in torch.autograd.grad(loss.total, (states, weight)):
        assert gradient.abs().max() < 1e-9


def test_alpha_one_is_the_cross_entropy():
    states, weight, labels, teacher = example()
    loss = distillation_loss(states, weight, labels, teacher, Rule(alpha=1.0))
    torch.testing.assert_close(loss.total, F.cross_entropy(states @ weight.t(), labels, reduction="sum"))


def test_a_frozen_output_gets_no_gradient():
    states, weight, labels, teacher = example()
    loss = distillation_loss(states, weight.detach(), labels, teacher, Rule())
    (mine,) = torch.autograd.grad(loss.total, states)
    (both, _) = torch.autograd.grad(distillation_loss(states, weight, labels, teacher, Rule()).total, (states, weight))
    torch.testing.assert_close(mine, both)


def test_no_token_costs_nothing():
    states, weight, labels, teacher = example()
    none = TeacherStates(teacher.states_NC[:0], teacher.weight_VC)
    loss = distillation_loss(states[:0], weight, labels[:0], none, Rule())
    loss.total.backward()
    assert loss.total == 0
    assert weight.grad.abs().sum() == 0


def test_only_a_chunk_of_logits_exists():
    """The largest tensor that the loss makes has `chunk` rows of logits, not N."""
    rows, vocabulary, chunk = 4096, 512, 64
    states = torch.randn(rows, 4, requires_grad=True)
    weight = torch.randn(vocabulary, 4, requires_grad=True)
    teacher = TeacherStates(torch.randn(rows, 4), torch.randn(vocabulary, 4))
    labels = torch.zeros(rows, dtype=torch.long)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in torch.utils._pytree.tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    with Watch():
        distillation_loss(states, weight, labels, teacher, Rule(0.5, 2.0), chunk).total.backward()
    assert largest <= max(chunk * vocabulary, rows * 4)


def test_autocast_products_are_bfloat16_and_the_sums_float32():
    states, weight, labels, teacher = example(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = distillation_loss(states, weight, labels, teacher, Rule())
    assert loss.total.dtype == torch.float32
    rounded = TeacherStates(*(tensor.bfloat16() for tensor in teacher))
    other = distillation_loss(states.bfloat16(), weight.bfloat16(), labels, rounded, Rule())
    torch.testing.assert_close(loss.total, other.total)
