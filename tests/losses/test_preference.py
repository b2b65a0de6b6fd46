"""Preference losses: equal to trl's on the same tensors in value and gradient, and what can be known without it."""

import math
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from minimind.errors import UsageError
from minimind.losses.preference import (
    Answers,
    bradley_terry,
    imitation,
    log_odds,
    log_ratios,
    preference_loss,
    rewards,
    simpo,
)
from minimind.losses.settings import DpoConfig

PAIRS, TIME = 5, 9
CONFIGS = {
    "DPO": DpoConfig(),
    "large beta": DpoConfig(beta=1.7),
    "length-normalised": DpoConfig(beta=2.0, length_normalised=True),
    "IPO": DpoConfig(loss="ipo", beta=0.3, length_normalised=True),
}


def tokens(seed=0):
    """Log-probabilities of tokens [2 · pairs, time] (all chosen answers first, as in trl), reference's, and mask."""
    torch.manual_seed(seed)
    policy, reference = (-3 * torch.rand(2 * PAIRS, TIME, dtype=torch.float64) for _ in range(2))
    lengths = torch.randint(1, TIME - 2, (2 * PAIRS, 1))
    mask = (torch.arange(TIME) >= 2) & (torch.arange(TIME) < 2 + lengths)
    return policy.requires_grad_(), reference, mask


def answers(policy, reference, mask):
    def columns(values):
        return values.unflatten(0, (2, PAIRS)).t()

    sums = [columns((values * mask).sum(1)) for values in (policy, reference)]
    return Answers(*sums, columns(mask.sum(1)))


def trl_loss(policy, reference, mask, kinds, beta, weights=(1.0,)):
    """`DPOTrainer._compute_loss`, given a model that already knows its tokens' log-probabilities."""
    dpo_trainer = pytest.importorskip("trl.trainer.dpo_trainer")
    log_probs = policy * mask
    zeros = torch.zeros_like(log_probs)
    output = SimpleNamespace(log_probs=log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())

    def gather(value):
        return value

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device="cpu", gather=gather, gather_for_metrics=gather),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=list(kinds),
        loss_weights=list(weights),
        beta=beta,
        label_smoothing=0.0,
        use_weighting=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    ref_chosen, ref_rejected = (reference * mask).sum(1).chunk(2)
    inputs = {
        "input_ids": torch.zeros(2 * PAIRS, TIME + 1, dtype=torch.long),
        "attention_mask": torch.ones(2 * PAIRS, TIME + 1),
        "completion_mask": F.pad(mask, (1, 0)).long(),  # the label of position t is token t + 1
        "ref_chosen_logps": ref_chosen,
        "ref_rejected_logps": ref_rejected,
    }
    loss = dpo_trainer.DPOTrainer._compute_loss(trainer, lambda **_: output, inputs, False)
    return loss, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def assert_same(ours, theirs, leaf):
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad(ours, leaf, retain_graph=True), torch.autograd.grad(theirs, leaf), strict=True
    ):
        assert mine.abs().max() > 1e-3
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_gradient_and_rewards_are_those_of_trl(name):
    policy, reference, mask = tokens()
    config, mine = CONFIGS[name], answers(policy, reference, mask)
    kind = {"sigmoid": "sigmoid_norm" if config.length_normalised else "sigmoid", "ipo": "ipo"}[config.loss]
    theirs, metrics = trl_loss(policy, reference, mask, [kind], config.beta)
    assert_same(preference_loss(mine, config).mean(), theirs, [policy])
    if not config.length_normalised:
        chosen, rejected = rewards(mine, config).mean(0)
        assert chosen.item() == pytest.approx(metrics["rewards/chosen"])
        assert rejected.item() == pytest.approx(metrics["rewards/rejected"])


def test_with_the_chosen_answers_own_loss_as_in_trl():
    """trl takes the mean over all tokens of a batch, the paper and we one of each answer: equal if lengths are."""
    policy, reference, mask = tokens()
    mask[:PAIRS] = mask[0]
    theirs, _ = trl_loss(policy, reference, mask, ["sigmoid", "sft"], 0.1, (1.0, 0.4))
    assert_same(preference_loss(answers(policy, reference, mask), DpoConfig(sft_coef=0.4)).mean(), theirs, [policy])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["simpo", "sigmoid"])
def test_simpo_and_label_smoothing_are_those_of_trls_cpo(kind, smoothing):
    cpo = pytest.importorskip("trl.experimental.cpo.cpo_trainer")
    policy, _, mask = tokens(1)
    mine = answers(policy, torch.zeros_like(policy), mask)
    config = DpoConfig(loss=kind, beta=2.0, margin=0.7, label_smoothing=smoothing)
    knobs = {"simpo_gamma": 0.7, "label_smoothing": smoothing, "loss_type": kind, "beta": 2.0, "alpha": 0.0}
    trainer = SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), **knobs)
    given = mine.policy / mine.lengths if kind == "simpo" else mine.policy
    losses, chosen, rejected = cpo.CPOTrainer.cpo_loss(trainer, given[:, 0], given[:, 1])
    assert_same(preference_loss(mine, config).sum(), losses.sum(), [policy])
    torch.testing.assert_close(rewards(mine, config), torch.stack([chosen, rejected], 1))


