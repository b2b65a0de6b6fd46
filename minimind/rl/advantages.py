"""Advantages as pure functions: how much better than expected was an answer, or each of its tokens?

group_advantages     better than the other answers to the same prompt      GRPO and its relatives
gae                  better than a critic expected at each token           PPO
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def group_advantages(rewards_N: Tensor, groups: Sequence[int], divide: bool = True, epsilon: float = 1e-4) -> Tensor:
    """A = (R - mean) / (σ + ε) over the answers of one prompt (GRPO, Shao et al. 2024, arXiv 2402.03300).

    σ is the unbiased one. Dr. GRPO does not `divide` by it: dividing makes easy and hard prompts weigh more.

    Args:
        rewards_N: of each answer.
        groups: the number of each answer's prompt.
    """
    advantages_N, group_N = torch.zeros_like(rewards_N), torch.tensor(groups)
    for group in dict.fromkeys(groups):
        members_N = group_N == group
        rewards_G = rewards_N[members_N]
        if len(rewards_G.unique()) > 1:  # else σ = 0, and dividing by ε would blow up the rounding of the mean
            centred_G = rewards_G - rewards_G.mean()
            advantages_N[members_N] = centred_G / (rewards_G.std() + epsilon) if divide else centred_G
    return advantages_N


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
        mask_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * next_value_B - values_BT[:, t]
        next_advantage_B = torch.where(mask_B, delta_B + gamma * lam * next_advantage_B, next_advantage_B)
        next_value_B = torch.where(mask_B, values_BT[:, t], next_value_B)
        advantages_BT[:, t] = next_advantage_B.where(mask_B, 0)
        returns_BT[:, t] = (next_advantage_B + next_value_B).where(mask_B, 0)
    return advantages_BT, returns_BT


def gae_of_answers(
    rewards: Sequence[Sequence[float] | Tensor],
    values: Sequence[Tensor],
    masks: Sequence[Sequence[bool] | Tensor],
    gamma: float,
    lam: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """`gae` of answers of different lengths, each a sequence over its tokens: their advantages and returns."""
    if not rewards:
        return [], []
    mask_BT, values_BT, rewards_BT = (
        pad_sequence([torch.as_tensor(one) for one in column], batch_first=True) for column in (masks, values, rewards)
    )
    found = gae(rewards_BT, values_BT, mask_BT, gamma, lam)
    advantages, returns = ([row[: len(mask)] for row, mask in zip(each, masks, strict=True)] for each in found)
    return advantages, returns


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


def whiten_answers(
    values: Sequence[Tensor], masks: Sequence[Tensor], summed: Callable[[Tensor], Tensor]
) -> list[Tensor]:
    """`whiten` over the tokens of all answers together."""
    nothing = torch.zeros(0)  # a rank may have no answer
    white = whiten(torch.cat([nothing, *values]), torch.cat([nothing.bool(), *masks]), summed=summed)
    return list(white.split([len(mask) for mask in masks]))
