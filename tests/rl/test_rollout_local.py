"""Rollouts of the engine in this process: what was sampled is what is scored."""

from dataclasses import replace

import pytest
import torch
from toys import generate, sampled, toy

from minimind.engine.sampling import Sampling
from minimind.model import lora
from minimind.model.settings import LoraConfig
from minimind.rl.batch import compute_log_probs, pack
from minimind.rl.rollout import LocalRollout, Sample

RULES = [
    {},
    {"temperature": 0.6},
    {"top_k": 5},
    {"top_p": 0.7, "temperature": 1.3},
    {"min_p": 0.05, "top_k": 50, "top_p": 0.9},
]


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_the_scored_policy_is_the_sampled_policy(model, tokenizer, recipe, rules):
    """Log-probabilities while sampling, one token at a time from the cache, are those of a whole forward pass."""
    for name, value in rules.items():
        setattr(recipe.rl, name, value)
    samples = sampled(model, tokenizer, recipe)
    packed = pack(samples, 128, "token", 12)
    sampling = Sampling(**rules)
    with torch.no_grad():
        scored, _ = compute_log_probs(model, packed.batch, sampling)
    mask = packed.batch.mask
    assert int(mask.sum()) == sum(len(sample.ids) for sample in samples)
    torch.testing.assert_close(scored.log_probs[mask], packed.batch.rollout_log_probs[mask], rtol=0, atol=2e-5)
    plain, _ = compute_log_probs(model, packed.batch, Sampling())
    assert bool(rules) == bool((plain.log_probs - packed.batch.rollout_log_probs)[mask].abs().max() > 0.1), (
        "rules matter"
    )


def test_end_tokens_are_kept_and_cuts_are_known(model, tokenizer):
    local = LocalRollout(model, 4, 128)
    likely = generate(local, [[1, 40, 41]], Sampling(temperature=0, max_new_tokens=6))[0]
    assert likely.status == "truncated"
    assert len(likely.ids) == len(likely.log_probs) == len(likely.versions) == 6
    ended = generate(local, [[1, 40, 41]], Sampling(temperature=0, stop_ids=(likely.ids[2],)))[0]
    assert ended.ids == likely.ids[: likely.ids.index(likely.ids[2]) + 1]
    assert ended.status == "completed"


def test_more_may_be_asked_while_answers_come(model):
    local = LocalRollout(model, 2, 128)
    short, long = Sampling(max_new_tokens=2, seed=1), Sampling(max_new_tokens=30, seed=2)
    local.submit("long", [1, 40], long)
    local.submit("short", [1, 41], short)
    order = []
    for key, _ in local.finished():
        order.append(key)
        if key == "short":
            local.submit("second turn", [1, 41, 42], short)
    assert order == ["short", "second turn", "long"], "a slow answer holds nobody"


def test_shared_weights_need_no_copy_but_a_new_start(model, tokenizer):
    local = LocalRollout(model, 2, 128)
    greedy = Sampling(temperature=0, max_new_tokens=8)
    first = generate(local, [[1, 40]], greedy)[0]
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.05 * torch.randn_like(weight)
    local.update_weights(model)
    second = generate(local, [[1, 40]], greedy)[0]
    fresh = generate(LocalRollout(model, 2, 128), [[1, 40]], greedy)[0]
    assert second.ids == fresh.ids != first.ids
    assert (first.versions[0], second.versions[0]) == (0, 1)


@pytest.mark.parametrize("way", ["bfloat16", "adapter"])
def test_copied_weights_follow_the_trainer(model, tokenizer, way):
    if way == "adapter":
        lora.attach(model, LoraConfig(rank=4), base=".")
    local = LocalRollout(model, 2, 128, torch.bfloat16 if way == "bfloat16" else None)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn_like(weight)
    prompts, sampling = [[1, 40], [1, 50, 51]], Sampling(max_new_tokens=8, seed=3)
    before = generate(local, prompts, sampling)
    local.update_weights(model)
    after = generate(local, prompts, sampling)
    assert [one.ids for one in before] != [one.ids for one in after]
    for prompt, one in zip(prompts, after, strict=True):
        ids_BT = torch.tensor([prompt + one.ids])
        from minimind.model.attend import Segments

        with torch.no_grad():
            logits = model.logits(model(ids_BT, Segments.whole(ids_BT)).states)[0].float().log_softmax(-1)
        expected = [logits[len(prompt) - 1 + n, id].item() for n, id in enumerate(one.ids)]
        assert one.log_probs == pytest.approx(expected, abs=0.3 if way == "bfloat16" else 1e-4)


def test_a_seed_decides_an_answer_whoever_shares_the_batch(model):
    prompts = [[1, n, n + 1] for n in range(40, 46)]
    sampling = Sampling(max_new_tokens=10, seed=5)
    together = generate(LocalRollout(model, 8, 128), prompts, sampling)
    alone = [
        generate(LocalRollout(model, 1, 128), [prompt], replace(sampling, seed=5 + n))[0]
        for n, prompt in enumerate(prompts)
    ]
    assert [one.ids for one in together] == [one.ids for one in alone]


def test_chosen_tokens_come_with_log_probabilities_or_not_at_all():
    sample = Sample(prompt=None, prompt_ids=[1])
    sample.append([5, 6], [-0.1, -0.2])
    sample.append([7, 8, 9])  # a tool spoke
    sample.append([10], [-0.3], [4])
    assert sample.ids == [5, 6, 7, 8, 9, 10]
    assert sample.trainable == [True, True, False, False, False, True]
    assert sample.versions == [0, 0, -1, -1, -1, 4]
    assert sample.sampled_ids == [5, 6, 10]
    for wrong in ([-0.1], [-0.1] * 3, []):
        with pytest.raises(ValueError, match="2 ids with"):
            sample.append([1, 2], wrong)
    assert len(sample.ids) == len(sample.log_probs) == 6


def test_a_mixture_of_experts_rolls_out(tokenizer):
    sparse = {"num_experts": 4, "num_experts_per_tok": 1, "moe_intermediate_size": 64}
    found = generate(LocalRollout(toy(tokenizer, **sparse), 2, 64), [[1, 40]], Sampling(max_new_tokens=4, seed=0))
    assert len(found[0].ids) == 4
