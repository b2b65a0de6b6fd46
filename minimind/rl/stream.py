"""The batches of reinforcement learning: when they run out, the policy is asked anew.

To the training loop this is a stream like any other. `next_batch` hands out what is left of the last rollout; when
nothing is, it brings the newest weights to the engine, has prompts answered and judged, leaves out what teaches
nothing, and makes the rest into batches. All that decides what comes next is in `state_dict`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import torch

from minimind import ranks, runtime
from minimind.console import warn
from minimind.data.prompts import Prompt, PromptStream
from minimind.engine.sampling import Sampling
from minimind.errors import UserError
from minimind.model.transformer import Transformer
from minimind.recipe import Recipe
from minimind.rl import batch as batches
from minimind.rl.batch import PolicyBatch
from minimind.rl.meter import Meter
from minimind.rl.objective import Moved
from minimind.rl.rollout import Rollout, Sample
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render
from minimind.tokenizer.parse import parse
from minimind.train.loop import Halt, split

Play = Callable[[Sequence[Sample], Sequence[Sampling]], None]
"""Fills samples with what the policy (and in trajectories its tools) said, each by rules of its own seed."""
Judge = Callable[[Sequence[Sample]], None]
"""Fills in `rewards` and `reward`."""
Prepare = Callable[[Sequence[Sample], int], list[PolicyBatch]]
"""Makes the judged samples of rollout number N into the batches of its optimizer steps: as many, with as many rows, on
all ranks."""


def nothing(rollout: int) -> None:
    """For stages that have nothing to do before a step."""


def answer(rollout: Rollout, samples: Sequence[Sample], samplings: Sequence[Sampling]) -> None:
    """Let the policy answer each sample's prompt once."""
    for number, (sample, sampling) in enumerate(zip(samples, samplings, strict=True)):
        rollout.submit(number, sample.prompt_ids, sampling)
    for number, completion in rollout.finished():
        samples[number].add(completion)


