"""Runs a model over the engine's cache: token ids of spans in, scores of what may follow them out."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from minimind import runtime
from minimind.engine import decode, graphs
from minimind.engine.graphs import GraphStep
from minimind.model import lora
from minimind.model.cache import KVCache, Span
from minimind.model.qwen3 import Transformer

PADDING = 16
"""In reference mode the number of rows of a product is a multiple of this: all of them go through the same kernel."""


def rounded(rows: int) -> int:
    """So many rows, or up to an eighth more, such that few numbers occur: multiples of 16 and some smaller ones."""
    grain = min(PADDING, 1 << max(0, rows.bit_length() - 4))
    return -(-rows // grain) * grain


class ModelRunner:
    """A model as the engine computes with it: without adapter, in one number format, with its compiled step.

    Args:
        model: its weights are shared, unless they are in another format or have an adapter.
        cache: of the engine; its format is that of the weights.
        max_batch_size: most spans of a pass.
        int8: round the matrices to int8.
        chunk: most prompt tokens of a pass.
        batch_invariant: reference mode.
    """

    def __init__(
        self, model: Transformer, cache: KVCache, max_batch_size: int, int8: bool, chunk: int, batch_invariant: bool
    ) -> None:
        model = lora.merged(model) if model.adaptation else model
        shared = not int8 and all(parameter.dtype == cache.keys.dtype for parameter in model.parameters())
        self.model = model if shared else copy.deepcopy(model).to(cache.keys.dtype).eval()
        self._cache, self._int8, self._chunk, self._batch_invariant = cache, int8, chunk, batch_invariant
        self._width = math.ceil(max_batch_size / PADDING) * PADDING
        self._device = self.model.output_weight.device
        # oneDNN makes a kernel of half a megabyte for each number of rows, and keeps it.
        self._rounds = self._device.type == "cpu" and cache.keys.dtype == torch.bfloat16
        self.decode_step: decode.DecodeStep | GraphStep | None = None
        self.prepare()

    def prepare(self) -> None:
        """Look at the weights anew."""
        quantised = decode.quantise(self.model) if self._int8 else None
        if isinstance(self.decode_step, GraphStep):
            self.decode_step.refresh()
        elif not self._batch_invariant:  # reference mode computes as training does, through the model itself
            self.decode_step = graphs.make(self.model, self._cache) or decode.make(self.model, self._cache, quantised)

    def release(self, weights: bool) -> None:
        """Drop what was prepared for the cache and the weights; move the weights to the host's memory, if asked."""
        self.decode_step = None
        if weights:
            self.model.to("cpu")

    def resume_weights(self) -> None:
        """Bring the weights back; `prepare` has to follow."""
        self.model.to(self._device)

    def scores(
        self, spans: Sequence[Span], ids: Sequence[list[int]], keep: bool = False
    ) -> tuple[Tensor, Sequence[Tensor]]:
        """Run a pass over the `ids` of each span; scores `[spans, vocab]` of what may follow the last of them.

        With `keep`, also the states `[n, hidden]` of each span's tokens.
        """
        lengths = [len(some) for some in ids]
        if not keep and self.decode_step and self.decode_step.takes(spans):
            return self.decode_step([id for some in ids for id in some], spans), []
        if self._batch_invariant and self.model.config.num_experts:
            # How many tokens an expert gets depends on the others of the pass, and the bits of its product on that.
            parts = zip(spans, ids, strict=True)
            states_NC = torch.cat([self._states([span], [some])[: len(some)] for span, some in parts])
        else:
            states_NC = self._states(spans, ids)
        last = np.cumsum(lengths) - 1
        padding = (self._width if self._batch_invariant else self._size(len(last))) - len(last)
        index = runtime.sent(torch.tensor([*last, *[0] * padding]), self._device)
        scores = self.model.logits(states_NC[index])[: len(last)]
        return scores, states_NC[: sum(lengths)].split(lengths) if keep else []

    def _states(self, spans: Sequence[Span], ids: Sequence[list[int]]) -> Tensor:
        """States `[N, hidden]` of the tokens in `spans`, and of some padding behind them."""
        flat = [id for some in ids for id in some]
        if self._batch_invariant:
            size = self._width if len(flat) <= len(spans) else self._chunk
        else:
            size = self._size(len(flat))
        padding = size - len(flat)
        ids_1N = runtime.sent(torch.tensor([flat + [0] * padding]), self._device)
        return self.model(ids_1N, self._cache.read(spans, padding, self._batch_invariant)).states[0]

    def _size(self, rows: int) -> int:
        """How many rows to compute for so many, outside reference mode."""
        return rounded(rows) if self._rounds else rows
