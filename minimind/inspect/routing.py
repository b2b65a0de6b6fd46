"""Experts: where tokens go in a mixture of experts, and which words an expert gets. Letters as in `trace`."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minimind.errors import UserError
from minimind.inspect.trace import Trace, blocks, traces
from minimind.model.moe import MixtureOfExperts
from minimind.model.qwen3 import Transformer


class LayerRouting(NamedTuple):
    """What one sparse layer did with a text."""

    layer: int
    probabilities: Tensor
    """`[T, E]`: of the router."""
    chosen: Tensor
    """`[T, k]`: the experts that each token went through, the likeliest first."""
    load: Tensor
    """`[E]`: share of the choices that fell on each expert."""


def routing(model: Transformer, trace: Trace) -> list[LayerRouting]:
    """Where the tokens of a traced text went, in each sparse layer.

    Raises:
        UserError: the model has no experts.
    """
    if not trace.router:
        raise UserError("this model has no experts: its layers are dense; train one with --preset minimind-3-moe")
    found = []
    for layer, probabilities_TE in trace.router.items():
        mixture = blocks(model)[layer].mlp
        assert isinstance(mixture, MixtureOfExperts)
        chosen_Tk = probabilities_TE.topk(mixture.chosen).indices
        counts = torch.bincount(chosen_Tk.flatten(), minlength=probabilities_TE.shape[1])
        found.append(LayerRouting(layer, probabilities_TE, chosen_Tk, counts / counts.sum()))
    return found


def words_of_experts(model: Transformer, texts: Sequence[Sequence[int]]) -> dict[int, list[Counter[int]]]:
    """By sparse layer: how often each token of some texts went to each expert (as its first choice or another)."""
    found: dict[int, list[Counter[int]]] = {}
    for trace in traces(model, texts):
        for one in routing(model, trace):
            counters = found.setdefault(one.layer, [Counter() for _ in one.load])
            for id, experts in zip(trace.ids, one.chosen.tolist(), strict=True):
                for expert in experts:
                    counters[expert][id] += 1
    return found
