"""Samples become rows: everything stands where its token is predicted, and nothing else counts."""

import math

import pytest
import torch
from toys import sampled

from minimind.losses.lm import IGNORE
from minimind.rl import batch as batches
from minimind.rl.batch import pack
from minimind.rl.learner import CriticLearner, GroupLearner, Scorer, compared
from minimind.rl.meter import Meter
from minimind.rl.objective import ALGORITHMS, PolicyLoss, chosen, sampling_of, score
from minimind.rl.rollout import Sample
from minimind.train.loop import split


def sample(prompt, *turns, group=0, reward=0.0):
    """Turns: lists of chosen ids, or tuples of ids that a tool said."""
    made = Sample(prompt=None, prompt_ids=list(prompt), group=group, reward=reward)
    for turn in turns:
        made.append(list(turn), None if isinstance(turn, tuple) else [-float(id) for id in turn])
    return made


SAMPLES = [sample([1, 2], [11, 12, 13]), sample([1], [21], (91, 92), [22, 23]), sample([1, 2, 3], [31])]


def test_packing():
    packed = pack(SAMPLES, 8, "token", 10)
    batch = packed.batch
    assert batch.weight == 7
    for one, row, start in zip(SAMPLES, packed.rows, packed.starts, strict=True):
        whole = one.prompt_ids + one.ids
        place = slice(start, start + len(whole))
        assert batch.input_ids[row, place].tolist() == whole
        assert batch.positions[row, place].tolist() == list(range(len(whole)))
        assert len(set(batch.document_ids[row, place].tolist())) == 1
        expected = [IGNORE] * (len(one.prompt_ids) - 1)
        expected += [id if mine else IGNORE for id, mine in zip(one.ids, one.trainable, strict=True)] + [IGNORE]
        assert batch.labels[row, place].tolist() == expected
        mine = batch.labels[row, place] != IGNORE
        assert batch.engine[row, place][mine].tolist() == [-float(id) for id in one.chosen_ids]
    assert not batch.engine[~batch.mask].any()
    numbers = {int(n) for row in range(len(batch.labels)) for n in batch.sequences[row][batch.mask[row]]}
    assert len(numbers) == 3
    column = packed.scatter([1.0, [5, 6, 7, 8, 9], torch.tensor([3.0])], SAMPLES)
    assert packed.gather(column, SAMPLES)[1].tolist() == [5, 0, 0, 8, 9]


def test_a_prompt_is_packed_once_for_all_its_answers():
    group = [sample([1, 2, 3, 4], [11, 12]), sample([1, 2, 3, 4], [21], (91,), [22]), sample([1, 2, 3, 4], [31])]
    other = [sample([5, 6], [41, 42], group=1)]
    packed = pack([*group, *other], 13, "token", 10, share_prompts=True)
    batch = packed.batch
    assert batch.input_ids.tolist()[0] == [1, 2, 3, 4, 11, 12, 4, 21, 91, 22, 4, 31, 0]
    assert batch.labels.tolist()[0] == [-100, -100, -100, 11, 12, -100, 21, -100, 22, -100, 31, -100, -100]
    assert batch.positions.tolist()[0] == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 3, 4, 0]
    assert batch.branches.tolist()[0] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 0]
    assert batch.document_ids.tolist()[0] == [0] * 12 + [-1]
    assert len({int(n) for row in range(2) for n in batch.sequences[row][batch.mask[row]]}) == 4
    column = packed.scatter([1.0, [5, 6, 7], 3.0, [8, 9]], [*group, *other])
    assert [part.tolist() for part in packed.gather(column, [*group, *other])] == [[1, 1], [5, 0, 7], [3], [8, 9]]
    narrow = pack(group, 9, "token", 10, share_prompts=True)
    assert len(narrow.batch.labels) == 2
    assert narrow.batch.weight == batch.weight - 2


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_shared_prompt_leaves_loss_and_gradient_unchanged(model, tokenizer, recipe, algorithm):
    recipe.rl.algorithm = algorithm
    samples = sampled(model, tokenizer, recipe, each=4)
    loss = PolicyLoss(recipe.rl, chosen(recipe.rl), sampling_of(recipe.rl, [2]), Meter(), first_step_only=True)

    def gradient(share):
        recipe.rl.share_prompts = share
        (batch,) = learner(recipe, model, tokenizer)(samples, 0)
        assert bool(batch.branches.any()) == share
        model.zero_grad()
        total = total_of(loss, model, batch) / batch.weight
        total.backward()
        return total.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("normalise", "weight"), [("token", 7), ("sequence", 3), ("constant", 3)])
