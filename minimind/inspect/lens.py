"""Through the layers: what the model would say next if it ended after this layer (the logit lens, nostalgebraist 2020).

Each layer's residual stream goes through the model's final norm and output matrix, as the last layer's does. Shape
letters are those of `trace`.
"""

import torch
from torch import Tensor

from minimind.inspect.trace import Trace


@torch.no_grad()
def likeliest(trace: Trace, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest next tokens and their probabilities, each `[L + 1, T, k]`, before the first block and after each.

    Layer by layer: the logits of all would take L times the memory.
    """
    ids, probabilities = [], []
    for logits_TV in trace.logits_of_layers():
        best = logits_TV.topk(k)
        ids.append(best.indices)
        probabilities.append((best.values - logits_TV.logsumexp(-1, keepdim=True)).exp())
    return torch.stack(ids), torch.stack(probabilities)


@torch.no_grad()
def of_tokens(logits_NV: Tensor, tokens_N: list[int]) -> tuple[Tensor, Tensor]:
    """Probability and rank (0: the likeliest) of one token in each row of logits, each `[N]`.

    Rows are positions (`Trace.logits`), or the layers of one position (`Trace.logits_at`).
    """
    ids_N1 = torch.tensor(tokens_N, device=logits_NV.device)[:, None]
    own_N1 = logits_NV.gather(1, ids_N1)
    return (own_N1 - logits_NV.logsumexp(-1, keepdim=True)).exp()[:, 0], (logits_NV > own_N1).sum(-1)


def followers(trace: Trace, last: int) -> list[int]:
    """What follows each token of a text, and `last` behind its end."""
    return [*trace.ids[1:], last]
