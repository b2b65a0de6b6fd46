"""Policy-gradient losses as pure functions: what each sampled token adds to the loss.

All of them are one idea. With the advantage A (was the answer better than expected?) and the ratio r = π / π_old of a
token's probability now and before the rollout's first step, the policy gradient is E[r · A · ∇log π]. The methods
differ in how far they let r go, in whose r it is, and in what an answer's tokens weigh together (`token_weights`):

    PPO, GRPO    -min(r · A, clip(r, 1-ε, 1+ε) · A)                  Schulman et al. 2017, arXiv 1707.06347
    DAPO         the same, clip(r, 1-ε_low, 1+ε_high)                Yu et al. 2025, arXiv 2503.14476
    GSPO         the same, r the geometric mean over the answer      Zheng et al. 2025, arXiv 2507.18071
    CISPO        -sg[min(r, ratio_max)] · A · log π                  MiniMax 2025, arXiv 2506.13585

Tensors are `[..., T]`, one value for each token; `mask` is True on the tokens that the policy chose itself (not on the
prompt, not on what a tool said). What is outside the mask may be anything, NaN too: it is selected away, not multiplied
by 0. `sequences` gives each token the number of its answer, so that answers may be packed into rows.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Normalise = Literal["sequence", "token", "constant"]
KL = Literal["k1", "k2", "k3", "k3_weighted"]


@dataclass(frozen=True)
class Algorithm:
    """The choices in which the methods differ, and what may be added to any of them."""

    loss: Literal["clip", "gspo", "cispo"]
    normalise: Normalise
    divide_by_sigma: bool = True
    """Divide a group's advantages by the standard deviation of its rewards."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    ratio_max: float = 5.0
    importance_limit: float = 0.0
    """Largest weight of `truncated_importance` or `masked_importance`; 0: no correction."""
    importance: Literal["truncate", "mask"] = "truncate"
    """Which of the two."""
    kl: KL = "k3_weighted"
    kl_coef: float = 0.0
    """Weight of the KL divergence from the reference, as a loss."""
    entropy_coef: float = 0.0
    """Weight of the bonus for an undecided policy."""


ALGORITHMS = {
    "ppo_clip": Algorithm("clip", "token"),
    "grpo": Algorithm("clip", "sequence"),
    "dr_grpo": Algorithm("clip", "constant", divide_by_sigma=False),
    "dapo": Algorithm("clip", "token", clip_high=0.28),
    "gspo": Algorithm("gspo", "sequence", clip_low=3e-4, clip_high=4e-4),
    "cispo": Algorithm("cispo", "token"),
}


class TokenLoss(NamedTuple):
    """What each token adds: `loss`, to be minimised, 0 outside the mask; `clipped`: the clip stopped its gradient."""

    loss: Tensor
    clipped: Tensor


class TokenColumns(Protocol):
    """What is known of each token since it was sampled, `[..., T]` each."""

    @property
    def mask(self) -> Tensor: ...  # noqa: D102
    @property
    def sequences(self) -> Tensor: ...  # noqa: D102
    @property
    def advantages(self) -> Tensor: ...  # noqa: D102
    @property
    def rollout_log_probs(self) -> Tensor: ...  # noqa: D102
    @property
    def reference_log_probs(self) -> Tensor: ...  # noqa: D102


def policy_loss(
    algorithm: Algorithm, log_probs: Tensor, entropy: Tensor, old_log_probs: Tensor, tokens: TokenColumns
) -> TokenLoss:
    """ρ ℓ(r, A) + kl_coef · KL(π ‖ reference) - entropy_coef · H of each token: the bracket in `stages/grpo.py`.

    ℓ is one of the functions below, r = π / π_old, and ρ = min(π_old / π_rollout, limit), or 1 without a limit.
    """
    mask, (low, high) = tokens.mask, (algorithm.clip_low, algorithm.clip_high)
    given = (log_probs, old_log_probs, tokens.advantages, mask)
    if algorithm.loss == "gspo":
        terms = gspo(*given, tokens.sequences, low, high)
    elif algorithm.loss == "cispo":
        terms = cispo(*given, algorithm.ratio_max)
    else:
        terms = ppo_clip(*given, low, high)
    loss = terms.loss
    if algorithm.importance_limit:
        importance = masked_importance if algorithm.importance == "mask" else truncated_importance
        loss = loss * importance(old_log_probs, tokens.rollout_log_probs, mask, algorithm.importance_limit)
    if algorithm.kl_coef:
        ratio = ratios(log_probs, old_log_probs, mask)
        loss = loss + algorithm.kl_coef * kl_estimate(log_probs, tokens.reference_log_probs, mask, algorithm.kl, ratio)
    if algorithm.entropy_coef:
        loss = loss - algorithm.entropy_coef * entropy.where(mask, 0)
    return TokenLoss(loss, terms.clipped)


def ratios(log_probs: Tensor, old_log_probs: Tensor, mask: Tensor) -> Tensor:
    """π / π_old of each token; 1 outside the mask."""
    return (log_probs - old_log_probs).where(mask, 0).exp()


def ppo_clip(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
) -> TokenLoss:
    """-min(r·A, clip(r, 1 - clip_low, 1 + clip_high)·A): no reward for moving further than the clip.

    DAPO's "clip higher" is clip_high 0.28: a token of probability 0.01 may otherwise never become 0.013.
    """
    return _clipped(ratios(log_probs, old_log_probs, mask), advantages, mask, clip_low, clip_high)


