"""Held-out preference pairs: what a loss and its figures are on them."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from minimind.data.pairs import PairBatch
from minimind.model.qwen3 import Transformer
from minimind.train.job import to_device
from minimind.train.precision import Precision


@torch.no_grad()
def pair_figures(
    model: Transformer,
    batches: Iterable[PairBatch],
    loss: Callable[[Any, Any], Any],
    precision: Precision,
    max_tokens: int,
) -> dict[str, float]:
    """Means over pairs of the figures that `loss(model, batch)` sums; no further batch once `max_tokens` are read.

    The model is called as it is: put it in eval mode first.
    """
    sums: dict[str, float] = {}
    pairs = tokens = 0
    for cpu_batch in batches:
        batch = to_device(cpu_batch, precision.device)
        with precision.autocast():
            figures = loss(model, batch).figures
        for name, value in figures.items():
            if not value.ndim:
                sums[name] = sums.get(name, 0.0) + float(value)
        pairs += cpu_batch.num_items
        tokens += int((cpu_batch.document_ids >= 0).sum())
        if tokens >= max_tokens:
            break
    return {name: value / pairs for name, value in sums.items()}
