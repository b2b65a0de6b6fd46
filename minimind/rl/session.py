"""What the stages of reinforcement learning share: engine, rewards, stream, and how the policy is examined."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import mean

import torch

from minimind import runtime
from minimind.data.prompts import read_prompts
from minimind.engine.dialogue import ends_of_turn
from minimind.errors import UsageError
from minimind.model import lora
from minimind.model.transformer import Transformer
from minimind.recipe import Recipe
from minimind.rl.learner import Reference, Scorer
from minimind.rl.meter import Meter
from minimind.rl.objective import Algorithm, PolicyLoss, sampling_of
from minimind.rl.rewards import Rewards
from minimind.rl.rollout import LocalRollout, Rollout, Sample
from minimind.rl.rollout_http import HttpRollout
from minimind.rl.stream import Play, Prepare, RolloutStream, answer, begins_with_thinking, fitting, nothing, prompt_ids
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.parse import parse
from minimind.train import parallel
from minimind.train.precision import Precision

VALID_PROMPTS = 400
"""Validation during training asks so many."""
SHOWN = 3


class Session:
    """One run's prompts, engine and rewards.

    Args:
        recipe: of the run.
        model: the policy, whole or this rank's share of it.
        tokenizer: the policy's.
        play: how samples are filled; by default each prompt is answered once.

    Raises:
        UserError: bad data, rewards or server.
    """

    def __init__(self, recipe: Recipe, model: Transformer, tokenizer: Tokenizer, play: Play | None = None) -> None:
        if recipe.rl.groups % runtime.world_size():
            raise UsageError(
                f"recipe: rl.groups = {recipe.rl.groups} cannot be shared evenly by {runtime.world_size()} processes"
            )
        self.recipe, self.model, self.tokenizer = recipe, model, tokenizer
        self.prompts = read_prompts(recipe.data.files, recipe.data.on_bad_line)
        valid = read_prompts(recipe.data.valid, recipe.data.on_bad_line) if recipe.data.valid else []
        self.valid = fitting(valid, tokenizer, recipe)[:VALID_PROMPTS] if valid else []
        self.rollout = make_rollout(recipe, model, tokenizer)
        self.play: Play = play or (lambda samples, samplings: answer(self.rollout, samples, samplings))
        self.judge = Rewards(recipe, tokenizer)
        self.sampling = sampling_of(recipe.rl, ends_of_turn(tokenizer))
        self.scorer = Scorer(recipe, model.output_weight.device, self.sampling)
        self.meter = Meter()

    def reference(self) -> Reference | None:
        """The model as it is now, if the recipe holds the policy near it: call it before training."""
        if not self.recipe.rl.kl_coef:
            return None
        if lora.updates(self.model):
            return Reference(self.model, None)
        frozen = parallel.plain_copy(self.model).requires_grad_(False)
        parallel.shard(frozen, frozen.layers, self.recipe.train)
        return Reference(self.model, frozen)

    def stream(
        self, loss: PolicyLoss, prepare: Prepare, target_kl: float = 0.0, begin_step: Callable[[int], None] = nothing
    ) -> RolloutStream:
        """The run's batches."""
        return RolloutStream(
            self.recipe,
            self.model,
            self.tokenizer,
            self.prompts,
            self.rollout,
            self.sampling,
            self.play,
            self.judge,
            prepare,
            loss.moved,
            self.meter,
            target_kl,
            begin_step,
        )

    def loss(self, algorithm: Algorithm) -> PolicyLoss:
        """The policy's."""
        rl = self.recipe.rl
        return PolicyLoss(rl, algorithm, self.sampling, self.meter, rl.epochs * rl.minibatches == 1)

    def steps(self) -> int:
        """Optimizer steps of the run."""
        train, rl = self.recipe.train, self.recipe.rl
        rollouts = max(1, round(train.epochs * len(self.prompts) / rl.groups))
        return train.max_steps or rollouts * rl.epochs * rl.minibatches

    def validate(self) -> dict[str, float]:
        """Mean rewards on held-out prompts, answered by chance as in training, and by the likeliest tokens."""
        if not self.valid:
            return {}
        self.rollout.update_weights(self.model)
        figures = {}
        for name, greedy in (("", False), ("greedy_", True)):
            samples = self._examined(greedy)
            for reward in self.recipe.scoring.weights:
                given = [value for sample in samples if (value := sample.rewards.get(reward)) is not None]
                figures[f"{name}{reward}"] = mean(given) if given else 0.0
        return figures

    def _examined(self, greedy: bool) -> Sequence[Sample]:
        samples, samplings = [], []
        for number, prompt in enumerate(self.valid):
            thinking = begins_with_thinking(prompt, self.recipe, -1 - number)
            ids = prompt_ids(prompt, self.tokenizer, thinking)
            samples.append(Sample(prompt, ids, group=number, thinking=thinking))
            samplings.append(
                replace(self.sampling, temperature=0.0 if greedy else self.sampling.temperature, seed=number)
            )
        self.play(samples, samplings)
        for sample in samples:
            sample.message = parse(sample.ids, self.tokenizer, sample.thinking)
        self.judge(samples)
        return samples


def transcripts(samples: Sequence[Sample]) -> list[str]:
    """Some of the newest samples, to be read: what was asked, said, and what it was worth."""
    return [transcript(sample) for sample in samples[: SHOWN * 4 : 4]]


def transcript(sample: Sample) -> str:
    """One sample in words."""
    thought = sample.message.get("reasoning_content")
    said = (f"<think>{thought}</think> " if thought else "") + sample.answer
    rewards = ", ".join(f"{name} {value}" for name, value in sample.rewards.items())
    return f"{sample.prompt.question} → {said} ({rewards}; {sample.status})"


def make_rollout(recipe: Recipe, model: Transformer, tokenizer: Tokenizer) -> Rollout:
    """The engine in this process, or the server that the recipe names; in the number format of training."""
    rl, precision = recipe.rl, Precision(runtime.device(recipe.train.device), recipe.train.dtype)
    if rl.server:
        return HttpRollout(rl, tokenizer, "float32" if precision.dtype == torch.float32 else "bfloat16")
    rows = min(rl.rows, rl.groups * rl.samples)
    return LocalRollout(model, rows, recipe.data.sequence_length, precision.dtype)