def test_ipo_of_sums_as_in_the_paper():
    policy, reference, mask = tokens()
    mine = answers(policy, reference, mask)
    log_ratio = ((policy - reference) * mask).sum(1)
    expected = (log_ratio[:PAIRS] - log_ratio[PAIRS:] - 1 / (2 * 0.2)) ** 2
    torch.testing.assert_close(preference_loss(mine, DpoConfig(loss="ipo", beta=0.2)), expected)


@pytest.mark.parametrize(
    ("loss", "smoothing", "normalised"),
    [("sigmoid", 0.1, False), ("sigmoid", 0.1, True), ("ipo", 0.0, False), ("ipo", 0.0, True), ("simpo", 0.1, False)],
)
def test_gradcheck(loss, smoothing, normalised):
    config = DpoConfig(loss=loss, beta=0.5, label_smoothing=smoothing, length_normalised=normalised, sft_coef=0.3)
    policy, reference, mask = tokens()
    mine = answers(policy.detach(), reference, mask)

    def of(policy_P2):
        return preference_loss(mine._replace(policy=policy_P2), config)

    assert torch.autograd.gradcheck(of, mine.policy.clone().requires_grad_())


@pytest.mark.parametrize(("loss", "field"), [("ipo", "label_smoothing"), ("simpo", "length_normalised")])
def test_what_a_loss_does_not_use_is_refused(loss, field):
    with pytest.raises(UsageError, match=f"dpo.{field} has no effect"):
        DpoConfig(**{"loss": loss, field: 0.1}).check()


def test_a_model_that_is_the_reference_has_loss_ln_2_and_pushes_both_answers_by_half_beta():
    policy = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    loss = preference_loss(Answers(policy, policy.detach(), torch.ones(3, 2)), DpoConfig(beta=0.3))
    assert loss.tolist() == pytest.approx([math.log(2)] * 3)
    (gradient,) = torch.autograd.grad(loss.sum(), policy)
    torch.testing.assert_close(gradient, torch.tensor([[-0.15, 0.15]] * 3, dtype=torch.float64))


def test_the_gradient_weighs_a_pair_by_how_wrong_the_model_is_about_it():
    """The paper's ∇L = -β σ(r̂_rejected - r̂_chosen) (∇ log π(chosen) - ∇ log π(rejected))."""
    mine = answers(*tokens())
    mine = mine._replace(policy=mine.policy.detach().requires_grad_())
    reward = rewards(mine, CONFIGS["DPO"])
    weight = 0.1 * torch.sigmoid(reward[:, 1] - reward[:, 0])
    (gradient,) = torch.autograd.grad(preference_loss(mine, CONFIGS["DPO"]).sum(), mine.policy)
    torch.testing.assert_close(gradient, torch.stack([-weight, weight], 1))


def test_swapped_answers_and_shifts_of_both():
    mine = answers(*tokens())
    swapped = Answers(*(values.flip(1) for values in mine))
    ratios = log_ratios(mine)
    torch.testing.assert_close(log_ratios(swapped), ratios.flip(1))
    margin = 0.1 * (ratios[:, 0] - ratios[:, 1])
    # log σ(m) - log σ(-m) = m: what a pair says and what its opposite says differ by the margin
    torch.testing.assert_close(preference_loss(swapped, DpoConfig()) - preference_loss(mine, DpoConfig()), margin)
    likelier = mine._replace(policy=mine.policy + 3.0)
    torch.testing.assert_close(preference_loss(likelier, DpoConfig()), preference_loss(mine, DpoConfig()))
    assert (preference_loss(likelier, DpoConfig(sft_coef=1.0)) < preference_loss(mine, DpoConfig(sft_coef=1.0))).all()


def test_label_smoothing_has_its_minimum_at_a_finite_margin():
    margin = torch.tensor(math.log(0.9 / 0.1), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(log_odds(margin, 0.1), margin)
    assert gradient.abs() < 1e-9


def test_huge_margins_stay_finite():
    policy = torch.tensor([[0.0, -1e6], [-1e6, 0.0]], requires_grad=True)
    mine = Answers(policy, torch.zeros(2, 2), torch.ones(2, 2))
    loss = preference_loss(mine, DpoConfig())
    assert loss.tolist() == [0.0, 1e5]
    (gradient,) = torch.autograd.grad(loss.sum(), policy)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0], [-0.1, 0.1]]))


def test_bradley_terry_is_that_of_a_reward_model():
    scores = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(bradley_terry(scores), -torch.log(torch.softmax(scores, 1)[:, 0]))
    assert torch.autograd.gradcheck(bradley_terry, scores)


def test_simpo_wants_the_margin_and_no_reference():
    mine = Answers(torch.tensor([[-2.0, -6.0]]), torch.full((1, 2), math.nan), torch.tensor([[2, 3]]))
    assert simpo(mine, beta=2.0, margin=2.0).item() == pytest.approx(math.log(2))  # 2 · (-1 + 2) - 2 = 0
    assert imitation(mine).item() == 1.0
