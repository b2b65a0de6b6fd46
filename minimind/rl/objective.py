"""The policy loss of a packed batch: which algorithm, scored as it was sampled, and what is measured on the way."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from minimind import ranks
from minimind.engine.sampling import Sampling, kept
from minimind.losses import policy
from minimind.losses.log_probs import LogProbs, token_log_probs
from minimind.model.transformer import Hidden, Transformer
from minimind.recipe import RlConfig
from minimind.rl.batch import PolicyBatch
from minimind.rl.meter import Meter, Number, added


@dataclass(frozen=True)
class Algorithm:
    """The choices in which the policy-gradient methods differ."""

    loss: Literal["clip", "gspo", "cispo"]
    normalise: policy.Normalise
    sigma: bool = True
    """Divide a group's advantages by the spread of its rewards."""
    low: float = 0.2
    high: float = 0.2
    ratio_max: float = 5.0


ALGORITHMS = {
    "ppo_clip": Algorithm("clip", "token"),
    "grpo": Algorithm("clip", "sequence"),
    "dr_grpo": Algorithm("clip", "constant", sigma=False),
    "dapo": Algorithm("clip", "token", high=0.28),
    "gspo": Algorithm("gspo", "sequence", low=3e-4, high=4e-4),
    "cispo": Algorithm("cispo", "token"),
}


def chosen(rl: RlConfig, name: str = "") -> Algorithm:
    """The recipe's algorithm with the recipe's changes."""
    own = ALGORITHMS[name or rl.algorithm]
    return replace(
        own,
        normalise=own.normalise if rl.normalise == "auto" else rl.normalise,
        sigma=own.sigma if rl.divide_by_sigma == "auto" else rl.divide_by_sigma == "yes",
        low=rl.clip_low or own.low,
        high=rl.clip_high or own.high,
        ratio_max=rl.ratio_max or own.ratio_max,
    )


def sampling_of(rl: RlConfig, stop_ids: list[int]) -> Sampling:
    """The one `Sampling` by which answers are sampled and scored."""
    return Sampling(
        temperature=rl.temperature,
        top_k=rl.top_k,
        top_p=rl.top_p,
        min_p=rl.min_p,
        max_new_tokens=rl.max_new_tokens,
        stop_ids=tuple(stop_ids),
    )


def score(model: Transformer, batch: Any, sampling: Sampling) -> tuple[LogProbs, Hidden]:
    """Log-probabilities of a batch's chosen tokens under what `sampling` draws from, and the states."""
    hidden = model(batch.input_ids, batch.segments)
    filters = sampling.top_k or sampling.top_p < 1 or sampling.min_p
    keep = partial(kept, sampling=sampling) if filters else None
    weight, temperature = model.output_weight, sampling.temperature
    return token_log_probs(hidden.states, weight, batch.on_host.labels, temperature, keep=keep), hidden


class Moved:
    """How far the last step's policy was from the one that sampled, and how undecided: sums over its tokens."""

    def __init__(self) -> None:
        self.parts: list[tuple[Number, Number, Number]] = []
        """KL, entropy and tokens of each micro-batch."""

    @property
    def sums(self) -> list[float]:
        """Of KL, entropy and tokens."""
        return added([(0.0, 0.0, 0.0), *self.parts])

    def take(self) -> tuple[float, float] | None:
        """Mean KL and entropy over all ranks, which all call this, then begin anew; None: there was no step."""
        kl, entropy, tokens = ranks.summed(torch.tensor(self.sums, dtype=torch.float64)).tolist()
        self.parts = []
        return (kl / tokens, entropy / tokens) if tokens else None


class PolicyLoss:
    """What each token adds to the loss: `algorithm`'s term, importance correction, KL to the reference, entropy bonus.

    first_step_only: every rollout makes one step, so the policy that samples is the one that learns, and needs no
    second scoring.
    """

    def __init__(
        self, rl: RlConfig, algorithm: Algorithm, sampling: Sampling, meter: Meter, first_step_only: bool
    ) -> None:
        self.rl, self.algorithm, self.sampling, self.meter = rl, algorithm, sampling, meter
        self.first_step_only = first_step_only
        self.moved = Moved()

    def tokens(self, scored: LogProbs, batch: PolicyBatch) -> Tensor:
        """What each token adds to the loss, 0 outside the mask."""
        rl, log_probs, mask = self.rl, scored.log_probs, batch.mask
        old = log_probs.detach() if self.first_step_only else batch.old
        terms = self._policy(log_probs, old, batch)
        loss = terms.loss
        if rl.importance_limit:
            loss = loss * policy.truncated_importance(old, batch.engine, mask, rl.importance_limit)
        if rl.kl_coef and rl.kl_in == "loss":
            ratio = policy.ratios(log_probs, old, mask)
            loss = loss + rl.kl_coef * policy.kl_estimate(log_probs, batch.reference, mask, rl.kl, ratio)
        if rl.entropy_coef:
            loss = loss - rl.entropy_coef * scored.entropy.where(mask, 0)
        self._measure(scored, old, terms, batch)
        return loss

    def _policy(self, log_probs: Tensor, old: Tensor, batch: PolicyBatch) -> policy.Terms:
        chosen = self.algorithm
        args = (log_probs, old, batch.advantages, batch.mask)
        if chosen.loss == "gspo":
            return policy.gspo(*args, batch.sequences, chosen.low, chosen.high)
        if chosen.loss == "cispo":
            return policy.cispo(*args, chosen.ratio_max)
        return policy.ppo_clip(*args, chosen.low, chosen.high)

    @torch.no_grad()
    def _measure(self, scored: LogProbs, old: Tensor, terms: policy.Terms, batch: PolicyBatch) -> None:
        mask, log_probs = batch.mask, scored.log_probs
        tokens = int(batch.on_host.mask.sum())
        if not tokens:
            return
        moved = policy.kl_estimate(old, log_probs, mask, "k3")  # of the old policy from the new: it sampled
        mismatch = policy.kl_estimate(batch.engine, old, mask, "k3")
        self.meter.over(mask, kl=moved, entropy=scored.entropy, clipped=terms.clipped.float(), mismatch_kl=mismatch)
        self.meter.most("ratio_max", policy.ratios(log_probs, old, mask).max())
        self.meter.most("mismatch_ratio_max", policy.ratios(old, batch.engine, mask).max())
        if self.rl.kl_coef:
            self.meter.over(mask, reference_kl=policy.kl_estimate(log_probs, batch.reference, mask, "k3"))
        self.moved.parts.append((moved.sum(), scored.entropy.where(mask, 0).sum(), tokens))