def gspo(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    sequences: Tensor,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
) -> TokenLoss:
    """PPO's clip with one ratio an answer, s = exp(mean over its tokens of log r): it is clipped as a whole.

    log s_t = sg[mean(log r)] + log π - sg[log π]: the value is s everywhere, and the gradient goes to each token.
    """
    log_s = sequence_mean(log_probs - old_log_probs, mask, sequences).detach()
    ratio = (log_s + log_probs - log_probs.detach()).where(mask, 0).exp()
    return _clipped(ratio, advantages, mask, clip_low, clip_high)


def cispo(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, ratio_max: float = 5.0
) -> TokenLoss:
    """-sg[min(r, ratio_max)]·A·log π: the importance *weight* is clipped, and no token loses its gradient.

    `ratio_max` is the largest r itself (trl's `epsilon_high`; verl and slime write it as 1 + ε_high).
    """
    ratio = ratios(log_probs, old_log_probs, mask).detach()
    loss = -(ratio.clamp(max=ratio_max) * advantages.where(mask, 0) * log_probs.where(mask, 0))
    return TokenLoss(loss, ratio > ratio_max)


def _clipped(ratio: Tensor, advantages: Tensor, mask: Tensor, low: float, high: float) -> TokenLoss:
    advantages = advantages.where(mask, 0)  # first: 0 · NaN would be NaN again in the gradient
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    clipped = ((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))
    return TokenLoss(loss, clipped)


def token_weights(
    mask: Tensor, sequences: Tensor, normalise: Normalise, max_new_tokens: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Weight of each token, and what each answer adds to the number that the weighted sum is divided by.

        sequence    mean over answers of the mean over their tokens: long answers' tokens weigh less   GRPO, GSPO
        token       mean over all tokens of the whole batch                                            DAPO, CISPO
        constant    sum over tokens / (answers · `max_new_tokens`): no length matters     Dr. GRPO, arXiv 2503.20783

    Returns:
        Weights shaped like `mask`, 0 outside it; items `[answers]`, whose sum over *all* answers of an optimizer
        step is the denominator, whatever micro-batches and ranks they are in.
    """
    ones = mask.to(dtype)
    tokens = _sums(ones, sequences, int(sequences.max()) + 1 if sequences.numel() else 0)
    some = (tokens > 0).to(dtype)
    if normalise == "sequence":
        return ones / tokens.clamp(min=1)[sequences], some
    if normalise == "token":
        return ones, tokens
    return ones / max_new_tokens, some


def sequence_mean(values: Tensor, mask: Tensor, sequences: Tensor) -> Tensor:
    """Mean over the mask of each token's answer, shaped like `values`; answers' numbers are below that of tokens."""
    count = sequences.numel()
    sums = _sums(values.where(mask, 0), sequences, count)
    return (sums / _sums(mask.to(values.dtype), sequences, count).clamp(min=1))[sequences]


def _sums(values: Tensor, sequences: Tensor, answers: int) -> Tensor:
    """Sum over each answer: `[answers]`."""
    sums = values.new_zeros(answers)
    return sums.index_add(0, sequences.flatten(), values.flatten())


def kl_estimate(
    log_probs: Tensor, reference_log_probs: Tensor, mask: Tensor, kind: KL = "k3", ratio: Tensor | float = 1.0
) -> Tensor:
    """One-sample estimate of KL(π ‖ reference) from the log-probabilities of a token drawn from π (Schulman 2020).

        k1           log π - log π_ref                  unbiased, may be negative
        k2           ½ (log π - log π_ref)²             biased
        k3           e^Δ - Δ - 1, Δ = log π_ref - log π   unbiased and never negative
        k3_weighted  r · k3                             the same under old samples

    That is as a *value*, for the log or the reward. As a *loss*, differentiated through log π, it is another thing: the
    expected gradient of k1 is 0, that of k3 is only nearly the KL's; k2 and r · k3 (r with its gradient) have the right
    one (Tang & Munos 2025, arXiv 2506.09477).
    """
    delta = (reference_log_probs - log_probs).where(mask, 0)
    if kind == "k1":
        return -delta
    if kind == "k2":
        return delta**2 / 2
    k3 = delta.exp() - delta - 1
    return ratio * k3 if kind == "k3_weighted" else k3


def truncated_importance(old_log_probs: Tensor, rollout_log_probs: Tensor, mask: Tensor, limit: float = 2.0) -> Tensor:
    """min(π_old / π_rollout, limit), a constant: corrects for an engine that is not quite the trainer's model.

    The tokens were drawn by the engine, in another number format or with slightly older weights (Yao et al. 2025, "Your
    efficient RL framework secretly brings you off-policy RL training").
    """
    return ratios(old_log_probs, rollout_log_probs, mask).clamp(max=limit).detach()


def masked_importance(old_log_probs: Tensor, rollout_log_probs: Tensor, mask: Tensor, limit: float = 2.0) -> Tensor:
    """The same, but 0 where π_old / π_rollout is above `limit` or below 1 / `limit`: the two policies are too far apart
    there for the token to say anything, and it is left out."""
    ratio = ratios(old_log_probs, rollout_log_probs, mask).detach()
    return ratio.where((ratio <= limit) & (ratio * limit >= 1), 0)


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float = 0.2) -> TokenLoss:
    """½ max((V - R)², (clip(V, V_old ± clip) - R)²): the critic, too, stays near what it was (0: it need not)."""
    values, old_values, returns = (tensor.where(mask, 0) for tensor in (values, old_values, returns))
    loss = (values - returns).square()
    if not clip:
        return TokenLoss(loss / 2, torch.zeros_like(mask))
    held_loss = (old_values + (values - old_values).clamp(-clip, clip) - returns).square()
    return TokenLoss(torch.maximum(loss, held_loss) / 2, held_loss > loss)
