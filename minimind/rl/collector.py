"""From prompts to judged samples: ask the policy, read what it said, reward it, keep what there is to learn from.

    prompts → a group of samples each → answers of the rollout engine → rewards → groups whose rewards differ

Which prompts come next, whether an answer begins with thinking and the seed of each sample depend on the run's seed and
the place in the run alone: so a run can be repeated, and it is the same on any number of ranks.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from statistics import mean
from typing import Any, Protocol

import torch

from minimind import ranks
from minimind.console import warn
from minimind.data.prompts import Prompt, PromptStream
from minimind.engine.dialogue import ends_of_turn
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.model.qwen3 import Transformer
from minimind.rl.metrics import Meter
from minimind.rl.rollout import Episode, Sample, Weights
from minimind.rl.settings import RlConfig
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render
from minimind.tokenizer.parse import parse

TRANSCRIPTS = 3
"""How many of the newest samples are shown in the log."""
Fill = Callable[[Sequence[Sample], Sequence[Sampling]], None]
"""Fills samples with what the policy (and in episodes its tools) said, each by its own rules."""


class Judge(Protocol):
    """What gives samples their rewards."""

    names: list[str]

    def __call__(self, samples: Sequence[Sample]) -> None:
        """Fill in `rewards` and `reward` of samples that have ended."""


def single_turn(sample: Sample, sampling: Sampling) -> Episode:
    """The policy answers the sample's prompt once."""
    sample.add((yield sample.prompt_ids, sampling))


class Collector:
    """Collects judged samples.

    Args:
        config: the recipe's section.
        prompts: what is asked, in a new order each epoch.
        tokenizer: the policy's.
        weights: those of whoever answers.
        fill: one answer to a prompt, or a whole episode.
        rewards: the judge.
        seed: the run's.
    """

    def __init__(
        self,
        config: RlConfig,
        prompts: Sequence[Prompt],
        tokenizer: Tokenizer,
        weights: Weights,
        fill: Fill,
        rewards: Judge,
        seed: int,
    ) -> None:
        self.config, self.prompts, self.tokenizer = config, prompts, tokenizer
        self.weights, self.fill, self.rewards, self.seed = weights, fill, rewards, seed
        self.sampling = sampling_of(config, tokenizer)
        self.prompt_stream = PromptStream(len(prompts), seed)
        self.meter = Meter()
        self.last_rollout: list[Sample] = []
        """This rank's samples of the last rollout, of all its attempts."""

    def collect(self, rank: int, world: int) -> list[Sample]:
        """This rank's share of a rollout: samples of as many groups as asked for, or of those that teach something.

        Raises:
            UserError: nothing could be judged or learned in `config.attempts` rollouts, or the engine is gone.
        """
        config, share = self.config, self.config.groups // world
        useful: list[list[Sample]] = []
        judged, self.last_rollout = False, []
        for _ in range(config.attempts):
            groups = self.next_groups(rank, share, world)
            judged |= any(sample.reward is not None for group in groups for sample in group)
            good = [group for group in groups if rewards_differ(group, config.filter_metric)]
            self.meter.add("zero_std_groups", len(groups) - len(good), len(groups))
            useful += groups if config.filter_groups == "keep" else good
            enough = len(useful) >= (share if config.filter_groups == "resample" else 1)
            if ranks.every_rank(enough) if config.filter_groups == "resample" else ranks.any_rank(enough):
                break
        if not ranks.any_rank(judged):
            raise UserError(
                f"no answer of this rollout could be judged: of the rewards {', '.join(self.rewards.names)} "
                f"one gave no value for any of them (the warnings above may say why), or every answer failed"
            )
        if not ranks.any_rank(bool(useful)):
            raise UserError(
                f"in {config.attempts} rollouts, {config.attempts * config.groups} prompts, every group of answers had "
                f"equal rewards: there is nothing to learn; use easier or harder prompts, more rl.samples or another "
                f"reward"
            )
        return [sample for group in useful[:share] for sample in group if sample.reward is not None]

    def next_groups(self, rank: int, share: int, world: int) -> list[list[Sample]]:
        """This rank's groups of the next prompts, answered and judged."""
        first = self.prompt_stream.position + rank * share
        indices = self.prompt_stream.take(share * world)[rank * share : (rank + 1) * share]
        filled = [self.group(first + nth, index) for nth, index in enumerate(indices)]
        samples = [sample for group, _ in filled for sample in group]
        self.last_rollout += samples
        seconds = self._answer_and_judge(samples, [rule for _, rules in filled for rule in rules])
        self.meter.add("rollout_tokens_per_second", sum(len(sample.ids) for sample in samples), seconds)
        self._measure(samples)
        return [group for group, _ in filled]

    def validate(self, policy: Transformer, prompts: Sequence[Prompt]) -> dict[str, float]:
        """Mean rewards on held-out prompts, answered by chance as in training, and by the likeliest tokens."""
        if not prompts:
            return {}
        figures = {}
        ranks.on_all_ranks(lambda: self.weights.update_weights(policy))
        for kind, temperature in (("", self.sampling.temperature), ("greedy_", 0.0)):
            samples = [self._sample(prompt, -1 - number, group=number) for number, prompt in enumerate(prompts)]
            rules = [replace(self.sampling, temperature=temperature, seed=number) for number in range(len(prompts))]
            self._answer_and_judge(samples, rules)
            for name in self.rewards.names:
                given = [value for sample in samples if (value := sample.rewards.get(name)) is not None]
                figures[f"{kind}{name}"] = mean(given) if given else 0.0
        return figures

    def group(self, place: int, index: int) -> tuple[list[Sample], list[Sampling]]:
        """The empty samples of prompt `index` at this place of the run, and the rules by which each is filled."""
        samples = [self._sample(self.prompts[index], place, group=place) for _ in range(self.config.samples)]
        # of 31 bits: a server may keep no more
        seeds = [_hash(self.seed, place, nth) % 2**31 for nth in range(self.config.samples)]
        return samples, [replace(self.sampling, seed=seed) for seed in seeds]

    def judge(self, samples: Sequence[Sample]) -> None:
        """Give samples that have ended their messages and rewards."""
        for sample in samples:
            sample.message = parse(sample.last_turn, self.tokenizer, sample.thinking)
        self.rewards(samples)

    def close(self) -> None:
        """End what goes on beside the trainer; here nothing does."""

    def transcripts(self) -> list[str]:
        """Some of the newest samples, to be read: what was asked, said, and what it was worth."""
        return [transcript(sample) for sample in self.last_rollout[: TRANSCRIPTS * 4 : 4]]

    def _sample(self, prompt: Prompt, place: int, group: int) -> Sample:
        thinking = begins_with_thinking(prompt, self.config.thinking_ratio, self.seed, place)
        return Sample(prompt, prompt_ids(prompt, self.tokenizer, thinking), group=group, thinking=thinking)

    def _answer_and_judge(self, samples: Sequence[Sample], rules: Sequence[Sampling]) -> float:
        """Fill samples with answers, messages and rewards; return the seconds that answering took."""
        began = time.monotonic()
        ranks.on_all_ranks(lambda: self.fill(samples, rules))
        seconds = time.monotonic() - began
        self.judge(samples)
        return seconds

    def _measure(self, samples: Sequence[Sample]) -> None:
        meter, lengths = self.meter, [float(sum(sample.trainable)) for sample in samples]
        meter.histogram("answer_tokens", lengths)
        meter.add("truncated", sum(sample.status == "truncated" for sample in samples), len(samples))
        meter.add("unjudged", sum(sample.reward is None for sample in samples), len(samples))
        meter.histogram("reward", [sample.reward for sample in samples if sample.reward is not None])
        for name in {name: None for sample in samples for name in sample.rewards}:
            given = [value for sample in samples if (value := sample.rewards.get(name)) is not None]
            meter.histogram(f"reward_{name}", given)
        calls = [call for sample in samples for call in sample.info.get("calls", [])]
        if calls:
            meter.add("tool_errors", sum(not call.ok for call in calls), len(calls))
        total, count = ranks.all_reduce(torch.tensor([sum(lengths), len(lengths)])).tolist()
        limit = self.config.stop_length
        if limit and total / count > limit:
            raise UserError(
                f"the mean answer has {total / count:.0f} tokens, more than rl.stop_length = {limit:g}; look at the "
                f"samples, lower optim.lr or add the reward `overlong`"
            )


