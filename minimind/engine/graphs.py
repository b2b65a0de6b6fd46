"""The decoding step on CUDA: recorded once as a graph of kernels, replayed for every token after.

A small model's step is a few hundred kernels of some microseconds, and starting one from Python takes longer than that.
A CUDA graph starts all of them at once. It repeats the same kernels on the same memory, so whatever changes from step
to step lies in one fixed tensor: of each token its id, its cache row and its slot. Shapes are fixed too: there is a
graph for every power of two of tokens and of visible slots that has been needed.

Letters: N tokens (padded with copies of the last one), S visible slots, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minimind.model.attention import Segments
from minimind.model.cache import FixedCache, KVCache, Span
from minimind.model.transformer import Transformer

LEAST_SLOTS = 256
"""A graph sees at least so many slots of each row: more graphs would gain nothing."""
WARM_UP = 3
"""Runs before a graph is recorded: libraries choose their kernels and allocate in the first ones."""


class Graph(NamedTuple):
    """A recorded step."""

    inputs: Tensor
    """int64 `[3, N]`: ids, cache rows, slots. To be filled before a replay."""
    replay: Callable[[], Tensor]
    """Returns the scores `[N, V]`, in memory that the next replay writes to."""


class GraphStep:
    """The step of one model over one cache. Weights may change, but must stay where they are in memory."""

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        self._model, self._cache = model, cache
        self.most_tokens = cache.keys.shape[1]
        self._graphs: dict[tuple[int, int], Graph] = {}
        self._addresses = self._look_up()

    def __call__(self, ids: Sequence[int], spans: Sequence[Span]) -> Tensor:
        """Run the newest token of each span's sequence; return its scores `[N, V]`, good until the next call."""
        tokens = [(id, span.row, span.start) for id, span in zip(ids, spans, strict=True)]
        size = power_of_two(len(tokens))
        extent = min(self._cache.keys.shape[3], power_of_two(max(LEAST_SLOTS, *(span.end for span in spans))))
        padded = torch.tensor(tokens + tokens[-1:] * (size - len(tokens))).T
        if graph := self._graphs.get((size, extent)):
            graph.inputs.copy_(padded)
        else:
            graph = self._graphs[size, extent] = self._record(padded.contiguous().to(self._cache.keys.device), extent)
        return graph.replay()[: len(tokens)]

    def refresh(self) -> None:
        """Look at the weights anew: where one lies elsewhere, nothing that was recorded is of use."""
        if (addresses := self._look_up()) != self._addresses:
            self._addresses = addresses
            self._graphs.clear()

    def _look_up(self) -> list[int]:
        return [parameter.data_ptr() for parameter in self._model.parameters()]

    def _record(self, inputs: Tensor, extent: int) -> Graph:
        def step() -> Tensor:
            return self._step(inputs, extent)

        return Graph(inputs, record(step, inputs.device) if inputs.is_cuda else step)

    def _step(self, inputs_3N: Tensor, extent: int) -> Tensor:
        ids_N, rows_N, slots_N = inputs_3N
        visible_NS = torch.arange(extent, device=inputs_3N.device) <= slots_N[:, None]
        layers = zip(self._cache.keys, self._cache.values, strict=True)
        caches = [FixedCache(keys, values, rows_N, slots_N, visible_NS[:, None, None]) for keys, values in layers]
        segments = Segments(torch.zeros_like(ids_N, dtype=torch.int32)[None], slots_N[None])
        return self._model.logits(self._model(ids_N[None], segments, caches).states[0])


def record(step: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Record the kernels that `step` starts on a CUDA device; the result starts them again."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                step()
        torch.cuda.current_stream().wait_stream(side)
        with torch.cuda.graph(graph):
            out = step()

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


def make(model: Transformer, cache: KVCache) -> GraphStep | None:
    """The recorded step, or None where nothing can be recorded: not on CUDA, or experts without the grouped kernel,
    for which the host has to know how many tokens each expert got."""
    weight = model.output_weight
    if not weight.is_cuda or model.adaptation:
        return None
    hopper = torch.cuda.get_device_capability(weight.device) >= (9, 0)
    if model.config.num_experts and not (hopper and weight.dtype == torch.bfloat16):
        return None
    return GraphStep(model, cache)


def power_of_two(count: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << (count - 1).bit_length()
