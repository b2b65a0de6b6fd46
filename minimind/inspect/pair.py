"""Side by side: how far apart two models are on one text, token by token and layer by layer. Letters as in `trace`."""

import torch
from torch import Tensor

from minimind.inspect.trace import Trace


@torch.no_grad()
def divergence(first: Trace, second: Trace) -> Tensor:
    """KL(first ‖ second) of what comes next, nats, `[L + 1, T]`; at other depths of the last layer alone, `[1, T]`."""
    if len(first.residual) != len(second.residual):
        return kl(first.logits, second.logits)[None]
    pairs = zip(first.logits_of_layers(), second.logits_of_layers(), strict=True)
    return torch.stack([kl(one, other) for one, other in pairs])


def kl(first_TV: Tensor, second_TV: Tensor) -> Tensor:
    """Σ_v p(v) · (log p(v) - log q(v)) of two sets of logits, nats, `[T]`."""
    p, q = first_TV.log_softmax(-1), second_TV.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).clamp(min=0)
