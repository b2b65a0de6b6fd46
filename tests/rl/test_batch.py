"""Samples become rows: everything stands where its token is predicted, and nothing else counts."""

import math

import pytest
import torch
from toys import sampled

from minimind.losses.lm import IGNORE
from minimind.losses.policy import ALGORITHMS
from minimind.model.qwen3 import Scorer
from minimind.rl import batch as batches
from minimind.rl.advantages import gae
from minimind.rl.batch import minibatches, pack
from minimind.rl.rollout import Sample
from minimind.stages import grpo, ppo
from minimind.train.job import split


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
    assert batch.num_items == 7
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
        assert batch.rollout_log_probs[row, place][mine].tolist() == [-float(id) for id in one.sampled_ids]
    assert not batch.rollout_log_probs[~batch.mask].any()
    numbers = {int(n) for row in range(len(batch.labels)) for n in batch.sequences[row][batch.mask[row]]}
    assert len(numbers) == 3
    column = packed.scatter([1.0, [5, 6, 7, 8, 9], torch.tensor([3.0])])
    assert packed.gather(column)[1].tolist() == [5, 0, 0, 8, 9]


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
    column = packed.scatter([1.0, [5, 6, 7], 3.0, [8, 9]])
    assert [part.tolist() for part in packed.gather(column)] == [[1, 1], [5, 0, 7], [3], [8, 9]]
    narrow = pack(group, 9, "token", 10, share_prompts=True)
    assert len(narrow.batch.labels) == 2
    assert narrow.batch.num_items == batch.num_items - 2


@pytest.fixture
def recipe(recipe, folder):
    """One whose job can be made: it needs a prompt."""
    (folder / "prompts.jsonl").write_text('{"messages": [{"role": "user", "content": "3 + 4?"}], "gt": ["7"]}')
    recipe.data.files, recipe.rl.importance_limit, recipe.rl.algorithm = [str(folder / "prompts.jsonl")], 0.0, "dapo"
    return recipe


def batches_of(job, samples, number=0):
    return [packed.batch for packed in job.stream.make_batches(samples, number)]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_shared_prompt_leaves_loss_and_gradient_unchanged(model, tokenizer, recipe, algorithm):
    recipe.rl.algorithm = algorithm
    samples = sampled(model, tokenizer, recipe, each=4)

    def gradient(share):
        recipe.rl.share_prompts = share
        job = grpo.make_job(recipe, model, tokenizer)
        (batch,) = batches_of(job, samples)
        assert bool(batch.branches.any()) == share
        model.zero_grad()
        total = job.loss(model, batch).total / batch.num_items
        total.backward()
        return total.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    torch.testing.assert_close(gradient(True), gradient(False), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("normalise", "items"), [("token", 7), ("sequence", 3), ("constant", 3)])
def test_token_weights_and_items(normalise, items):
    batch = pack(SAMPLES, 8, normalise, 10).batch
    assert batch.num_items == items
    sums = [float(part.sum()) for part in pack(SAMPLES, 8, normalise, 10).gather(batch.token_weights)]
    assert sums == pytest.approx({"token": [3, 3, 1], "sequence": [1, 1, 1], "constant": [0.3, 0.3, 0.1]}[normalise])


def test_no_sample_makes_an_empty_row_of_no_weight():
    batch = batches.pad_rows(pack([], 8, "sequence", 10).batch, 3)
    assert batch.labels.shape == (3, 8)
    assert batch.num_items == 0
    assert not batch.mask.any()
    assert (batch.document_ids == -1).all()