def test_weights_and_shares(normalise, weight):
    batch = pack(SAMPLES, 8, normalise, 10).batch
    assert batch.weight == weight
    sums = [float(part.sum()) for part in pack(SAMPLES, 8, normalise, 10).gather(batch.weights, SAMPLES)]
    assert sums == pytest.approx({"token": [3, 3, 1], "sequence": [1, 1, 1], "constant": [0.3, 0.3, 0.1]}[normalise])


def test_no_sample_makes_an_empty_row_of_no_weight():
    batch = batches.pad_rows(pack([], 8, "sequence", 10).batch, 3)
    assert batch.labels.shape == (3, 8)
    assert batch.weight == 0
    assert not batch.mask.any()
    assert (batch.document_ids == -1).all()


def test_a_batch_survives_json_to_the_bit():
    batch = pack(SAMPLES, 8, "token", 10).batch
    batch = batch._replace(advantages=torch.randn(batch.labels.shape) * math.pi)
    torch.testing.assert_close(batches.decode(batches.encode(batch)), batch, rtol=0, atol=0)


def learner(recipe, model, tokenizer):
    sampling = sampling_of(recipe.rl, [2])
    return GroupLearner(recipe, model, Scorer(recipe, torch.device("cpu"), sampling), chosen(recipe.rl), None)


def total_of(loss, model, batch):
    scored, _ = score(model, batch, loss.sampling)
    return (loss.tokens(scored, batch) * batch.weights).sum()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_first_steps_ratio_is_exactly_one(model, tokenizer, recipe, algorithm):
    recipe.rl.algorithm, recipe.rl.epochs = algorithm, 2
    samples = sampled(model, tokenizer, recipe)
    first, second = learner(recipe, model, tokenizer)(samples, 0)
    assert first is second
    meter = Meter()
    loss = PolicyLoss(recipe.rl, chosen(recipe.rl), sampling_of(recipe.rl, [2]), meter, first_step_only=False)
    rows = 2  # as many at a time as the scorer took
    parts = list(split(first, rows))
    for part in parts:
        scored, _ = score(model, part, loss.sampling)
        assert torch.equal(scored.log_probs.detach()[part.mask], part.old[part.mask])
        loss.tokens(scored, part)
    figures = meter.take()
    assert (figures["ratio_max"], figures["kl"], figures["clipped"]) == (1, 0, 0)
    assert figures["mismatch_kl"] < 1e-8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_micro_batches_and_order_leave_the_gradient_unchanged(model, tokenizer, recipe, algorithm):
    recipe.rl.algorithm, recipe.data.sequence_length = algorithm, 64
    samples = sampled(model, tokenizer, recipe, each=4)
    loss = PolicyLoss(recipe.rl, chosen(recipe.rl), sampling_of(recipe.rl, [2]), Meter(), first_step_only=True)

    def gradient(order, rows):
        (batch,) = learner(recipe, model, tokenizer)([samples[i] for i in order], 0)
        model.zero_grad()
        for part in split(batch, rows):
            (total_of(loss, model, part) / batch.weight).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = gradient(range(8), 100)
    assert whole.norm() > 1e-4
    torch.testing.assert_close(gradient(range(8), 1), whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient([5, 2, 7, 0, 3, 6, 1, 4], 2), whole, rtol=1e-4, atol=1e-6)


