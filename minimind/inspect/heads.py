"""What attention heads look at, measured where content gives no hint: on random tokens that are said twice.

    bos a b c ... z a b c ... z
                    ↑ an induction head looks at b, which followed a before (Olsson et al. 2022, arXiv 2209.11895)

Letters: n tokens that are repeated; others as in `trace`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minimind.inspect.trace import traces
from minimind.model.qwen3 import Transformer

LENGTH, SEQUENCES = 48, 4


class HeadScores(NamedTuple):
    """Mean attention, 0 to 1, each `[L, H]`."""

    previous: Tensor
    """To the token before."""
    first: Tensor
    """To the first token of the text."""
    induction: Tensor
    """To the token that came after the present one when it was said the first time."""


def head_scores(model: Transformer, ordinary: Sequence[int], first: int | None = None) -> HeadScores:
    """Measure all heads on `SEQUENCES` texts of `LENGTH` tokens that are repeated, the same for every model.

    Args:
        model: whose heads.
        ordinary: ids to draw from: no control tokens.
        first: the id that begins a text, if there is one.
    """
    dice = torch.Generator().manual_seed(0)
    drawn = torch.tensor(list(ordinary))[torch.randint(len(ordinary), (SEQUENCES, LENGTH), generator=dice)].tolist()
    begin = [] if first is None else [first]
    start, n = len(begin), LENGTH
    scores = []
    for trace in traces(model, [begin + once + once for once in drawn]):
        attention_LHTT = trace.attention
        previous = attention_LHTT.diagonal(-1, 2, 3)[..., 1:]  # of the second token it is the first
        induction = attention_LHTT[:, :, start + n :, : start + n].diagonal(start + 1, 2, 3)[..., : n - 1]
        scores.append(torch.stack([one.mean(-1) for one in (previous, attention_LHTT[:, :, 1:, 0], induction)]))
    return HeadScores(*torch.stack(scores).mean(0))
