"""Side by side: how far apart two models are on one text, token by token and layer by layer. Letters as in `trace`."""

import torch
from torch import Tensor

from minimind.inspect.trace import Trace


@torch.no_grad()
def divergence(first: Trace, second: Trace) -> Tensor:
    """KL(first ‖ second) of what comes next, nats, `[L + 1, T]`; at other depths of the last layer alone, `[1, T]`."""
    same_depth = len(first.residual) == len(second.residual)
    pairs = (
        zip(first.logits_of_layers(), second.logits_of_layers(), strict=True) if same_depth else _last(first, second)
    )
    return torch.stack([kl(one, other) for one, other in pairs])


def kl(first_TV: Tensor, second_TV: Tensor) -> Tensor:
    """Σ_v p(v) · (log p(v) - log q(v)) of two sets of logits, nats, `[T]`."""
    p, q = first_TV.log_softmax(-1), second_TV.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)


def _last(first: Trace, second: Trace) -> list[tuple[Tensor, Tensor]]:
    *_, one = first.logits_of_layers()
    *_, other = second.logits_of_layers()
    return [(one, other)]