def test_what_a_tool_said_is_read_but_not_learned(model, tokenizer, recipe):
    """What stands at a token that a tool said has no effect, whatever it is."""
    loss = PolicyLoss(recipe.rl, chosen(recipe.rl), sampling_of(recipe.rl, [2]), Meter(), first_step_only=True)
    samples = [sample([1, 2], [30], (91, 92), [31, 32], reward=1.0), sample([1, 2], [40, 41], reward=0.0)]
    (batch,) = learner(recipe, model, tokenizer)(samples, 0)
    expected = total_of(loss, model, batch)
    spoiled = batch._replace(
        **{name: getattr(batch, name).where(batch.mask, math.nan) for name in ("engine", "old", "advantages")}
    )
    assert torch.equal(total_of(loss, model, spoiled), expected)
    assert int(batch.mask.sum()) == 5


def test_equal_rewards_give_a_gradient_of_exactly_zero(model, tokenizer, recipe):
    samples = sampled(model, tokenizer, recipe)
    for one in samples:
        one.reward = 0.7
    (batch,) = learner(recipe, model, tokenizer)(samples, 0)
    loss = PolicyLoss(recipe.rl, chosen(recipe.rl), sampling_of(recipe.rl, [2]), Meter(), first_step_only=True)
    total_of(loss, model, batch).backward()
    assert all(not p.grad.any() for p in model.parameters())


def test_advantages_compare_within_groups():
    samples = [sample([1], [5], group=g, reward=r) for g, r in ((0, 1), (1, 10), (0, 3), (1, 30))]
    found = compared(samples, {id(s): s.reward for s in samples}, divide=False)
    assert [found[id(s)] for s in samples] == [-1, -10, 1, 10]


def test_minibatches_hold_every_sample_once(model, tokenizer, recipe):
    recipe.rl.minibatches, recipe.rl.epochs = 4, 3
    samples = sampled(model, tokenizer, recipe, each=5)
    made = learner(recipe, model, tokenizer)(samples, 7)
    assert len(made) == 12
    tokens = sum(len(one.ids) for one in samples)
    assert sum(int(batch.mask.sum()) for batch in made[:4]) == tokens
    assert sum(batch.weight for batch in made[:4]) == tokens
    assert any(not torch.equal(b.old, torch.zeros_like(b.old)) for b in made)


def test_the_critics_advantages_are_gae_of_each_answer(model, tokenizer, recipe):
    from minimind.losses.policy import gae
    from minimind.model.heads import Scorer as Critic

    torch.manual_seed(1)
    critic = Critic(model.config)
    with torch.no_grad():
        critic.score.weight.normal_()
    recipe.ppo.whiten, recipe.ppo.gamma, recipe.ppo.lam = False, 0.9, 0.8
    samples = [*sampled(model, tokenizer, recipe), sample([1, 2], [30, 31], (91, 92), [32, 33], reward=2.0)]
    scorer = Scorer(recipe, torch.device("cpu"), sampling_of(recipe.rl, [2]))
    made = CriticLearner(recipe, model, critic, scorer, algorithm=ALGORITHMS["ppo_clip"], reference=None)
    (batch,) = made(samples, 0)
    parts = made.packed(samples, 0)
    ordered, packed = parts[0]
    for one, values, advantages, returns in zip(
        ordered,
        packed.gather(batch.values, ordered),
        packed.gather(batch.advantages, ordered),
        packed.gather(batch.returns, ordered),
        strict=True,
    ):
        mask = torch.tensor([one.trainable])
        rewards = torch.zeros(1, len(one.ids))
        rewards[0, max(n for n, mine in enumerate(one.trainable) if mine)] = one.reward
        expected = gae(rewards, values[None], mask, 0.9, 0.8)
        torch.testing.assert_close((advantages[None], returns[None]), expected)
        assert values[mask[0]].abs().min() > 0
