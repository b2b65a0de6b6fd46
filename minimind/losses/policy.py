"""Policy-gradient losses as pure functions: what each sampled token adds to the loss.

All of them are one idea. With the advantage A (was the answer better than expected?) and the ratio r = π / π_old of a
token's probability now and when it was sampled, the policy gradient is E[r · A · ∇log π]. The methods differ in how far
they let r go, in whose r it is, and in what an answer's tokens weigh together (`token_weights`):

    PPO, GRPO    -min(r · A, clip(r, 1-ε, 1+ε) · A)                  Schulman et al. 2017, arXiv 1707.06347
    DAPO         the same, clip(r, 1-ε_low, 1+ε_high)                Yu et al. 2025, arXiv 2503.14476
    GSPO         the same, r the geometric mean over the answer      Zheng et al. 2025, arXiv 2507.18071
    CISPO        -sg[min(r, ratio_max)] · A · log π                  MiniMax 2025, arXiv 2506.13585

Tensors are `[..., T]`, one value for each token; `mask` is True on the tokens that the policy chose itself (not on the
prompt, not on what a tool said). What is outside the mask may be anything, NaN too: it is selected away, not multiplied
by 0. `sequences` gives each token the number of its answer, so that answers may be packed into rows.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Normalise = Literal["sequence", "token", "constant"]
KL = Literal["k1", "k2", "k3", "k3_weighted"]


class Terms(NamedTuple):
    """What each token adds: `loss`, to be minimised, 0 outside the mask; `clipped`: the clip stopped its gradient."""

    loss: Tensor
    clipped: Tensor


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
) -> Terms:
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
) -> Terms:
    """PPO's clip with one ratio an answer, s = exp(mean over its tokens of log r): it is clipped as a whole.

    log s_t = sg[mean(log r)] + log π - sg[log π]: the value is s everywhere, and the gradient goes to each token.
    """
    log_s = sequence_mean(log_probs - old_log_probs, mask, sequences).detach()
    ratio = (log_s + log_probs - log_probs.detach()).where(mask, 0).exp()
    return _clipped(ratio, advantages, mask, clip_low, clip_high)


def cispo(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, ratio_max: float = 5.0) -> Terms:
    """-sg[min(r, ratio_max)]·A·log π: the importance *weight* is clipped, and no token loses its gradient.

    `ratio_max` is the largest r itself (trl's `epsilon_high`; verl and slime write it as 1 + ε_high).
    """
    ratio = ratios(log_probs, old_log_probs, mask).detach()
    loss = -(ratio.clamp(max=ratio_max) * advantages.where(mask, 0) * log_probs.where(mask, 0))
    return Terms(loss, ratio > ratio_max)


def _clipped(ratio: Tensor, advantages: Tensor, mask: Tensor, low: float, high: float) -> Terms:
    advantages = advantages.where(mask, 0)  # first: 0 · NaN would be NaN again in the gradient
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - low, 1 + high) * advantages)
    clipped = ((ratio < 1 - low) & (advantages < 0)) | ((ratio > 1 + high) & (advantages > 0))
    return Terms(loss, clipped)


def token_weights(
    mask: Tensor, sequences: Tensor, normalise: Normalise, longest: int = 0, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Weight of each token, and each answer's share of the number that the weighted sum is divided by.

        sequence    mean over answers of the mean over their tokens: long answers' tokens weigh less   GRPO, GSPO
        token       mean over all tokens of the whole batch                                            DAPO, CISPO
        constant    sum over tokens / (answers · `longest`): no length matters     Dr. GRPO, Liu et al. 2025, 2503.20783

    Returns:
        Weights shaped like `mask`, 0 outside it; shares `[answers]`, whose sum over *all* answers of an optimizer
        step is the denominator, whatever micro-batches and ranks they are in.
    """
    ones = mask.to(dtype)
    tokens = _sums(ones, sequences, int(sequences.max()) + 1 if sequences.numel() else 0)
    some = (tokens > 0).to(dtype)
    if normalise == "sequence":
        return ones / tokens.clamp(min=1)[sequences], some
    if normalise == "token":
        return ones, tokens
    return ones / longest, some


def sequence_mean(values: Tensor, mask: Tensor, sequences: Tensor) -> Tensor:
    """The mean of each token's answer, over the mask; shaped like `values`. Their numbers are below that of tokens."""
    most = sequences.numel()
    sums = _sums(values.where(mask, 0), sequences, most)
    return (sums / _sums(mask.to(values.dtype), sequences, most).clamp(min=1))[sequences]


def _sums(values: Tensor, sequences: Tensor, answers: int) -> Tensor:
    """Sum over each answer: `[answers]`."""
    sums = values.new_zeros(answers)
    return sums.index_add(0, sequences.flatten(), values.flatten())


def kl_estimate(
    log_probs: Tensor, reference: Tensor, mask: Tensor, kind: KL = "k3", ratio: Tensor | float = 1.0
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
    delta = (reference - log_probs).where(mask, 0)
    if kind == "k1":
        return -delta
    if kind == "k2":
        return delta**2 / 2
    k3 = delta.exp() - delta - 1
    return ratio * k3 if kind == "k3_weighted" else k3


def truncated_importance(old_log_probs: Tensor, engine_log_probs: Tensor, mask: Tensor, limit: float = 2.0) -> Tensor:
    """min(π_old / π_engine, limit), a constant: corrects for an engine that is not quite the trainer's model.

    The tokens were drawn by the engine, in another number format or with slightly older weights (Yao et al. 2025, "Your
    efficient RL framework secretly brings you off-policy RL training").
    """
    return ratios(old_log_probs, engine_log_probs, mask).clamp(max=limit).detach()


def group_advantages(rewards_GN: Tensor, divide: bool = True, least: float = 1e-4) -> Tensor:
    """A = (R - mean) / (σ + 1e-4) over the answers of one prompt (GRPO, Shao et al. 2024, arXiv 2402.03300).

    A NaN is an answer without a reward: it takes no part in mean and σ (the unbiased one), and its advantage is 0.
    Dr. GRPO does not `divide`: σ makes easy and hard prompts weigh more than those between.
    """
    known = ~rewards_GN.isnan()
    count = known.sum(-1, keepdim=True)
    centred = rewards_GN - rewards_GN.where(known, 0).sum(-1, keepdim=True) / count.clamp(min=1)
    # Equal rewards teach nothing: not even the last bit of their mean, which σ would make large.
    same = rewards_GN.nan_to_num(nan=-torch.inf).amax(-1) == rewards_GN.nan_to_num(nan=torch.inf).amin(-1)
    centred = centred.where(known & ~same[..., None], 0)
    if not divide:
        return centred
    sigma = (centred.square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return centred / (sigma + least)


def gae(
    rewards_BT: Tensor, values_BT: Tensor, mask_BT: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation over each row (Schulman et al. 2016, arXiv 1506.02438); 0 outside the mask.

        δ_t = r_t + γ V_{t+1} - V_t      A_t = δ_t + γ λ A_{t+1}      return_t = A_t + V_t

    t + 1 is the next token *in the mask*: what a tool said between two chosen tokens takes no time, and changes
    nothing. After the last one the value is 0.

    Returns:
        Advantages and returns, both `[B, T]`.
    """
    advantages_BT, returns_BT = torch.zeros_like(values_BT), torch.zeros_like(values_BT)
    next_value_B, next_advantage_B = torch.zeros_like(values_BT[:, 0]), torch.zeros_like(values_BT[:, 0])
    for t in reversed(range(values_BT.shape[1])):
        chosen_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        next_advantage_B = torch.where(chosen_B, delta_B + gamma * lam * next_advantage_B, next_advantage_B)
        next_value_B = torch.where(chosen_B, values_BT[:, t], next_value_B)
        advantages_BT[:, t] = next_advantage_B.where(chosen_B, 0)
        returns_BT[:, t] = (next_advantage_B + next_value_B).where(chosen_B, 0)
    return advantages_BT, returns_BT


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float = 0.2) -> Terms:
    """½ max((V - R)², (clip(V, V_old ± clip) - R)²): the critic, too, stays near what it was (0: it need not)."""
    values, old_values, returns = (tensor.where(mask, 0) for tensor in (values, old_values, returns))
    loss = (values - returns).square()
    if not clip:
        return Terms(loss / 2, torch.zeros_like(mask))
    held_loss = (old_values + (values - old_values).clamp(-clip, clip) - returns).square()
    return Terms(torch.maximum(loss, held_loss) / 2, held_loss > loss)


def whiten(
    values: Tensor, mask: Tensor, centre: bool = True, summed: Callable[[Tensor], Tensor] = lambda total: total
) -> Tensor:
    """(x - mean) / σ over the mask; without `centre` the mean is put back. `summed` adds up over ranks."""
    kept = values.where(mask, 0).double()
    count, total = summed(torch.stack([mask.sum().double(), kept.sum()]))
    mean = total / count.clamp(min=1)
    square = summed((kept - mean).where(mask, 0).square().sum())
    sigma = (square / (count - 1).clamp(min=1)).sqrt()
    white = (kept - mean) / (sigma + 1e-8) + (0 if centre else mean)
    return white.where(mask, 0).to(values.dtype)
