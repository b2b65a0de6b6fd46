"""The batches of reinforcement learning: when they run out, the policy is asked anew.

    prompts → a group of samples each → answers of the rollout engine → rewards → groups whose rewards differ → batches

To the training loop `RolloutStream` is a stream like any other. `next_batch` hands out what is left of the last
rollout; when nothing is, it brings the newest weights to the engine, has a `Collector` ask prompts and judge the
answers, and lets the stage make batches of them. All that decides what comes next is in `state_dict`.

Which prompts come next, whether an answer begins with thinking and the seed of each sample depend on the run's seed and
the place in the run alone: so a run can be repeated, and it is the same on any number of ranks.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

import torch

from minimind import ranks, runtime
from minimind.data.prompts import Prompt, PromptStream, prompt_ids
from minimind.engine.dialogue import ends_of_turn
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.model.qwen3 import Transformer
from minimind.rl import batch as batches
from minimind.rl import dump
from minimind.rl.batch import Packed, PolicyBatch
from minimind.rl.metrics import Meter, PolicyDrift, measure_samples
from minimind.rl.rollout import Sample, Weights
from minimind.rl.settings import RlConfig
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.parse import parse
from minimind.train.job import Halt, split

SHOWN = 3
"""How many of the newest samples are shown in the log."""
Fill = Callable[[Sequence[Sample]], None]
"""Fills samples with what the policy (and in episodes its tools) said, each by its own rules."""
MakeBatches = Callable[[Sequence[Sample], int], list[Packed]]
"""Makes the judged samples of rollout number N into the batches of its optimizer steps. All ranks make equally many, of
equally many rows."""


class Judge(Protocol):
    """What gives samples their rewards."""

    names: list[str]

    def __call__(self, samples: Sequence[Sample]) -> None:
        """Fill in `rewards` and `reward` of samples that have ended."""


class RolloutStream:
    """Endless batches of judged samples.

    Args:
        collector: brings the samples.
        policy: the model whose weights the engine gets before each rollout.
        make_batches: what a stage makes of the samples.
        drift: of the policy since it sampled, recorded by the stage's loss.
        target_kl: drop what is left of a rollout once the policy has drifted further; 0: never.
        before_step: called with the number of the rollout before each of its steps.
    """

    def __init__(
        self,
        collector: "Collector",
        policy: Transformer,
        make_batches: MakeBatches,
        drift: PolicyDrift,
        target_kl: float = 0.0,
        before_step: Callable[[int], None] = lambda rollout: None,
    ) -> None:
        self.collector, self.policy, self.make_batches, self.drift = collector, policy, make_batches, drift
        self.target_kl, self.before_step = target_kl, before_step
        self.rollouts = 0
        """Rollouts made so far; `queue` holds what is left of the last."""
        self.queue: list[PolicyBatch] = []

    def next_batch(self, rows: int, rank: int = 0, world: int = 1) -> PolicyBatch:
        """The next optimizer step's batch; how many rows it has depends on what was said, not on `rows`.

        Raises:
            Halt: the policy has collapsed, there is nothing left to learn, or the rollout server is gone.
        """
        self._check_drift()
        if not self.queue:
            self._roll_out(rank, world)
        self.before_step(self.rollouts - 1)
        return self.queue.pop(0)

    def dry_batch(self, rows: int, rank: int = 0, world: int = 1) -> PolicyBatch:
        """A batch of made-up answers: nobody is asked for it, and nobody judges it."""
        samples, collector = [], self.collector
        for place in range(collector.config.groups // world):
            for sample in collector.group(place):
                sample.append([sample.prompt_ids[-1]] * 2, [0.0] * 2)
                sample.rewards, sample.reward = dict.fromkeys(collector.rewards.names, 0.0), 0.0
                samples.append(sample)
        return self.make_batches(samples, self.rollouts)[0].batch

    def state_dict(self) -> dict[str, Any]:
        """The place in the prompts, what is left of the last rollout, and the policy's drift, of all ranks."""
        parts = ranks.all_gather(self.queue)
        queue = [batches.joined(same) for same in zip(*parts, strict=True)]
        return {
            "prompts": digest(self.collector.prompts),
            "place": self.collector.prompt_stream.position,
            "number": self.rollouts,
            "version": self.collector.engine.version,
            "queue": [batches.encode(batch) for batch in queue],
            "moved": ranks.all_reduce(torch.tensor(self.drift.sums, dtype=torch.float64)).tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; each rank takes its share of the rows.

        Raises:
            UserError: the prompts are others, so that the place means nothing.
        """
        if state.get("prompts", here := digest(self.collector.prompts)) != here:
            raise UserError(
                "its prompts are other ones now, or others fit into a row; restore them with data.sequence_length and "
                "rl.max_new_tokens, use another --out, or start anew with --resume never"
            )
        self.collector.prompt_stream.position, self.rollouts = state["place"], state["number"]
        self.collector.engine.version = state["version"]
        self.drift.parts = [tuple(state["moved"])] if runtime.is_main() else []  # it is that of all ranks
        rank, world = runtime.rank(), runtime.world_size()
        self.queue = []
        for columns in state["queue"]:
            batch = batches.decode(columns)
            share = -(-len(batch.labels) // world)
            batch = batches.pad_rows(batch, share * world)
            self.queue.append(list(split(batch, share))[rank])
        self.collector.meter.clear()

    def _roll_out(self, rank: int, world: int) -> None:
        prompts = self.collector.prompt_stream
        position = prompts.position
        try:
            ranks.on_all_ranks(lambda: self.collector.engine.update_weights(self.policy))
            packs = self.make_batches(self.collector.collect(rank, world), self.rollouts)
            if folder := self.collector.config.dump:
                dump.write(Path(folder), self.rollouts, self.collector.last_rollout, packs)
            self.queue = [packed.batch for packed in packs]
        except UserError as error:
            prompts.position, self.queue = position, []
            raise Halt(str(error)) from error
        self.rollouts += 1

    def _check_drift(self) -> None:
        """Look at how far the last step went: stop a policy that collapses, leave a rollout that it has left behind."""
        config, drift = self.collector.config, self.drift.take()
        if drift is None:
            return
        kl, entropy = drift
        if config.stop_kl and kl > config.stop_kl:
            raise Halt(
                f"the policy has moved by a KL divergence of {kl:.3g} from the one that sampled, more than "
                f"rl.stop_kl = {config.stop_kl:g}; lower optim.lr or rl.epochs"
            )
        if config.stop_entropy and entropy < config.stop_entropy:
            raise Halt(
                f"the policy's entropy is {entropy:.3g}, less than rl.stop_entropy = {config.stop_entropy:g}: its "
                f"answers are all alike; lower optim.lr or raise rl.entropy_coef"
            )
        if self.target_kl and kl > self.target_kl and self.queue:
            self.collector.meter.add("left_early", 1, 1)
            self.queue = []


class Collector:
    """Brings judged samples.

    Args:
        config: the recipe's section.
        prompts: what is asked, in a new order each epoch.
        tokenizer: the policy's.
        engine: what answers, and is given the weights.
        fill: has samples answered.
        rewards: the judge.
        seed: the run's.
    """

    def __init__(
        self,
        config: RlConfig,
        prompts: Sequence[Prompt],
        tokenizer: Tokenizer,
        engine: Weights,
        fill: Fill,
        rewards: Judge,
        seed: int,
    ) -> None:
        self.config, self.prompts, self.tokenizer = config, prompts, tokenizer
        self.engine, self.fill, self.rewards, self.seed = engine, fill, rewards, seed
        self.sampling = sampling_of(config, tokenizer)
        self.prompt_stream = PromptStream(len(prompts), seed)
        self.meter = Meter()
        self.last_rollout: list[Sample] = []
        """This rank's samples of the last rollout, of all its rounds."""

    def collect(self, rank: int, world: int) -> list[Sample]:
        """This rank's share of a rollout: judged samples of `config.groups` groups, filtered as `filter_groups` says.

        Raises:
            UserError: nothing could be judged or learned in `config.attempts` rounds, or the engine is gone.
        """
        config, share = self.config, self.config.groups // world
        enough = config.groups if config.filter_groups == "resample" else 1
        useful: list[list[Sample]] = []
        places: list[int] = []
        judged, self.last_rollout = False, []
        for _ in range(config.attempts):
            groups = self.next_groups(rank, share, world)
            judged |= any(sample.reward is not None for group in groups for sample in group)
            good = [group for group in groups if rewards_differ(group, config.filter_metric)]
            self.meter.add("zero_std_groups", len(groups) - len(good), len(groups))
            useful += groups if config.filter_groups == "keep" else good
            places = sorted(chain.from_iterable(ranks.all_gather([group[0].group for group in useful])))
            if len(places) >= enough:
                break
        if not ranks.any_rank(judged):
            raise UserError(
                f"no answer of this rollout could be judged: of the rewards {', '.join(self.rewards.names)} "
                f"one gave no value for any of them (the warnings above may say why), or every answer failed"
            )
        if not places:
            raise UserError(
                f"in {config.attempts} rounds, {config.attempts * config.groups} prompts, every group of answers had "
                f"equal rewards: there is nothing to learn; use easier or harder prompts, more rl.samples or another "
                f"reward"
            )
        kept = set(places[: config.groups])
        return [s for group in useful if group[0].group in kept for s in group if s.reward is not None]

    def next_groups(self, rank: int, share: int, world: int) -> list[list[Sample]]:
        """This rank's groups of the next prompts, answered and judged."""
        first = self.prompt_stream.position + rank * share
        self.prompt_stream.position += share * world
        groups = [self.group(place) for place in range(first, first + share)]
        samples = [sample for group in groups for sample in group]
        self.last_rollout += samples
        seconds = self._answer_and_judge(samples)
        self.meter.add("rollout_tokens_per_second", sum(len(sample.ids) for sample in samples), seconds)
        self.measure(samples)
        return groups

    def group(self, place: int) -> list[Sample]:
        """The empty samples of the prompt at this place of the run."""
        prompt = self.prompts[self.prompt_stream.index(place)]
        # of 31 bits: a server may keep no more
        seeds = [_hash(self.seed, place, nth) % 2**31 for nth in range(self.config.samples)]
        return [self._sample(prompt, place, place, replace(self.sampling, seed=seed)) for seed in seeds]

    def judge(self, samples: Sequence[Sample]) -> None:
        """Give samples that have ended their messages and rewards."""
        for sample in samples:
            sample.message = parse(sample.last_turn, self.tokenizer, sample.thinking)
        self.rewards(samples)

    def measure(self, samples: Sequence[Sample]) -> None:
        """Record what there is to know of samples.

        Raises:
            UserError: the answers have become too long.
        """
        measure_samples(self.meter, samples)
        length = torch.tensor([float(sum(sum(sample.trainable) for sample in samples)), len(samples)])
        total, count = ranks.all_reduce(length).tolist()
        limit = self.config.stop_length
        if limit and total / count > limit:
            raise UserError(
                f"the mean answer has {total / count:.0f} tokens, more than rl.stop_length = {limit:g}; look at the "
                f"samples, lower optim.lr or add the reward `overlong`"
            )

    def validate(self, policy: Transformer, prompts: Sequence[Prompt]) -> dict[str, float]:
        """Mean rewards on held-out prompts, answered by chance as in training, and by the likeliest tokens.

        Raises:
            Halt: the engine is gone, or an environment failed.
        """
        if not prompts:
            return {}
        figures = {}
        for kind, temperature in (("", self.sampling.temperature), ("greedy_", 0.0)):
            samples = []
            for nth, prompt in enumerate(prompts):
                sampling = replace(self.sampling, temperature=temperature, seed=nth)
                samples.append(self._sample(prompt, -1 - nth, -1 - nth, sampling))  # no place of the run's own
            try:
                if not kind:
                    ranks.on_all_ranks(lambda: self.engine.update_weights(policy))
                self._answer_and_judge(samples)
            except UserError as error:
                raise Halt(str(error)) from error
            for name in self.rewards.names:
                given = [value for sample in samples if (value := sample.rewards.get(name)) is not None]
                figures[f"{kind}{name}"] = mean(given) if given else 0.0
        return figures

    def transcripts(self) -> list[str]:
        """Some of the newest samples, to be read: what was asked, said, and what it was worth."""
        return [sample.transcript for sample in self.last_rollout[: SHOWN * 4 : 4]]

    def close(self) -> None:
        """End what goes on beside the trainer; here nothing does."""

    def _sample(self, prompt: Prompt, place: int, group: int, sampling: Sampling) -> Sample:
        """An empty one; whether it thinks first depends on its place: all of a group do, or none."""
        thinking = prompt.open_thinking
        if thinking is None:
            thinking = _hash(self.seed, "thinking", place) < self.config.thinking_ratio * 2**56
        return Sample(prompt, prompt_ids(prompt, self.tokenizer, thinking), sampling, group, thinking)

    def _answer_and_judge(self, samples: Sequence[Sample]) -> float:
        """Fill samples with answers, messages and rewards; return the seconds that answering took."""
        began = time.monotonic()
        ranks.on_all_ranks(lambda: self.fill(samples))
        seconds = time.monotonic() - began
        self.judge(samples)
        return seconds


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


def rewards_differ(group: Sequence[Sample], by: str = "") -> bool:
    """Whether the answers of a group differ in the reward `by` (the first one), before weights."""
    values = set()
    for sample in group:
        if sample.reward is not None:
            values.add(sample.rewards[by] if by else next(iter(sample.rewards.values()), sample.reward))
    return len(values) > 1


def digest(prompts: Sequence[Prompt]) -> str:
    """What prompts are known by: equal for equal ones in the same order."""
    found = blake2b(digest_size=8)
    for prompt in prompts:
        found.update(repr((prompt.messages, prompt.tools, prompt.gt, prompt.open_thinking)).encode("utf-8", "replace"))
    return found.hexdigest()


def _hash(*what: Any) -> int:
    """56 bits that depend on what is given and on nothing else."""
    return int.from_bytes(blake2b(repr(what).encode(), digest_size=7).digest(), "little")
