"""From judged samples to the batches of a rollout's optimizer steps: what was each token better than?"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from minimind import ranks, runtime
from minimind.engine.sampling import Sampling
from minimind.losses import policy
from minimind.model import heads, lora
from minimind.model.transformer import Transformer
from minimind.recipe import Recipe
from minimind.rl.batch import Packed, PolicyBatch, pack, pad_rows
from minimind.rl.objective import Algorithm, score
from minimind.rl.rollout import Sample
from minimind.train.loop import moved, rows_of_a_step, split
from minimind.train.precision import Precision


class Scorer:
    """Runs models over packed batches, in the same pieces and number format as training does.

    So the old log-probability of a token is, to the bit, the one that the first training step computes: r = 1.
    """

    def __init__(self, recipe: Recipe, device: torch.device, sampling: Sampling) -> None:
        self.precision = Precision(device, recipe.train.dtype)
        self.rows = rows_of_a_step(recipe)[1]
        self.sampling = sampling

    def log_probs(self, model: Transformer, batch: PolicyBatch) -> Tensor:
        """Of every chosen token, `[rows, time]`, under the distribution that is sampled from."""
        return self.run(model, batch, lambda piece: score(model, piece, self.sampling)[0].log_probs)

    def run(self, model: torch.nn.Module, batch: PolicyBatch, function: Callable[[PolicyBatch], Tensor]) -> Tensor:
        """Map micro-batches to columns `[rows, time]`.

        Not under `no_grad`: there attention runs another kernel, with other last bits. The graph is dropped unused.
        """
        device = self.precision.device
        columns = []
        with evaluating(model), self.precision.autocast():
            for piece in split(batch, self.rows):
                columns.append(function(moved(piece, device)).detach().float())
        return torch.cat(columns).cpu()


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Without dropout."""
    training = model.training
    model.eval()
    yield
    model.train(training)


class Reference:
    """The model that the run started from: the base under an adapter, or a frozen copy."""

    def __init__(self, model: Transformer, frozen: Transformer | None) -> None:
        self._model, self._frozen = model, frozen

    def log_probs(self, scorer: Scorer, batch: PolicyBatch) -> Tensor:
        """Of every chosen token."""
        if self._frozen is not None:
            return scorer.log_probs(self._frozen, batch)
        with lora.off(self._model):
            return scorer.log_probs(self._model, batch)


class Learner:
    """What the ways to an advantage share: minibatches, packed, with the old and the reference's log-probabilities."""

    def __init__(
        self, recipe: Recipe, model: Transformer, scorer: Scorer, algorithm: Algorithm, reference: Reference | None
    ) -> None:
        self.recipe, self.model, self.scorer = recipe, model, scorer
        self.algorithm, self.reference = algorithm, reference

    def packed(self, samples: Sequence[Sample], number: int) -> list[tuple[list[Sample], Packed]]:
        """The samples of a rollout in a new order, cut into minibatches of nearly equal size.

        It is the samples of all ranks that are shuffled and cut, of which this rank packs its own: so a minibatch holds
        the same samples however many ranks there are.
        """
        rl, counts = self.recipe.rl, ranks.gathered(len(samples))
        before = sum(counts[: runtime.rank()])
        order = np.random.default_rng([self.recipe.train.seed, number]).permutation(sum(counts))
        parts = [
            [samples[i - before] for i in part if 0 <= i - before < len(samples)]
            for part in np.array_split(order, rl.minibatches)
        ]
        return [(part, self._pack(part)) for part in parts]

    def _pack(self, samples: list[Sample]) -> Packed:
        rl = self.recipe.rl
        length, normalise = self.recipe.data.sequence_length, self.algorithm.normalise
        packed = pack(samples, length, normalise, rl.max_new_tokens, rl.share_prompts)
        # All ranks need as many passes as the one with most to read.
        batch = pad_rows(packed.batch, max(ranks.gathered(len(packed.batch.labels))))
        if rl.epochs * rl.minibatches > 1 or self.reference is not None:
            batch = batch._replace(old=self.scorer.log_probs(self.model, batch))
        if self.reference is not None:
            batch = batch._replace(reference=self.reference.log_probs(self.scorer, batch))
        return packed._replace(batch=batch)

    def charges(self, packed: Packed, samples: Sequence[Sample]) -> list[Tensor]:
        """What the distance from the reference costs each token of each sample, where it is charged in the reward."""
        rl, batch = self.recipe.rl, packed.batch
        if self.reference is None or rl.kl_in == "loss":
            return [torch.zeros(len(sample.ids)) for sample in samples]
        kl = policy.kl_estimate(batch.old, batch.reference, batch.mask, rl.kl)
        return packed.gather(rl.kl_coef * kl, samples)


