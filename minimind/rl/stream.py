"""The batches of reinforcement learning: when they run out, the policy is asked anew.

To the training loop this is a stream like any other. `next_batch` hands out what is left of the last rollout; when
nothing is, it brings the newest weights to the engine, has prompts answered and judged, and makes the samples into
batches. All that decides what comes next is in `state_dict`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from minimind import ranks, runtime
from minimind.errors import UserError
from minimind.model.qwen3 import Transformer
from minimind.rl import batch as batches
from minimind.rl import dump
from minimind.rl.batch import Packed, PolicyBatch
from minimind.rl.collector import Collector
from minimind.rl.metrics import PolicyDrift
from minimind.rl.rollout import Sample
from minimind.train.job import Halt, split

MakeBatches = Callable[[Sequence[Sample], int], list[Packed]]
"""Makes the judged samples of rollout number N into the batches of its optimizer steps: as many, with as many rows, on
all ranks."""


class RolloutStream:
    """Endless batches of judged samples.

    Args:
        collector: brings the samples.
        policy: the model whose weights the engine gets before each rollout.
        make_batches: what a stage makes of the samples.
        drift: of the policy since it sampled, recorded by the stage's loss.
        target_kl: drop what is left of a rollout once the policy has drifted further; 0: never.
        before_step: is told the number of the rollout before each of its steps.
    """

    def __init__(
        self,
        collector: Collector,
        policy: Transformer,
        make_batches: MakeBatches,
        drift: PolicyDrift,
        target_kl: float = 0.0,
        before_step: Callable[[int], None] = lambda rollout: None,
    ) -> None:
        self.collector, self.policy, self.make_batches, self.drift = collector, policy, make_batches, drift
        self.target_kl, self.before_step = target_kl, before_step
        self.number = 0
        """Of the next rollout; the queue is of the one before."""
        self.queue: list[PolicyBatch] = []

    def next_batch(self, rows: int, rank: int = 0, world: int = 1) -> PolicyBatch:
        """The next optimizer step's batch; how many rows it has depends on what was said.

        Raises:
            Halt: the policy has collapsed, there is nothing left to learn, or the rollout server is gone.
        """
        self._check_drift()
        if not self.queue:
            self._roll_out(rank, world)
        self.before_step(self.number - 1)
        return self.queue.pop(0)

    def rehearsal_batch(self, rows: int, rank: int = 0, world: int = 1) -> PolicyBatch:
        """A batch of made-up answers: nobody is asked for it, and nobody judges it."""
        samples, collector = [], self.collector
        for place in range(collector.config.groups // world):
            for sample in collector.group(place, place % len(collector.prompts))[0]:
                sample.append([sample.prompt_ids[-1]] * 2, [0.0] * 2)
                sample.rewards, sample.reward = dict.fromkeys(collector.rewards.names, 0.0), 0.0
                samples.append(sample)
        return self.make_batches(samples, self.number)[0].batch

    def state_dict(self) -> dict[str, Any]:
        """The place in the prompts, and what is left of the last rollout, of all ranks."""
        parts = ranks.all_gather(self.queue)
        queue = [batches.joined(same) for same in zip(*parts, strict=True)]
        return {
            "place": self.collector.prompt_stream.position,
            "number": self.number,
            "version": self.collector.weights.version,
            "queue": [batches.encode(batch) for batch in queue],
            "moved": ranks.all_reduce(torch.tensor(self.drift.sums, dtype=torch.float64)).tolist(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; each rank takes its share of the rows."""
        self.collector.prompt_stream.position, self.number = state["place"], state["number"]
        self.collector.weights.version = state["version"]
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
            ranks.on_all_ranks(lambda: self.collector.weights.update_weights(self.policy))
            packs = self.make_batches(self.collector.collect(rank, world), self.number)
            if folder := self.collector.config.dump:
                dump.write(Path(folder), self.number, self.collector.last_rollout, packs)
            self.queue = [packed.batch for packed in packs]
        except UserError as error:
            prompts.position, self.queue = position, []
            raise Halt(str(error)) from error
        self.number += 1

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
