"""The decoding step on CUDA: recorded once as a graph of kernels, replayed for every token after.

A small model's step is a few hundred kernels of some microseconds, and starting one from Python takes longer than that.
A CUDA graph starts all of them at once. It repeats the same kernels on the same memory, so whatever changes from step
to step lies in one fixed tensor: of each token its id, its position, its cell of the cache and the table of its pages.
Shapes are fixed too: there is a graph for every power of two of tokens and of visible slots that has been needed.

Letters: N tokens (padded with copies of the last one), S visible slots, W pages that hold them, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minimind import runtime
from minimind.model.cache import PAGE, CachePass, FixedCache, KVCache, Span, tables_of
from minimind.model.qwen3 import Transformer

LEAST_SLOTS = 256
"""A graph sees at least so many slots of each sequence: more graphs would gain nothing."""
MAX_SLOTS = 64 * 2048
"""Of all sequences together. Each step copies the keys and values that it sees, which takes over from here on."""
WARM_UP = 3
"""Runs before a graph is recorded: libraries choose their kernels and allocate in the first ones."""


class Graph(NamedTuple):
    """A recorded step."""

    inputs: Tensor
    """int64 `[N, 3 + W]`: id, position, cell, and the pages of each. To be filled before a replay."""
    replay: Callable[[], Tensor]
    """Returns the scores `[N, V]`, in memory that the next replay writes to."""


class GraphStep:
    """The step of one model over one cache. Weights may change, but must stay where they are in memory."""

    def __init__(self, model: Transformer, cache: KVCache) -> None:
        self._model, self._cache = model, cache
        self._graphs: dict[tuple[int, int], Graph] = {}
        self._recorder = Recorder(cache.keys.device) if cache.keys.is_cuda else None
        self._look_up()

    def takes(self, spans: Sequence[Span]) -> bool:
        """Whether it is faster than the model itself for these newest tokens."""
        size, extent = self._shape(spans)
        return size * extent <= MAX_SLOTS and all(span.end - span.start == 1 for span in spans)

    def __call__(self, ids: Sequence[int], spans: Sequence[Span]) -> Tensor:
        """Run the newest token of each span's sequence; return its scores `[N, V]`, good until the next call."""
        size, extent = self._shape(spans)
        padding = size - len(ids)
        ids, spans = [*ids, *[ids[-1]] * padding], [*spans, *[spans[-1]] * padding]
        own = torch.tensor([[id, span.start, *span.cells] for id, span in zip(ids, spans, strict=True)])
        inputs = runtime.sent(torch.cat([own, tables_of(spans, extent // PAGE)], 1), self._cache.keys.device)
        if graph := self._graphs.get((size, extent)):
            graph.inputs.copy_(inputs)
        else:
            graph = self._graphs[size, extent] = self._record(inputs, extent)
        return graph.replay()[: size - padding]

    def refresh(self) -> None:
        """Look at the weights anew: where one lies elsewhere, nothing that was recorded is of use."""
        lies = [weight.data_ptr() for weight in self._model.parameters()]
        if lies != [weight.data_ptr() for weight in self._weights] or self._rope is not self._model.rope:
            self._graphs.clear()
            self._look_up()

    def _look_up(self) -> None:
        # Kept, and detached, so that no recorded address outlives its memory even where a parameter gets other data.
        self._weights = [weight.detach() for weight in self._model.parameters()]
        self._rope = self._model.rope

    def _shape(self, spans: Sequence[Span]) -> tuple[int, int]:
        """Tokens and slots of the graph for these spans."""
        end = max(span.end for span in spans)
        slots = min(len(self._cache.all_pages) * PAGE, power_of_two(max(LEAST_SLOTS, end)))
        return power_of_two(len(spans)), slots

    def _record(self, inputs: Tensor, extent: int) -> Graph:
        def step() -> Tensor:
            return self._step(inputs, extent)

        return Graph(inputs, self._recorder.record(step) if self._recorder else step)

    def _step(self, inputs: Tensor, extent: int) -> Tensor:
        ids_N, positions_N, cells_N = inputs[:, :3].unbind(1)
        visible_NS = torch.arange(extent, device=inputs.device) <= positions_N[:, None]
        rest = cells_N, inputs[:, 3:], visible_NS[:, None, None]
        layers = zip(self._cache.keys, self._cache.values, strict=True)
        caches = [FixedCache(keys, values, *rest) for keys, values in layers]
        tokens = CachePass(positions_N[None], torch.zeros_like(ids_N, dtype=torch.bool)[None], caches)
        return self._model.logits(self._model(ids_N[None], tokens).states[0])


class Recorder:
    """Records what is started on a CUDA device. All its graphs share one pool of memory, as only one runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        with torch.cuda.device(device):
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Run `step` to warm up, then record its kernels; the result starts them again."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                for _ in range(WARM_UP):
                    step()
            torch.cuda.current_stream().wait_stream(self._stream)
            # Other threads may go on using the device meanwhile (a reward model that timed out).
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                out = step()

        def replay() -> Tensor:
            graph.replay()
            return out

        return replay


def make(model: Transformer, cache: KVCache) -> GraphStep | None:
    """The recorded step, or None where nothing can be recorded: not on CUDA, or experts without the grouped kernel,
    for which the host has to know how many tokens each expert got."""
    weight, config = model.output_weight, model.config
    if not weight.is_cuda or model.adaptation:
        return None
    if config.num_experts:
        kernel = torch.version.hip is None and torch.cuda.get_device_capability(weight.device)[0] in (9, 10)
        aligned = config.hidden_size % 8 == config.moe_intermediate_size % 8 == 0
        if not (kernel and aligned and weight.dtype == torch.bfloat16):
            return None
    return GraphStep(model, cache)


def power_of_two(count: int) -> int:
    """The smallest power of two that is not smaller."""
    return 1 << (count - 1).bit_length()
