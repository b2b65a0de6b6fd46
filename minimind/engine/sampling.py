"""From logits to the next token."""

from dataclasses import dataclass

import torch
from torch import Tensor

from minimind.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen. The filters apply in the order of the fields, as in `transformers`."""

    repetition_penalty: float = 1.0
    """Above 1: tokens already in the prompt or the answer lose score (CTRL, Keskar et al. 2019)."""
    temperature: float = 1.0
    """Divides the logits; 0 always takes the likeliest token."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the smallest set of likeliest tokens whose probability reaches p (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Keep tokens with at least this share of the likeliest one's probability."""
    seed: int | None = None
    """With a seed, a prompt gets the same answer whatever else is in its batch."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        rules = {
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
            "temperature": (self.temperature >= 0, "0 (greedy) or above"),
            "top_k": (self.top_k >= 0, "0 (off) or above"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "min_p": (0 <= self.min_p <= 1, "between 0 and 1"),
        }
        for name, (ok, rule) in rules.items():
            if not ok:
                raise UsageError(f"{name} is {getattr(self, name)}, but should be {rule}")


GREEDY = Sampling(temperature=0.0)


def sample(
    logits_BV: Tensor, sampling: Sampling, uniform_B: Tensor, seen_BV: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Choose a token for each row.

    Args:
        logits_BV: scores of every token.
        sampling: the rules.
        uniform_B: one number in [0, 1) a row, the only randomness there is.
        seen_BV: True for tokens that the repetition penalty applies to.

    Returns:
        Token ids, int64 `[B]`, and their log-probabilities under the model itself (before any rule), float32 `[B]`.
    """
    logits_BV = logits_BV.float()
    own_BV = logits_BV.log_softmax(-1)
    if seen_BV is not None:
        penalty = sampling.repetition_penalty
        logits_BV = torch.where(
            seen_BV, torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty), logits_BV
        )
    if sampling.temperature == 0:
        ids_B = logits_BV.argmax(-1)
    else:
        ids_B = _draw((logits_BV / sampling.temperature).softmax(-1), sampling, uniform_B)
    return ids_B, own_BV.gather(1, ids_B[:, None]).squeeze(1)


def _draw(p_BV: Tensor, sampling: Sampling, uniform_B: Tensor) -> Tensor:
    """Draw by inverting the cumulative distribution of the tokens that the filters keep."""
    filtered = sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
    if filtered:
        p_BV, order_BV = p_BV.sort(-1, descending=True)
        if sampling.top_k:
            p_BV[:, sampling.top_k :] = 0
            p_BV = p_BV / p_BV.sum(-1, keepdim=True)
        likelier_BV = p_BV.cumsum(-1) - p_BV  # probability of all tokens before this one
        keep_BV = (likelier_BV < sampling.top_p) & (p_BV >= sampling.min_p * p_BV[:, :1])
        keep_BV[:, 0] = True
        p_BV = p_BV * keep_BV
    cumulative_BV = p_BV.double().cumsum(-1) if p_BV.device.type != "mps" else p_BV.cumsum(-1)
    target_B1 = uniform_B[:, None].to(cumulative_BV.dtype) * cumulative_BV[:, -1:]
    index_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True).clamp(max=p_BV.shape[-1] - 1)
    return (order_BV.gather(1, index_B1) if filtered else index_B1).squeeze(1)