class GroupLearner(Learner):
    """Advantages by comparison within a group: GRPO and its relatives, which need no critic."""

    def __call__(self, samples: Sequence[Sample], number: int) -> list[PolicyBatch]:
        """Batches of rollout `number`, those of the first pass over it, then of the next."""
        parts = self.packed(samples, number)
        rewards: dict[int, float] = {}
        for part, packed in parts:
            for sample, charge in zip(part, self.charges(packed, part), strict=True):
                rewards[id(sample)] = float(sample.reward or 0) - float(charge.sum())
        advantages = compared(samples, rewards, self.algorithm.sigma)
        batches = [
            packed.batch._replace(advantages=packed.scatter([advantages[id(sample)] for sample in part], part))
            for part, packed in parts
        ]
        return batches * self.recipe.rl.epochs


def compared(samples: Sequence[Sample], rewards: dict[int, float], divide: bool) -> dict[int, float]:
    """Advantage of each sample among those of its group, by `id`."""
    groups: dict[int, list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.group].append(sample)
    found: dict[int, float] = {}
    for group in groups.values():
        given = torch.tensor([[rewards[id(sample)] for sample in group]], dtype=torch.float64)
        values = policy.group_advantages(given, divide)[0].tolist()
        found |= {id(sample): value for sample, value in zip(group, values, strict=True)}
    return found


class CriticLearner(Learner):
    """Advantages by what a critic expected at each token: PPO's, by generalised advantage estimation."""

    def __init__(self, recipe: Recipe, model: Transformer, critic: heads.Scorer, scorer: Scorer, **rest: Any) -> None:
        super().__init__(recipe, model, scorer, **rest)
        self.critic = critic

    def __call__(self, samples: Sequence[Sample], number: int) -> list[PolicyBatch]:
        """Batches of rollout `number`, those of the first pass over it, then of the next."""
        ppo, parts = self.recipe.ppo, self.packed(samples, number)
        ordered = [sample for part, _ in parts for sample in part]
        values = [self.scorer.run(self.critic, packed.batch, self._values) for _, packed in parts]
        of_sample = [
            v for (part, packed), column in zip(parts, values, strict=True) for v in packed.gather(column, part)
        ]
        charges = [charge for part, packed in parts for charge in self.charges(packed, part)]
        advantages, returns = self._estimated(ordered, of_sample, charges)
        mask = [torch.tensor(sample.trainable, dtype=torch.bool) for sample in ordered]
        if ppo.whiten:
            flat = policy.whiten(_joined(advantages), _joined(mask).bool(), summed=ranks.summed)
            advantages = list(flat.split([len(sample.ids) for sample in ordered]))
        batches, first = [], 0
        for (part, packed), column in zip(parts, values, strict=True):
            mine = slice(first, first + len(part))
            first += len(part)
            columns = {
                "advantages": packed.scatter(advantages[mine], part),
                "returns": packed.scatter(returns[mine], part),
            }
            batches.append(packed.batch._replace(values=column.where(packed.batch.mask, 0), **columns))
        return batches * self.recipe.rl.epochs

    def _values(self, piece: PolicyBatch) -> Tensor:
        return self.critic.scores(self.critic(piece.input_ids, piece.segments).states)

    def _estimated(
        self, samples: Sequence[Sample], values: Sequence[Tensor], charges: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """GAE of every sample; the reward comes with the last token that the policy chose."""
        ppo = self.recipe.ppo
        rewards = torch.tensor([float(sample.reward or 0) for sample in samples])
        if ppo.whiten_rewards:
            rewards = policy.whiten(rewards, torch.ones(len(samples), dtype=torch.bool), False, ranks.summed)
        if not samples:
            return [], []
        mask_BT = pad_sequence([torch.tensor(sample.trainable) for sample in samples], batch_first=True)
        values_BT, charges_BT = (pad_sequence(list(x), batch_first=True) for x in (values, charges))
        rewards_BT = -charges_BT
        last_B = mask_BT.shape[1] - 1 - mask_BT.flip(1).int().argmax(1)
        rewards_BT[torch.arange(len(samples)), last_B] += rewards
        found = policy.gae(rewards_BT, values_BT, mask_BT, ppo.gamma, ppo.lam)
        lengths = [len(sample.ids) for sample in samples]
        advantages, returns = ([row[:n] for row, n in zip(x, lengths, strict=True)] for x in found)
        return advantages, returns


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([*parts, torch.zeros(0)])
