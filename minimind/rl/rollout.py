"""Rollouts: token ids in, token ids out.

The ids that were sampled are the ids that are trained on; nothing is decoded and encoded again on the way.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from minimind import runtime
from minimind.data.prompts import Prompt
from minimind.engine.engine import Engine
from minimind.engine.generate import Ask, Completion, EnginePool, Pool, Status, generate
from minimind.engine.sampling import Sampling
from minimind.model import lora
from minimind.model.qwen3 import Transformer
from minimind.train import parallel


@dataclass(eq=False)
class Sample:
    """One answer, or one trajectory in which tools spoke too, on its way from the engine to the trainer.

    Two that say the same are still two.
    """

    prompt: Prompt
    prompt_ids: list[int]
    sampling: Sampling = field(default_factory=Sampling)
    """The rules by which the answer is drawn, its seed among them."""
    group: int = 0
    """Which samples are compared: those of one prompt."""
    thinking: bool = False
    """The generation prompt left `<think>` open."""
    ids: list[int] = field(default_factory=list)
    """Everything after the prompt."""
    trainable: list[bool] = field(default_factory=list)
    """True for each id that the policy chose; what a tool or the environment said is only read."""
    log_probs: list[float] = field(default_factory=list)
    """The engine's, of each id; 0 where it is not trainable."""
    versions: list[int] = field(default_factory=list)
    """The weights that each id was drawn with; -1 where it is not trainable."""
    status: Status = "completed"
    message: dict[str, Any] = field(default_factory=dict)
    """The last thing that the policy said: content, reasoning_content, tool_calls."""
    info: dict[str, Any] = field(default_factory=dict)
    """What an environment has to say: turns, calls, errors."""
    rewards: dict[str, float | None] = field(default_factory=dict)
    """Each component by name, before its weight."""
    reward: float | None = None
    """Their weighted sum; None: this sample could not be judged."""

    def append(
        self, ids: Sequence[int], log_probs: Sequence[float] | None = None, versions: Sequence[int] | None = None
    ) -> None:
        """Add ids: of the policy, each with its log-probability, or without any, of a tool or the environment.

        Raises:
            ValueError: log-probabilities or versions that are not as many as the ids.
        """
        chosen = log_probs is not None
        log_probs = [0.0] * len(ids) if log_probs is None else log_probs
        versions = [0 if chosen else -1] * len(ids) if versions is None else versions
        if not len(ids) == len(log_probs) == len(versions):
            raise ValueError(f"{len(ids)} ids with {len(log_probs)} log-probabilities and {len(versions)} versions")
        self.ids += ids
        self.trainable += [chosen] * len(ids)
        self.log_probs += log_probs
        self.versions += versions

    def add(self, completion: Completion) -> None:
        """Add what the engine wrote."""
        self.append(completion.ids, completion.log_probs, completion.versions)
        self.status = completion.status

    @property
    def answer(self) -> str:
        """What was said to the user, without thinking."""
        return str(self.message.get("content", "")).strip()

    @property
    def last_turn(self) -> list[int]:
        """The ids of the last thing that the policy said."""
        end = len(self.ids)
        while end and not self.trainable[end - 1]:
            end -= 1
        start = end
        while start and self.trainable[start - 1]:
            start -= 1
        return self.ids[start:end]

    @property
    def sampled_ids(self) -> list[int]:
        """The ids that the policy chose."""
        return [id for id, chosen in zip(self.ids, self.trainable, strict=True) if chosen]

    @property
    def transcript(self) -> str:
        """What was asked, said, and what it was worth, in a line."""
        thought = self.message.get("reasoning_content")
        said = (f"<think>{thought}</think> " if thought else "") + self.answer
        rewards = ", ".join(f"{name} {value}" for name, value in self.rewards.items())
        return f"{self.prompt.question} → {said} ({rewards}; {self.status})"


Episode = Generator[Ask, Completion, None]
"""Fills one sample: yields what the policy is asked, is sent what it said, and ends when nothing more is asked; at once
if there is nothing to ask."""
Generate = Callable[[Sample], Episode]
"""How a sample is filled: with one answer, or in turns with tools."""


def single_turn(sample: Sample) -> Episode:
    """The policy answers the sample's prompt once."""
    sample.add((yield sample.prompt_ids, sample.sampling))


def play(pool: Pool, episode: Generate, samples: Sequence[Sample]) -> None:
    """Fill all samples at once: none waits for another's turn."""
    episodes = [episode(sample) for sample in samples]
    first = [(number, ask) for number, one in enumerate(episodes) if (ask := next(one, None))]
    for _ in generate(pool, first, lambda number, completion: following(episodes[number], completion)):
        pass


def following(episode: Episode, completion: Completion) -> Ask | None:
    """What an episode asks after the policy has said something; None: it is over."""
    try:
        return episode.send(completion)
    except StopIteration:
        return None


class Weights(Protocol):
    """The policy's, wherever it answers."""

    version: int
    """How often they were changed."""

    def update_weights(self, model: Transformer) -> None:
        """Answer with the weights of `model` from now on.

        Raises:
            UserError: they could not be brought there.
        """


class Rollout(Pool, Weights, Protocol):
    """What answers prompts with the policy: an engine in this process, or a server."""


class LocalRollout(EnginePool):
    """The engine in this process. It shares the trainer's weights where number format and layout allow, else copies.

    Args:
        model: the policy.
        max_batch_size: how many answers are written at once.
        context: most tokens of a prompt with its answer.
        dtype: of the engine; the model's shares its weights.
    """

    def __init__(
        self,
        model: Transformer,
        max_batch_size: int,
        context: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._shared = not lora.updates(model) and not parallel.is_sharded(model)
        self._shared &= dtype is None or dtype == model.output_weight.dtype
        if not self._shared:
            model = parallel.plain_copy(model, dtype or torch.float32)
        super().__init__(Engine(model, max_batch_size=max_batch_size, context=context))

    def finished(self) -> Iterator[tuple[Any, Completion]]:
        """Every answer that was asked for, as each ends."""
        with runtime.evaluating(self.engine.model):
            yield from super().finished()

    def update_weights(self, model: Transformer) -> None:
        """Answer with the weights of `model`; shared ones are there already, but all that was computed is forgotten."""
        if self._shared:
            self.engine.flush_cache()
            self.version += 1
        else:
            self.engine.update_weights(parallel.plain_weights(model))
