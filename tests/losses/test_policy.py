"""Policy losses against trl's numbers, finite differences, and sums over every possible answer."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from minimind.losses import policy

GOLDEN = json.loads((Path(__file__).parent / "golden" / "policy.json").read_text(encoding="utf-8"))
GIVEN = {name: torch.tensor(values, dtype=torch.float64) for name, values in GOLDEN["tensors"].items()}
MASK = GIVEN["mask"].bool()
SEQUENCES = torch.arange(6)[:, None].expand(6, 9)
OLD, ADVANTAGES = GIVEN["old"], GIVEN["advantages"][:, None].expand(6, 9)


def whole(loss, normalise, mask=MASK, sequences=SEQUENCES, longest=16):
    weights, items = policy.token_weights(mask, sequences, normalise, longest, torch.float64)
    return (loss * weights).sum() / items.sum()


def ours(name, log_probs):
    ratio = policy.ratios(log_probs, OLD, MASK)
    clipped = policy.ppo_clip(log_probs, OLD, ADVANTAGES, MASK).loss
    match name:
        case "grpo":
            return whole(clipped, "sequence")
        case "grpo_k3" | "grpo_k3_weighted":
            kl = policy.kl_estimate(log_probs, GIVEN["reference"], MASK, name.removeprefix("grpo_"), ratio)
            return whole(clipped + 0.04 * kl, "sequence")
        case "grpo_entropy":
            return whole(clipped - 0.01 * GIVEN["entropy"], "token")
        case "grpo_tis":
            return whole(clipped * GIVEN["importance"], "sequence")
        case "dr_grpo":
            return whole(clipped, "constant")
        case "dapo":
            return whole(policy.ppo_clip(log_probs, OLD, ADVANTAGES, MASK, 0.2, 0.28).loss, "token")
        case "gspo":
            return whole(policy.gspo(log_probs, OLD, ADVANTAGES, MASK, SEQUENCES).loss, "sequence")
        case "cispo":
            return whole(policy.cispo(log_probs, OLD, ADVANTAGES, MASK, ratio_max=1.5).loss, "token")


@pytest.mark.parametrize("name", GOLDEN["trl"])
def test_value_and_gradient_are_those_of_trl(name):
    log_probs = GIVEN["log_probs"].clone().requires_grad_()
    loss = ours(name, log_probs)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert loss.item() == pytest.approx(GOLDEN["trl"][name]["loss"], rel=1e-12)
    expected = torch.tensor(GOLDEN["trl"][name]["gradient"], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)
    assert gradient.abs().max() > 1e-4


def test_gradients_equal_finite_differences():
    given = GIVEN["log_probs"].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: policy.ppo_clip(x, OLD, ADVANTAGES, MASK, 0.2, 0.28).loss, given)
    for kind in ("k1", "k2", "k3", "k3_weighted"):
        assert torch.autograd.gradcheck(
            lambda x, kind=kind: policy.kl_estimate(x, GIVEN["reference"], MASK, kind, policy.ratios(x, OLD, MASK)),
            given,
        )
    returns = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for clip in (0.0, 0.2):
        assert torch.autograd.gradcheck(lambda x, c=clip: policy.value_loss(x, OLD, returns, MASK, c).loss, given)


@pytest.mark.parametrize("name", ["gspo", "cispo"])
def test_gradients_through_stopped_ratios_have_their_closed_form(name):
    log_probs = GIVEN["log_probs"].clone().requires_grad_()
    ratio = (log_probs - OLD).exp().detach()
    if name == "cispo":
        loss = policy.cispo(log_probs, OLD, ADVANTAGES, MASK, ratio_max=1.2).loss
        expected = -ratio.clamp(max=1.2) * ADVANTAGES
    else:
        loss = policy.gspo(log_probs, OLD, ADVANTAGES, MASK, SEQUENCES, 0.1, 0.1).loss
        s = torch.stack([(log_probs - OLD)[i][MASK[i]].mean().exp() for i in range(6)])[:, None].detach()
        stopped = ((s < 0.9) & (ADVANTAGES < 0)) | ((s > 1.1) & (ADVANTAGES > 0))
        assert 0 < (stopped & MASK).sum() < MASK.sum()
        expected = torch.where(stopped, 0, -s * ADVANTAGES)
    (gradient,) = torch.autograd.grad(loss.sum(), log_probs)
    torch.testing.assert_close(gradient, expected.where(MASK, 0))


# Every answer of two tokens over five words, each weighed with its probability: expectations without sampling.

WORDS = 5
ANSWERS = torch.cartesian_prod(torch.arange(WORDS), torch.arange(WORDS))


def table(seed):
    draw = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(shape, dtype=torch.float64, generator=draw) for shape in ((WORDS,), (WORDS, WORDS)))
    return [first.requires_grad_(), second.requires_grad_()]


def log_probs_of(parameters):
    first, second = (logits.log_softmax(-1) for logits in parameters)
    return torch.stack([first[ANSWERS[:, 0]], second[ANSWERS[:, 0], ANSWERS[:, 1]]], 1)


@pytest.mark.parametrize("name", ["ppo_clip", "gspo", "cispo"])
def test_the_expected_gradient_is_that_of_the_expected_reward(name):
    parameters = table(0)
    rewards = torch.randn(len(ANSWERS), dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    log_probs = log_probs_of(parameters)
    probability = log_probs.sum(1).exp()
    exact = torch.autograd.grad((probability * rewards).sum(), parameters, retain_graph=True)
    baseline = (probability * rewards).sum().detach()
    advantages = (rewards - baseline)[:, None].expand(-1, 2)
    mask = torch.ones_like(ANSWERS, dtype=torch.bool)
    sequences = torch.arange(len(ANSWERS))[:, None].expand(-1, 2)
    extra = (sequences,) if name == "gspo" else ()
    loss = getattr(policy, name)(log_probs, log_probs.detach(), advantages, mask, *extra).loss
    found = torch.autograd.grad((probability.detach()[:, None] * loss).sum(), parameters)
    torch.testing.assert_close([-g for g in found], list(exact))


@pytest.mark.parametrize("name", ["ppo_clip", "cispo"])
def test_under_old_samples_it_is_exact_while_nothing_is_clipped(name):
    """Σ p_old · r · A ∇log π of one token: importance sampling leaves no bias."""
    (parameter, _), (old, _) = table(0), table(1)
    log_probs, old_log_probs = parameter.log_softmax(0), old.detach().log_softmax(0)
    rewards = torch.arange(WORDS, dtype=torch.float64)
    (exact,) = torch.autograd.grad((log_probs.exp() * rewards).sum(), parameter, retain_graph=True)
    unclipped = {"ratio_max": 1e9} if name == "cispo" else {"clip_low": 1.0, "clip_high": 1e9}
    mask = torch.ones(WORDS, dtype=torch.bool)
    loss = getattr(policy, name)(log_probs, old_log_probs, rewards, mask, **unclipped).loss
    (found,) = torch.autograd.grad((old_log_probs.exp() * loss).sum(), parameter)
    torch.testing.assert_close(-found, exact)


def test_kl_estimators_as_values_and_as_losses():
    (parameter, _), (reference, _) = table(2), table(3)
    log_probs, ref = parameter.log_softmax(0), reference.detach().log_softmax(0)
    p, mask = log_probs.detach().exp(), torch.ones(WORDS, dtype=torch.bool)
    kl = (log_probs.exp() * (log_probs - ref)).sum()
    (exact,) = torch.autograd.grad(kl, parameter, retain_graph=True)
    value, gradient = {}, {}
    for kind in ("k1", "k2", "k3", "k3_weighted"):
        ratio = policy.ratios(log_probs, log_probs.detach(), mask)
        expected = (p * policy.kl_estimate(log_probs, ref, mask, kind, ratio)).sum()
        value[kind] = expected.item()
        (gradient[kind],) = torch.autograd.grad(expected, parameter, retain_graph=True)
    assert value["k1"] == pytest.approx(kl.item(), rel=1e-12)
    assert value["k3"] == pytest.approx(kl.item(), rel=1e-12)
    assert abs(value["k2"] - kl.item()) > 0.01
    torch.testing.assert_close(gradient["k1"], torch.zeros(WORDS, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient["k2"], exact)
    torch.testing.assert_close(gradient["k3_weighted"], exact)
    assert not torch.allclose(gradient["k3"], exact, rtol=1e-2)


# Identities


def losses(log_probs, old, advantages, mask, sequences):
    return {
        "ppo_clip": policy.ppo_clip(log_probs, old, advantages, mask).loss,
        "gspo": policy.gspo(log_probs, old, advantages, mask, sequences).loss,
        "cispo": policy.cispo(log_probs, old, advantages, mask).loss,
        "kl": policy.kl_estimate(log_probs, old, mask, "k3"),
        "value": policy.value_loss(log_probs, old, advantages, mask).loss,
    }


@pytest.mark.parametrize("name", ["ppo_clip", "gspo", "cispo", "kl", "value"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_what_is_masked_has_no_effect_whatever_it_is(name, bad):
    spoiled = [x.where(MASK, bad) for x in (GIVEN["log_probs"], OLD, ADVANTAGES)]
    results = []
    for log_probs, old, advantages in ((GIVEN["log_probs"], OLD, ADVANTAGES), spoiled):
        log_probs = log_probs.clone().requires_grad_()
        loss = losses(log_probs, old, advantages, MASK, SEQUENCES)[name]
        results.append((loss, torch.autograd.grad(loss.sum(), log_probs)[0]))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
    assert not results[0][1][~MASK].any()


@pytest.mark.parametrize("normalise", ["sequence", "token", "constant"])
def test_order_packing_and_micro_batches_change_nothing(normalise):
    weights, items = policy.token_weights(MASK, SEQUENCES, normalise, 16, torch.float64)
    loss = policy.gspo(GIVEN["log_probs"], OLD, ADVANTAGES, MASK, SEQUENCES).loss
    expected = (loss * weights).sum() / items.sum()

    order = torch.tensor([3, 1, 5, 0, 2, 4])
    flat = [x[order].reshape(1, -1) for x in (GIVEN["log_probs"], OLD, ADVANTAGES, MASK, SEQUENCES)]
    packed = policy.gspo(*flat).loss
    weights, packed_items = policy.token_weights(flat[3], flat[4], normalise, 16, torch.float64)
    torch.testing.assert_close((packed * weights).sum() / packed_items.sum(), expected)

    total, count = 0.0, 0.0
    for row in range(6):
        one = slice(row, row + 1)
        numbers = torch.zeros(1, 9, dtype=torch.long)
        w, n = policy.token_weights(MASK[one], numbers, normalise, 16, torch.float64)
        term = policy.gspo(GIVEN["log_probs"][one], OLD[one], ADVANTAGES[one], MASK[one], numbers).loss
        total, count = total + (term * w).sum(), count + n.sum()
    torch.testing.assert_close(total / count, expected)


def test_an_answer_without_a_token_counts_for_nothing():
    mask = MASK.clone()
    mask[3] = False
    weights, items = policy.token_weights(mask, SEQUENCES, "sequence")
    assert items.tolist() == [1, 1, 1, 0, 1, 1]
    assert weights.sum().item() == pytest.approx(5)


# Values and corrections


def test_values_are_clipped_to_where_they_were():
    values, old = torch.tensor([1.0, 1.0, 0.1]), torch.tensor([0.0, 0.0, 0.0])
    returns, mask = torch.tensor([1.0, -1.0, 0.3]), torch.ones(3, dtype=torch.bool)
    found = policy.value_loss(values, old, returns, mask, clip=0.2)
    assert found.loss.tolist() == pytest.approx([0.5 * 0.8**2, 0.5 * 2**2, 0.5 * 0.2**2])
    assert found.clipped.tolist() == [True, False, False]
    assert policy.value_loss(values, old, returns, mask, clip=0).loss[0] == 0


def test_importance_is_truncated_and_constant():
    old = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    engine = torch.tensor([-1.0, -3.0, -0.5])
    found = policy.truncated_importance(old, engine, torch.tensor([True, True, True]))
    assert found.tolist() == pytest.approx([1, 2, 2.718281828**-0.5])
    assert not found.requires_grad


def test_a_token_of_too_different_policies_is_left_out():
    old = torch.tensor([-1.0, -1.0, -1.0, -2.0, -1.0], requires_grad=True)
    tokens = SimpleNamespace(
        mask=torch.tensor([True, True, True, True, False]),
        rollout_log_probs=torch.tensor([-1.0, -3.0, -0.5, -1.0, float("nan")]),
    )
    found = policy.masked_importance(old, tokens.rollout_log_probs, tokens.mask)
    assert found.tolist() == pytest.approx([1, 0, 2.718281828**-0.5, 0, 1])
    assert not found.requires_grad
    algorithm = replace(policy.ALGORITHMS["cispo"], importance_limit=2.0, importance="mask")
    tokens.advantages = torch.ones(5)
    loss = policy.policy_loss(algorithm, old, torch.zeros(5), old.detach(), tokens).loss
    assert loss.tolist() == pytest.approx([1, 0, 2.718281828**-0.5, 0, 0])