def test_a_batch_survives_json_to_the_bit():
    batch = pack(SAMPLES, 8, "token", 10).batch
    batch = batch._replace(advantages=torch.randn(batch.labels.shape) * math.pi)
    torch.testing.assert_close(batches.decode(batches.encode(batch)), batch, rtol=0, atol=0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_first_steps_ratio_is_exactly_one(model, tokenizer, recipe, algorithm):
    recipe.rl.algorithm, recipe.rl.epochs = algorithm, 2
    samples = sampled(model, tokenizer, recipe)
    job = grpo.make_job(recipe, model, tokenizer)
    first, second = batches_of(job, samples)
    assert first is second
    for part in split(first, 2):  # as many rows at a time as were scored before
        job.loss(model, part)
    figures = job.figures()
    assert (figures["ratio_max"], figures["kl"], figures["clipped"]) == (1, 0, 0)
    assert figures["mismatch_kl"] < 1e-8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_micro_batches_and_order_leave_the_gradient_unchanged(model, tokenizer, recipe, algorithm):
    recipe.rl.algorithm, recipe.data.sequence_length = algorithm, 64
    samples = sampled(model, tokenizer, recipe, each=4)
    job = grpo.make_job(recipe, model, tokenizer)

    def gradient(order, rows):
        (batch,) = batches_of(job, [samples[i] for i in order])
        model.zero_grad()
        for part in split(batch, rows):
            (job.loss(model, part).total / batch.num_items).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    whole = gradient(range(8), 100)
    assert whole.norm() > 1e-4
    torch.testing.assert_close(gradient(range(8), 1), whole, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient([5, 2, 7, 0, 3, 6, 1, 4], 2), whole, rtol=1e-4, atol=1e-6)


def test_what_a_tool_said_is_read_but_not_learned(model, tokenizer, recipe):
    """What stands at a token that a tool said has no effect, whatever it is."""
    samples = [sample([1, 2], [30], (91, 92), [31, 32], reward=1.0), sample([1, 2], [40, 41], reward=0.0)]
    job = grpo.make_job(recipe, model, tokenizer)
    (batch,) = batches_of(job, samples)
    expected = job.loss(model, batch).total
    spoiled = batch._replace(
        **{
            name: getattr(batch, name).where(batch.mask, math.nan)
            for name in ("rollout_log_probs", "old_log_probs", "advantages")
        }
    )
    assert torch.equal(job.loss(model, spoiled).total, expected)
    assert int(batch.mask.sum()) == 5


def test_equal_rewards_give_a_gradient_of_exactly_zero(model, tokenizer, recipe):
    samples = sampled(model, tokenizer, recipe)
    for one in samples:
        one.reward = 0.7
    job = grpo.make_job(recipe, model, tokenizer)
    (batch,) = batches_of(job, samples)
    job.loss(model, batch).total.backward()
    assert all(not p.grad.any() for p in model.parameters())


def test_minibatches_hold_every_sample_once(model, tokenizer, recipe):
    ten = [sample([1], [30], group=number // 2) for number in range(10)]
    assert sorted(i for part in minibatches(ten, 4, (42, 7)) for i in part) == list(range(10))
    recipe.rl.minibatches, recipe.rl.epochs = 4, 3
    samples = sampled(model, tokenizer, recipe, each=5)
    made = batches_of(grpo.make_job(recipe, model, tokenizer), samples, 7)
    assert len(made) == 12
    tokens = sum(len(one.ids) for one in samples)
    assert sum(int(batch.mask.sum()) for batch in made[:4]) == tokens
    assert sum(batch.num_items for batch in made[:4]) == tokens
    assert any(not torch.equal(b.old_log_probs, torch.zeros_like(b.old_log_probs)) for b in made)


def test_the_critics_advantages_are_gae_of_each_answer(model, tokenizer, recipe):
    torch.manual_seed(1)
    critic = Scorer(model.config)
    with torch.no_grad():
        critic.score.weight.normal_()
    recipe.ppo.whiten, recipe.ppo.gamma, recipe.ppo.lam, recipe.rl.algorithm = False, 0.9, 0.8, "ppo_clip"
    samples = [*sampled(model, tokenizer, recipe), sample([1, 2], [30, 31], (91, 92), [32, 33], reward=2.0)]
    (batch,) = batches_of(ppo.make_job(recipe, model, critic, tokenizer), samples)
    (order,) = minibatches(samples, 1, (recipe.train.seed, 0))
    packed = pack([samples[i] for i in order], recipe.data.sequence_length, "token", recipe.rl.max_new_tokens)
    for one, values, advantages, returns in zip(
        packed.samples,
        packed.gather(batch.values),
        packed.gather(batch.advantages),
        packed.gather(batch.returns),
        strict=True,
    ):
        mask = torch.tensor([one.trainable])
        rewards = torch.zeros(1, len(one.ids))
        rewards[0, max(n for n, mine in enumerate(one.trainable) if mine)] = one.reward
        expected = gae(rewards, values[None], mask, 0.9, 0.8)
        torch.testing.assert_close((advantages[None], returns[None]), expected)
        assert values[mask[0]].abs().min() > 0
