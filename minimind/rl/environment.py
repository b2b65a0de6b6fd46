"""Environments: what a policy acts in, turn by turn, as token ids.

    ids = environment.reset(prompt)                     what the policy is given
    observed, done, info = environment.step(said)       what it reads next, after what it said

The built-in one is a dialogue with tools. What the policy said is trained on, what it read is not: `multi_turn` puts
both into a sample, each in its place, so that the tokens that were sampled are the tokens that are learned from.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, NamedTuple, Protocol

from minimind import tools
from minimind.console import warn
from minimind.data.prompts import Prompt
from minimind.engine.dialogue import Call, Dialogue
from minimind.rl.rewards import reward
from minimind.rl.rollout import Episode, Sample
from minimind.tokenizer.bpe import Tokenizer
from minimind.tools.answers import hits


class Step(NamedTuple):
    """What came of the policy's words."""

    observed: list[int]
    """The ids that it reads next; none at the end."""
    done: bool
    info: dict[str, Any]
    """`calls` that were made, a list of `Call`; the environment's own `reward`, where it gives one; at the end
    `finished`: whether it came to its end, or was cut off."""


class Environment(Protocol):
    """One episode; every sample has an environment of its own."""

    def reset(self, prompt: Prompt) -> list[int]:
        """Begin an episode; return the ids that the policy speaks after."""

    def step(self, said: Sequence[int]) -> Step:
        """Take the ids that the policy chose, its end token included."""


class ToolUse:
    """Answer a user with the help of tools: calls are read, checked, made, and answered with their results."""

    def __init__(
        self, tokenizer: Tokenizer, max_turns: int = 4, thinking: bool = False, context: tools.Context | None = None
    ) -> None:
        """`max_turns`: how often the policy may speak; `context`: the clock and dice that tools see."""
        self._tokenizer, self._max_turns, self._thinking, self._context = tokenizer, max_turns, thinking, context

    def reset(self, prompt: Prompt) -> list[int]:
        """Begin an episode.

        Raises:
            UserError: the conversation cannot be rendered.
        """
        self.dialogue = Dialogue(
            prompt.messages,
            prompt.tools,
            self._tokenizer,
            thinking=self._thinking,
            max_turns=self._max_turns,
            context=self._context,
        )
        return list(self.dialogue.ids)

    def step(self, said: Sequence[int]) -> Step:
        """Take what the policy said; whatever that is, it is answered."""
        observed = self.dialogue.take(said)
        info: dict[str, Any] = {"calls": self.dialogue.turns[-1].calls}
        if self.dialogue.done:
            info["finished"] = self.dialogue.finished
        return Step(observed, self.dialogue.done, info)


Make = Callable[[Sample], Environment]
"""The environment of one sample; its chances come from the sample's seed, so that a run can be repeated."""


def multi_turn(sample: Sample, make: Make, max_tokens: int, row: int) -> Episode:
    """The policy acts until its episode is over.

    `max_tokens` bounds everything after a prompt, what tools say included, and `row` the prompt too. An episode that
    has no room left, or does not come to an answer, is truncated; one whose first observation fills the row fails.
    """
    environment, seed = make(sample), sample.sampling.seed
    sample.prompt_ids = environment.reset(sample.prompt)
    sample.info = {"calls": [], "turns": 0, "return": 0.0}
    if (room := min(max_tokens, row - len(sample.prompt_ids))) <= 0:
        _warn_of_room(row)
        sample.status = "failed"
        return
    while True:
        own_seed = None if seed is None else seed + sample.info["turns"]
        sampling = replace(sample.sampling, seed=own_seed, max_new_tokens=room)
        completion = yield sample.prompt_ids + sample.ids, sampling
        sample.add(completion)
        if completion.status in ("aborted", "failed"):
            return
        observed, done, info = environment.step(completion.ids)
        sample.info["calls"] += info["calls"]
        sample.info["turns"] += 1
        sample.info["return"] += info.get("reward", 0.0)
        room = min(max_tokens, row - len(sample.prompt_ids)) - len(sample.ids) - len(observed)
        if done or room <= 0:
            sample.status = "completed" if done and info["finished"] else "truncated"
            return
        sample.append(observed)


@cache
def _warn_of_room(row: int) -> None:
    warn(
        f"an episode begins with so much to read that data.sequence_length = {row} leaves no room for an answer; such "
        f"episodes are left out (said once)"
    )


def repeatable(seed: int | None) -> tools.Context:
    """A clock and dice that depend on the seed alone."""
    dice = random.Random(seed)
    now = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=dice.randrange(525_600))
    return tools.Context(now=lambda: now, dice=dice)


# Rewards of whole episodes


@reward
def outcome(samples: Sequence[Sample]) -> list[float | None]:
    """Share of the expected things that the final answer holds; 0 where there is no final answer, None without `gt`."""
    return [_outcome(sample) if sample.prompt.gt else None for sample in samples]


def _outcome(sample: Sample) -> float:
    if sample.status != "completed" or sample.message.get("tool_calls"):
        return 0.0
    found = hits(sample.prompt.gt, sample.answer)
    return sum(found) / len(found)


@reward
def returned(samples: Sequence[Sample]) -> list[float | None]:
    """The sum of what the environment itself gave in the episode (`agent.environment`)."""
    return [sample.info.get("return") for sample in samples]


@reward
def legality(samples: Sequence[Sample]) -> list[float | None]:
    """Share of the episode's calls that were legal and gave a result; without any call, 1 if none was needed."""

    def judge(sample: Sample) -> float:
        calls: list[Call] = sample.info.get("calls", [])
        if not calls:
            return float(not sample.prompt.gt or _outcome(sample) == 1)
        return sum(call.ok for call in calls) / len(calls)

    return [judge(sample) for sample in samples]
