"""What reinforcement learning logs: means, maxima, rates and histograms over all ranks, and the policy's drift.

reward, reward_NAME                  mean and histogram over answers, of the sum and of each reward before weights
answer_tokens, truncated, unjudged   length; share cut off; share without a reward
zero_std_groups                      share of groups whose rewards do not differ
kl, entropy                          KL(old ‖ new) since the rollout, in nats a token; of the policy
clipped, ratio_max                   share of tokens whose gradient the clip stopped; largest r
mismatch_kl, mismatch_ratio_max      engine against trainer at the time of the rollout
reference_kl                         KL from the model that the run started from, where there is one
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from minimind import ranks
from minimind.losses import policy
from minimind.losses.log_probs import LogProbs
from minimind.rl.batch import PolicyBatch
from minimind.rl.rollout import Sample

BINS = 10
Number = Tensor | float
"""A tensor of one number stays where it is until the figures are taken, so that nobody waits for its device before."""


class Meter:
    """Collects; `take` returns what was collected and begins anew."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._sums: dict[str, list[tuple[Number, Number]]] = defaultdict(list)
        self._largest: dict[str, list[Number]] = defaultdict(list)
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, name: str, total: Number, count: Number) -> None:
        """Add to a mean: a sum over `count` things. With seconds for `count` it is a rate."""
        self._sums[name].append((total, count))

    def masked(self, mask: Tensor, **columns: Tensor) -> None:
        """Add each column's values where the mask is True."""
        count = mask.sum()
        for name, column in columns.items():
            self.add(name, column.detach().where(mask, 0).sum(), count)

    def maximum(self, name: str, value: Number) -> None:
        """The largest of what it is told."""
        self._largest[name].append(value)

    def histogram(self, name: str, values: Iterable[float]) -> None:
        """Add values of which the mean and a histogram are shown."""
        self._values[name] += values

    def take(self) -> dict[str, Any]:
        """The figures of all ranks, which all call this; then forget them."""
        sums = {name: added(parts) for name, parts in self._sums.items()}
        largest = {name: max(map(float, values)) for name, values in self._largest.items()}
        everything = ranks.all_gather((sums, largest, dict(self._values)))
        self.clear()
        figures: dict[str, Any] = {}
        for name in _names(part[0] for part in everything):
            total, count = (sum(part[0].get(name, (0, 0))[i] for part in everything) for i in (0, 1))
            figures[name] = total / count if count else 0.0
        for name in _names(part[1] for part in everything):
            figures[name] = max(part[1][name] for part in everything if name in part[1])
        for name in _names(part[2] for part in everything):
            values = torch.tensor([value for part in everything for value in part[2].get(name, [])])
            if len(values):
                figures[name] = float(values.double().mean())
                low, high = float(values.min()), float(values.max())
                counts = torch.histc(values, BINS, low, high) if high > low else torch.tensor([len(values)])
                figures[f"{name}_histogram"] = {"low": low, "high": high, "counts": counts.int().tolist()}
        return figures


def added(parts: Iterable[Sequence[Number]]) -> list[float]:
    """Sums of the first numbers, of the second ones, and so on."""
    return [sum(map(float, numbers)) for numbers in zip(*parts, strict=True)]


def _names(parts: Iterable[dict[str, Any]]) -> list[str]:
    return sorted({name for part in parts for name in part})


class PolicyDrift:
    """How far the last step's policy was from the one that sampled, and how undecided: sums over its tokens."""

    def __init__(self) -> None:
        self.parts: list[tuple[Number, Number, Number]] = []
        """KL divergence, entropy and tokens of each micro-batch."""

    @property
    def sums(self) -> list[float]:
        """Of KL divergence, entropy and tokens."""
        return added([(0.0, 0.0, 0.0), *self.parts])

    def take(self) -> tuple[float, float] | None:
        """Mean KL divergence and entropy over all ranks, which all call this, then begin anew; None: no step yet."""
        kl, entropy, tokens = ranks.all_reduce(torch.tensor(self.sums, dtype=torch.float64)).tolist()
        self.parts = []
        return (kl / tokens, entropy / tokens) if tokens else None


def measure_samples(meter: Meter, samples: Sequence[Sample]) -> None:
    """Record what there is to know of answers that were judged."""
    meter.histogram("answer_tokens", [float(sum(sample.trainable)) for sample in samples])
    meter.add("truncated", sum(sample.status == "truncated" for sample in samples), len(samples))
    meter.add("unjudged", sum(sample.reward is None for sample in samples), len(samples))
    meter.histogram("reward", [sample.reward for sample in samples if sample.reward is not None])
    for name in {name: None for sample in samples for name in sample.rewards}:
        given = [value for sample in samples if (value := sample.rewards.get(name)) is not None]
        meter.histogram(f"reward_{name}", given)
    calls = [call for sample in samples for call in sample.info.get("calls", [])]
    if calls:
        meter.add("tool_errors", sum(not call.ok for call in calls), len(calls))


@torch.no_grad()
def measure_policy(
    meter: Meter, drift: PolicyDrift, batch: PolicyBatch, scored: LogProbs, old: Tensor, clipped: Tensor
) -> None:
    """Record what there is to know of a micro-batch's loss; nothing of it is learned from.

    Args:
        scored: log-probabilities and entropies now.
        old: log-probabilities when the batch was made.
        clipped: True where the clip stopped the gradient.
    """
    mask, log_probs = batch.mask, scored.log_probs
    tokens = int(batch.on_host.mask.sum())
    if not tokens:
        return
    kl = policy.kl_estimate(old, log_probs, mask, "k3")  # KL(old ‖ new): the old policy sampled
    mismatch = policy.kl_estimate(batch.rollout_log_probs, old, mask, "k3")
    meter.masked(mask, kl=kl, entropy=scored.entropy, clipped=clipped.float(), mismatch_kl=mismatch)
    meter.maximum("ratio_max", policy.ratios(log_probs, old, mask).max())
    meter.maximum("mismatch_ratio_max", policy.ratios(old, batch.rollout_log_probs, mask).max())
    if bool(batch.on_host.reference_log_probs.any()):
        meter.masked(mask, reference_kl=policy.kl_estimate(log_probs, batch.reference_log_probs, mask, "k3"))
    drift.parts.append((kl.sum(), scored.entropy.where(mask, 0).sum(), tokens))