class RolloutStream:
    """Endless batches of judged samples; see the functions' types above for what a stage brings."""

    def __init__(
        self,
        recipe: Recipe,
        model: Transformer,
        tokenizer: Tokenizer,
        prompts: Sequence[Prompt],
        rollout: Rollout,
        sampling: Sampling,
        play: Play,
        judge: Judge,
        prepare: Prepare,
        moved: Moved,
        meter: Meter,
        target_kl: float = 0.0,
        begin_step: Callable[[int], None] = nothing,
    ) -> None:
        self.recipe, self.model, self.tokenizer, self.rollout = recipe, model, tokenizer, rollout
        self.play, self.judge, self.prepare, self.moved, self.meter = play, judge, prepare, moved, meter
        self.target_kl, self.begin_step = target_kl, begin_step
        self.sampling = sampling
        self.prompts = fitting(prompts, tokenizer, recipe)
        self.places = PromptStream(len(self.prompts), recipe.train.seed)
        self.number = 0
        """Of the next rollout; the queue is of the one before."""
        self.queue: list[PolicyBatch] = []
        self.newest: list[Sample] = []
        """This rank's part of the last rollout, to be looked at."""

    def next_batch(self, rows: int, rank: int = 0, world: int = 1) -> PolicyBatch:
        """The next optimizer step's batch; how many rows it has depends on what was said.

        Raises:
            Halt: the policy has collapsed, there is nothing left to learn, or the rollout server is gone.
        """
        self._watch()
        if not self.queue:
            self._fill(rank, world)
        self.begin_step(self.number - 1)
        return self.queue.pop(0)

    def rehearsal_batch(self, rows: int, rank: int = 0, world: int = 1) -> PolicyBatch:
        """A batch of made-up answers: nobody is asked for it, and nobody judges it."""
        samples = []
        for group in range(self.recipe.rl.groups // world):
            for sample in self.samples_of(group, group % len(self.prompts))[0]:
                sample.append([sample.prompt_ids[-1]] * 2, [0.0] * 2)
                sample.rewards, sample.reward = dict.fromkeys(self.recipe.scoring.weights, 0.0), 0.0
                samples.append(sample)
        return self.prepare(samples, self.number)[0]

    def state_dict(self) -> dict[str, Any]:
        """The place in the prompts, and what is left of the last rollout, of all ranks."""
        parts = ranks.gathered(self.queue)
        queue = [batches.joined(same) for same in zip(*parts, strict=True)]
        return {
            "place": self.places.position,
            "number": self.number,
            "version": self.rollout.version,
            "queue": [batches.encode(batch) for batch in queue],
            "moved": self.moved.sums,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; each rank takes its share of the rows."""
        self.places.position, self.number = state["place"], state["number"]
        self.rollout.version, self.moved.parts = state["version"], [tuple(state["moved"])]
        rank, world = runtime.rank(), runtime.world_size()
        self.queue = []
        for columns in state["queue"]:
            batch = batches.decode(columns)
            batch = batches.pad_rows(batch, -(-len(batch.labels) // world) * world)
            share = len(batch.labels) // world
            self.queue.append(list(split(batch, share))[rank])
        self.meter.clear()

    def samples_of(self, place: int, index: int) -> tuple[list[Sample], list[Sampling]]:
        """The empty samples of a group, and by which rules each is filled."""
        rl, prompt = self.recipe.rl, self.prompts[index]
        thinking = begins_with_thinking(prompt, self.recipe, place)
        ids = prompt_ids(prompt, self.tokenizer, thinking)
        samples = [Sample(prompt, ids, group=place, thinking=thinking) for _ in range(rl.samples)]
        seeds = [_hash(self.recipe.train.seed, place, nth) for nth in range(rl.samples)]
        return samples, [replace(self.sampling, seed=seed) for seed in seeds]

    def _fill(self, rank: int, world: int) -> None:
        place = self.places.position
        try:
            together(lambda: self.rollout.update_weights(self.model))
            samples = self._gather(rank, world)
            self.queue = self.prepare(samples, self.number)
        except UserError as error:
            self.places.position, self.queue = place, []
            raise Halt(str(error)) from error
        self.number += 1

    def _gather(self, rank: int, world: int) -> list[Sample]:
        """Samples of groups that teach something: as many groups as asked for, or what one rollout gave of them."""
        rl = self.recipe.rl
        share = rl.groups // world
        useful: list[list[Sample]] = []
        judged = False
        for _ in range(rl.attempts):
            groups = self._play(rank, share, world)
            judged |= any(sample.reward is not None for group in groups for sample in group)
            good = [group for group in groups if teaches(group, rl.spread_by)]
            self.meter.add("zero_spread", len(groups) - len(good), len(groups))
            useful += groups if rl.spread == "keep" else good
            enough = len(useful) >= (share if rl.spread == "resample" else 1)
            done = not ranks.anywhere(not enough) if rl.spread == "resample" else ranks.anywhere(enough)
            if done:
                break
        if not ranks.anywhere(judged):
            raise UserError(
                f"no answer of this rollout could be judged: of the rewards {', '.join(self.recipe.scoring.weights)} "
                f"one gave no value for any of them (the warnings above may say why), or every answer failed"
            )
        if not ranks.anywhere(bool(useful)):
            raise UserError(
                f"in {rl.attempts} rollouts, {rl.attempts * rl.groups} prompts, every group of answers had equal "
                f"rewards: there is nothing to learn; use easier or harder prompts, more rl.samples or another reward"
            )
        return [sample for group in useful[:share] for sample in group if sample.reward is not None]

    def _play(self, rank: int, share: int, world: int) -> list[list[Sample]]:
        """One rollout: this rank's groups of judged samples."""
        first = self.places.position + rank * share
        indices = self.places.take(share * world)[rank * share : (rank + 1) * share]
        groups, rules = [], []
        for nth, index in enumerate(indices):
            samples, samplings = self.samples_of(first + nth, index)
            groups.append(samples)
            rules += samplings
        flat = [sample for group in groups for sample in group]
        self.newest = flat
        began = time.monotonic()
        together(lambda: self.play(flat, rules))
        seconds = time.monotonic() - began
        self.meter.add("rollout_tokens_per_second", sum(len(sample.ids) for sample in flat), seconds)
        for sample in flat:
            said = sample.ids if all(sample.trainable) else _last_said(sample)
            sample.message = parse(said, self.tokenizer, sample.thinking)
        self.judge(flat)
        self._measure(flat)
        return groups

    def _measure(self, samples: Sequence[Sample]) -> None:
        lengths = [float(sum(sample.trainable)) for sample in samples]
        self.meter.spread("answer_tokens", lengths)
        self.meter.add("truncated", sum(sample.status == "truncated" for sample in samples), len(samples))
        self.meter.add("unjudged", sum(sample.reward is None for sample in samples), len(samples))
        self.meter.spread("reward", [sample.reward for sample in samples if sample.reward is not None])
        for name in {name: None for sample in samples for name in sample.rewards}:
            given = [value for sample in samples if (value := sample.rewards.get(name)) is not None]
            self.meter.spread(f"reward_{name}", given)
        calls = [call for sample in samples for call in sample.info.get("calls", [])]
        if calls:
            self.meter.add("tool_errors", sum(not call.ok for call in calls), len(calls))
        total, count = ranks.summed(torch.tensor([sum(lengths), len(lengths)])).tolist()
        limit = self.recipe.rl.stop_length
        if limit and total / count > limit:
            raise UserError(
                f"the mean answer has {total / count:.0f} tokens, more than rl.stop_length = {limit:g}; look at the "
                f"samples, lower optim.lr or add the reward `overlong`"
            )

    def _watch(self) -> None:
        """Look at how far the last step went: stop a policy that collapses, leave a rollout that it has left behind."""
        rl, moved = self.recipe.rl, self.moved.take()
        if moved is None:
            return
        kl, entropy = moved
        if rl.stop_kl and kl > rl.stop_kl:
            raise Halt(
                f"the policy has moved by a KL divergence of {kl:.3g} from the one that sampled, more than "
                f"rl.stop_kl = {rl.stop_kl:g}; lower optim.lr or rl.epochs"
            )
        if rl.stop_entropy and entropy < rl.stop_entropy:
            raise Halt(
                f"the policy's entropy is {entropy:.3g}, less than rl.stop_entropy = {rl.stop_entropy:g}: its answers "
                f"are all alike; lower optim.lr or raise rl.entropy_coef"
            )
        if self.target_kl and kl > self.target_kl and self.queue:
            self.meter.add("left_early", 1, 1)
            self.queue = []


def together(act: Callable[[], None]) -> None:
    """Do something on every rank; where it fails on one, it fails on all of them, or the others would wait for it.

    Raises:
        UserError: the reason.
    """
    reason = None
    try:
        act()
    except UserError as error:
        reason = str(error)
    for said in ranks.gathered(reason):
        if said is not None:
            raise UserError(said)


def fitting(prompts: Sequence[Prompt], tokenizer: Tokenizer, recipe: Recipe) -> list[Prompt]:
    """The prompts that leave room for an answer in a row.

    Raises:
        UserError: none does.
    """
    room = recipe.data.sequence_length - recipe.rl.max_new_tokens
    kept = [prompt for prompt in prompts if len(prompt_ids(prompt, tokenizer, False)) <= room]
    if not kept:
        raise UserError(
            f"no prompt leaves room for an answer of rl.max_new_tokens = {recipe.rl.max_new_tokens} in a row of "
            f"data.sequence_length = {recipe.data.sequence_length}; raise the one or lower the other"
        )
    if len(kept) < len(prompts):
        warn(f"{len(prompts) - len(kept):,} of {len(prompts):,} prompts are too long for a row and left out")
    return kept


def begins_with_thinking(prompt: Prompt, recipe: Recipe, place: int) -> bool:
    """Whether the answers to the prompt at this place of the run think first: all of a group do, or none."""
    if prompt.open_thinking is not None:
        return prompt.open_thinking
    return _hash(recipe.train.seed, "thinking", place) < recipe.rl.thinking_ratio * 2**56


def prompt_ids(prompt: Prompt, tokenizer: Tokenizer, thinking: bool) -> list[int]:
    """What the policy reads before it speaks."""
    return render(prompt.messages, tokenizer, prompt.tools or None, thinking, add_generation_prompt=True)[0]


def teaches(group: Sequence[Sample], by: str = "") -> bool:
    """Whether the answers of a group differ in the raw reward `by` (the first one), before weights and shaping."""
    values = set()
    for sample in group:
        if sample.reward is not None:
            values.add(sample.rewards[by] if by else next(iter(sample.rewards.values()), sample.reward))
    return len(values) > 1


def _last_said(sample: Sample) -> list[int]:
    """The ids of the last turn that the policy spoke."""
    end = len(sample.ids)
    while end and not sample.trainable[end - 1]:
        end -= 1
    start = end
    while start and sample.trainable[start - 1]:
        start -= 1
    return sample.ids[start:end]


def _hash(*what: Any) -> int:
    """56 bits that depend on what is given and on nothing else."""
    return int.from_bytes(blake2b(repr(what).encode(), digest_size=7).digest(), "little")
