"""Learning again from rollouts on the disk, without an engine: from the same start, the same weights to the bit.

Which prompt is asked at which place of a run follows from its seed and its data, and so does what is learned from the
answers; an engine brings nothing but these, and a judge nothing but what each was worth. Both are read here from what
`rl.dump` kept. Weights of rewards, algorithm, rate and epochs may be others than they were: then the question is what
the same answers would have taught.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

from minimind.errors import UserError
from minimind.model.qwen3 import Transformer
from minimind.rl import dump
from minimind.rl.judge import add_up
from minimind.rl.rollout import Sample


class Replay:
    """Answers and rewards as `folder` has them, in place of an engine (`update_weights`, `fill`) and a judge (called).

    Args:
        folder: what `rl.dump` was.
        weights: of the rewards.

    Raises:
        UserError: no rollout lies there.
    """

    def __init__(self, folder: Path, weights: Mapping[str, float]) -> None:
        self.folder, self.weights, self.names, self.version = folder, weights, list(weights), 0
        self._left = dump.numbers(folder)
        self._groups: dict[int, list[Sample]] = {}
        """Of the rollout that is learned from."""
        if not self._left:
            raise UserError(f"{folder}: no rollout lies here; name the folder that rl.dump was")

    def update_weights(self, model: Transformer) -> None:
        """What was said was said: only counted."""
        self.version += 1

    def fill(self, samples: Sequence[Sample]) -> None:
        """Let samples be what they were, group by group.

        Raises:
            UserError: the run asks something else than the one that was kept, or more.
        """
        for group, asked in groupby(samples, lambda sample: sample.group):
            empty, kept = list(asked), self._group(group)
            if len(empty) != len(kept) or any(
                (one.prompt.messages, one.thinking) != (other.prompt.messages, other.thinking)
                for one, other in zip(empty, kept, strict=True)
            ):
                raise UserError(
                    f"{self.folder}: the answers kept for place {group} of the run are to another prompt, or not "
                    f"{len(empty)}; replay needs the data, seed, rl.groups and rl.samples of the run that was kept"
                )
            for one, other in zip(empty, kept, strict=True):
                vars(one).update(vars(other), prompt=one.prompt, sampling=one.sampling)

    def __call__(self, samples: Sequence[Sample]) -> None:
        """Add up the rewards that samples were given then; others that they were given are as if they had not been.

        Raises:
            UserError: one of them was not given.
        """
        whole = [sample for sample in samples if sample.rewards]
        for name in self.names:
            if any(name not in sample.rewards for sample in whole):
                raise UserError(f"{self.folder}: no answer was judged by {name!r}; scoring.weights may name what was")
        for sample in whole:
            sample.rewards = {name: sample.rewards[name] for name in self.names}
        add_up(whole, self.weights)

    def _group(self, number: int) -> list[Sample]:
        while number not in self._groups and self._left:
            samples = dump.read(self.folder, self._left.pop(0), dump.sample)
            self._groups = {group: list(same) for group, same in groupby(samples, lambda sample: sample.group)}
        if number not in self._groups:
            raise UserError(
                f"{self.folder}: the answers for place {number} of the run were not kept: it was longer here, or more "
                f"than rl.dump holds: lower --max-steps; or it ran with rl.staleness, which nothing can repeat"
            )
        return self._groups[number]