def fitting(prompts: Sequence[Prompt], tokenizer: Tokenizer, length: int, max_new_tokens: int) -> list[Prompt]:
    """The prompts that leave room for an answer in a row of `length` tokens.

    Raises:
        UserError: none does.
    """
    room = length - max_new_tokens
    kept = [prompt for prompt in prompts if len(prompt_ids(prompt, tokenizer, False)) <= room]
    if not kept:
        raise UserError(
            f"no prompt leaves room for an answer of rl.max_new_tokens = {max_new_tokens} in a row of "
            f"data.sequence_length = {length}; raise the one or lower the other"
        )
    if len(kept) < len(prompts):
        warn(f"{len(prompts) - len(kept):,} of {len(prompts):,} prompts are too long for a row and left out")
    return kept


def sampling_of(config: RlConfig, tokenizer: Tokenizer) -> Sampling:
    """The rules by which answers are sampled and scored, but for the seed."""
    return Sampling(
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        max_new_tokens=config.max_new_tokens,
        stop_ids=tuple(ends_of_turn(tokenizer)),
    )


def begins_with_thinking(prompt: Prompt, ratio: float, seed: int, place: int) -> bool:
    """Whether the answers to the prompt at this place of the run think first: all of a group do, or none."""
    if prompt.open_thinking is not None:
        return prompt.open_thinking
    return _hash(seed, "thinking", place) < ratio * 2**56


def prompt_ids(prompt: Prompt, tokenizer: Tokenizer, thinking: bool) -> list[int]:
    """What the policy reads before it speaks."""
    return render(prompt.messages, tokenizer, prompt.tools or None, thinking, add_generation_prompt=True)[0]


def rewards_differ(group: Sequence[Sample], by: str = "") -> bool:
    """Whether the answers of a group differ in the raw reward `by` (the first one), before weights and shaping."""
    values = set()
    for sample in group:
        if sample.reward is not None:
            values.add(sample.rewards[by] if by else next(iter(sample.rewards.values()), sample.reward))
    return len(values) > 1


def transcript(sample: Sample) -> str:
    """One sample in words."""
    thought = sample.message.get("reasoning_content")
    said = (f"<think>{thought}</think> " if thought else "") + sample.answer
    rewards = ", ".join(f"{name} {value}" for name, value in sample.rewards.items())
    return f"{sample.prompt.question} → {said} ({rewards}; {sample.status})"


def _hash(*what: Any) -> int:
    """56 bits that depend on what is given and on nothing else."""
    return int.from_bytes(blake2b(repr(what).encode(), digest_size=7).digest(), "little")
