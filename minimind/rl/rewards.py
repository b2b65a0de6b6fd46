"""Rewards: plain named functions of samples, weighted and added up.

    @reward
    def polite(samples: Sequence[Sample]) -> list[float | None]:
        return [float("please" in sample.answer) for sample in samples]

None means: cannot say; the sample then takes no part in learning. The same happens where a function raises or takes too
long: it is counted (`unjudged` in the log), and the run goes on. Nothing that a model wrote is ever evaluated.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from minimind.data.corpus import language
from minimind.rl.rollout import Sample
from minimind.rl.settings import ScoringConfig
from minimind.tokenizer.bpe import Tokenizer
from minimind.tools import by_name, schema
from minimind.tools.answers import numbers

Reward = Callable[[Sequence[Sample]], list[float | None]]


class RewardContext(NamedTuple):
    """What a reward may need to know of the run."""

    scoring: ScoringConfig
    tokenizer: Tokenizer
    max_new_tokens: int
    device: torch.device


Build = Callable[[RewardContext], Reward]
"""Makes a reward that needs to know something of the run."""
BUILDERS: dict[str, Build] = {}
"""All rewards by name."""


def reward(function: Reward) -> Reward:
    """Register a function under its name."""
    BUILDERS[function.__name__] = lambda _context: function
    return function


def built(build: Build) -> Build:
    """Register a function that makes the reward of that name."""
    BUILDERS[build.__name__] = build
    return build


# What is expected


@reward
def exact(samples: Sequence[Sample]) -> list[float | None]:
    """1 where the answer is one of `gt`, full stops and spaces at its ends aside."""
    return [
        _any(sample, lambda sample: [_bare(sample.answer) == _bare(gt) for gt in sample.prompt.gt])
        for sample in samples
    ]


@reward
def numeric(samples: Sequence[Sample]) -> list[float | None]:
    """1 where the answer's last number is the first one of a `gt`: `3 + 4 = 7.` answers 7."""

    def judged(sample: Sample) -> list[bool]:
        said = numbers(sample.answer)[-1:]
        wanted = [numbers(gt)[:1] for gt in sample.prompt.gt]
        return [bool(said and one) and abs(said[0] - one[0]) <= 1e-6 * max(1, abs(one[0])) for one in wanted]

    return [_any(sample, judged) for sample in samples]


_CHOICE = re.compile(r"(?<![A-Za-z])\(?([A-H])\)?(?![A-Za-z'’])")


@reward
def choice(samples: Sequence[Sample]) -> list[float | None]:
    """1 where the last letter from A to H that stands alone is a `gt`."""
    return [
        _any(
            sample,
            lambda sample: [_CHOICE.findall(sample.answer)[-1:] == [gt.strip(" ().")] for gt in sample.prompt.gt],
        )
        for sample in samples
    ]


def _any(sample: Sample, judged: Callable[[Sample], list[bool]]) -> float | None:
    """None without `gt`: nothing is known."""
    return float(any(judged(sample))) if sample.prompt.gt else None


def _bare(text: str) -> str:
    return text.strip().strip(".。!！").strip()


# How it is said


@built
def closed(context: RewardContext) -> Reward:
    """1 where the answer came to its end, with every block that it opened closed, and is not empty."""
    pairs = [("<think>", "</think>"), ("<tool_call>", "</tool_call>")]
    ids = [(context.tokenizer.control_id(opening), context.tokenizer.control_id(closing)) for opening, closing in pairs]

    def judge(sample: Sample) -> float:
        said = sample.chosen_ids
        opened = sample.info.get("turns", 1) if sample.thinking else 0  # by the prompt of each turn
        even = all(
            said.count(opening) + opened * (opening == ids[0][0]) == said.count(closing)
            for opening, closing in ids
            if opening is not None and closing is not None
        )
        return float(sample.status == "completed" and even and bool(sample.answer or sample.message.get("tool_calls")))

    return lambda samples: [judge(sample) for sample in samples]


@reward
def unfinished(samples: Sequence[Sample]) -> list[float | None]:
    """-1 where the answer was cut off, else 0."""
    return [-float(sample.status == "truncated") for sample in samples]


@built
def overlong(context: RewardContext) -> Reward:
    """DAPO's soft punishment: 0, then over the last `overlong_buffer` tokens before the limit down to -1."""
    limit, buffer = context.max_new_tokens, max(1, context.scoring.overlong_buffer)
    return lambda samples: [max(-1.0, min(0.0, (limit - buffer - len(s.ids)) / buffer)) for s in samples]


@built
def repetition(context: RewardContext) -> Reward:
    """Minus the share of n-grams that occurred before; over tokens, so that it is right for Chinese too."""
    n = context.scoring.ngram

    def judge(sample: Sample) -> float:
        ids = sample.chosen_ids
        grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
        return len(set(grams)) / len(grams) - 1 if grams else 0.0

    return lambda samples: [judge(sample) for sample in samples]


@reward
def same_language(samples: Sequence[Sample]) -> list[float | None]:
    """1 where the answer is in the language of the question, 0.5 where either of them is mixed, else 0."""

    def judge(sample: Sample) -> float:
        asked, said = language(sample.prompt.question), language(sample.answer)
        return 1.0 if asked == said else 0.5 if "mixed" in (asked, said) else 0.0

    return [judge(sample) for sample in samples]


@reward
def legal_calls(samples: Sequence[Sample]) -> list[float | None]:
    """Share of the last turn's tool calls that name a tool on offer and fit its schema; 1 without any call."""
    return [_legal(sample) for sample in samples]


def _legal(sample: Sample) -> float:
    offered = {name: one.get("parameters") or {} for name, one in by_name(sample.prompt.tools).items()}
    calls = [call["function"] for call in sample.message.get("tool_calls", [])]
    fine = [call["name"] in offered and not schema.fault(call["arguments"], offered[call["name"]]) for call in calls]
    broken = "<tool_call>" in sample.answer
    return 0.0 if broken else sum(fine) / len(fine) if fine else 1.0
