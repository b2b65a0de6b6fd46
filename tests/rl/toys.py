"""A toy policy over the built-in vocabulary, and samples of it."""

from dataclasses import replace

import torch

from minimind.config import PRESETS
from minimind.data.prompts import Prompt, prompt_ids
from minimind.engine.sampling import Sampling
from minimind.model.qwen3 import Transformer
from minimind.rl.rollout import Completion, LocalRollout, Rollout, Sample, play, single_turn
from minimind.rl.stream import sampling_of
from minimind.tokenizer.parse import parse


def toy(tokenizer, seed=0, **changes):
    """A random model with some life in it: fresh weights would repeat their last token."""
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256}
    model = Transformer(PRESETS["tiny"].with_(vocab_size=tokenizer.vocab_size, **shape, **changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight *= 5 if "embed" not in name else 3
    return model


def prompts(*questions):
    return [Prompt([{"role": "user", "content": text}], gt=["7"]) for text in questions]


def sampled(model, tokenizer, recipe, questions=("3 + 4?", "你好吗？"), each=3):
    """Answers of the model, with rewards that differ within each group."""
    rules = sampling_of(recipe.rl, tokenizer)
    samples = [
        Sample(prompt, prompt_ids(prompt, tokenizer, False), replace(rules, seed=group * each + nth), group)
        for group, prompt in enumerate(prompts(*questions))
        for nth in range(each)
    ]
    play(LocalRollout(model, 8, 128), single_turn, samples)
    for n, sample in enumerate(samples):
        sample.message = parse(sample.ids, tokenizer)
        sample.rewards = {"exact": float(n % 2)}
        sample.reward = float(n % 2)
    return samples


def said(tokenizer, *parts, gt=("7",), question="3 + 4?", status="completed", thinking=False, tools=()):
    """A sample that says texts and control tokens by name."""
    prompt = Prompt([{"role": "user", "content": question}], tools=list(tools), gt=list(gt))
    sample = Sample(prompt, [1], thinking=thinking, status=status)
    ids = []
    for part in parts:
        control = tokenizer.control_id(part)
        ids += tokenizer.encode(part) if control is None else [control]
    sample.append(ids, [-1.0] * len(ids))
    sample.message = parse(ids, tokenizer, thinking)
    return sample


def generate(rollout: Rollout, prompts, samplings) -> list[Completion]:
    """Answer all prompts; with one `Sampling` that has a seed, prompt i draws from the seed + i."""
    if isinstance(samplings, Sampling):
        one = samplings
        samplings = [one if one.seed is None else replace(one, seed=one.seed + i) for i in range(len(prompts))]
    for key, (prompt, sampling) in enumerate(zip(prompts, samplings, strict=True)):
        rollout.submit(key, prompt, sampling)
    found = dict(rollout.finished())
    return [found[key] for key in range(len(prompts))]
