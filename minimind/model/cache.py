"""The key/value cache of generation: what attention would otherwise recompute for every new token.

It is cut into pages of `PAGE` tokens, and every sequence has a table of its pages, which may lie anywhere
(PagedAttention, Kwon et al. 2023): position p is in slot p % PAGE of page table[p // PAGE]. So a sequence takes the
memory of the tokens that it has, not of those that it may get, and two that begin alike name the same pages
(`engine/pages.py`).

One pass through the model takes a flat list of tokens that may belong to many sequences: the newest token of some, a
stretch of the prompt of others. None is padded. Letters: N tokens of a pass, H query heads, K key/value heads, D
head_dim, B sequences that attend together, W pages of the longest of them, S = W · PAGE slots, P pages of the cache.
"""

import math
import re
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minimind import runtime
from minimind.config import ModelConfig
from minimind.errors import UserError
from minimind.model.attend import masked_attention

PAGE = 16
"""Tokens of a page: few, as a sequence leaves half of its last one empty and shares only what fills a page."""


class Span(NamedTuple):
    """The tokens at positions `start` to `end - 1` of the sequence that lives in `pages`, in this order."""

    pages: Sequence[int]
    start: int
    end: int

    @property
    def positions(self) -> range:
        """Of its tokens in their sequence."""
        return range(self.start, self.end)

    @property
    def cells(self) -> list[int]:
        """The slot of the whole cache that each token has: page · PAGE + slot in it."""
        return [self.pages[position // PAGE] * PAGE + position % PAGE for position in self.positions]


def pages_of(tokens: int) -> int:
    """How many pages so many tokens fill."""
    return -(-tokens // PAGE)


def tables_of(spans: Sequence[Span], width: int = 0) -> Tensor:
    """The tables of sequences up to the ends of `spans`, int64 `[B, W]`, W at least `width`; behind short ones, 0."""
    used = [pages_of(span.end) for span in spans]
    tables_BW = np.zeros((len(spans), max(width, *used)), np.int64)
    for table_W, span, count in zip(tables_BW, spans, used, strict=True):
        table_W[:count] = span.pages[:count]
    return torch.from_numpy(tables_BW)


Newest = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""Attention of the newest tokens of sequences, on the pages where they lie: queries `[N, H, D]`, one layer's keys and
values, tables `[N, W]` and positions `[N]` to `[N, H, D]`."""


class Group(NamedTuple):
    """Tokens of a pass that attend together: `tokens` of the N, to the first `extent` positions of their sequences."""

    tokens: slice
    tables: Tensor
    """Int64 `[B, W]`."""
    extent: int
    mask: Tensor | None
    """True = may see: `[B, 1, 1, extent]` for one token a sequence, `[tokens, extent]` for a stretch of one; None
    where everything (one token) or everything up to itself (a stretch from position 0) is seen."""


def write(store_KPSD: Tensor, cells_N: Tensor, new_NKD: Tensor) -> None:
    """Put the keys or values of tokens into their cells."""
    store_KPSD.flatten(1, 2)[:, cells_N] = new_NKD.transpose(0, 1).to(store_KPSD.dtype)


def gather(store_KPSD: Tensor, tables_BW: Tensor, extent: int) -> Tensor:
    """Copy the pages of each sequence one behind the other: `[B, K, extent, D]`."""
    heads, _, _, head_dim = store_KPSD.shape
    pages = store_KPSD.index_select(1, tables_BW.flatten())
    return pages.view(heads, len(tables_BW), -1, head_dim)[:, :, :extent].transpose(0, 1)


class LayerCache(NamedTuple):
    """One layer's share in a pass: `keys` and `values` `[K, P, PAGE, D]`."""

    keys: Tensor
    values: Tensor
    cells: Tensor
    """Where each token that is not padding goes."""
    positions: Tensor
    groups: list[Group]
    newest: Newest | None

    def attend(self, q_1NHD: Tensor, k_1NKD: Tensor, v_1NKD: Tensor) -> Tensor:
        """Write keys and values of the pass, then attend to all of each sequence: `[1, N, H, D]`, 0 for padding."""
        q_NHD = q_1NHD[0]
        write(self.keys, self.cells, k_1NKD[0, : len(self.cells)])
        write(self.values, self.cells, v_1NKD[0, : len(self.cells)])
        out_NHD = torch.zeros_like(q_NHD)
        for group in self.groups:
            q = q_NHD[group.tokens]
            one_each = len(q) == len(group.tables)
            if one_each and self.newest:
                positions = self.positions[group.tokens]
                out_NHD[group.tokens] = self.newest(q, self.keys, self.values, group.tables, positions)
                continue
            k_BKSD, v_BKSD = (gather(x, group.tables, group.extent).to(q.dtype) for x in (self.keys, self.values))
            if one_each:
                # One new token a sequence: the query heads that share a key head become the rows of one product with
                # its keys, which reads each key once instead of once a head.
                q_BKGD = q.unflatten(1, (k_BKSD.shape[1], -1))
                out_BKGD = F.scaled_dot_product_attention(q_BKGD, k_BKSD, v_BKSD, attn_mask=group.mask)
                out_NHD[group.tokens] = out_BKGD.flatten(1, 2)
            else:
                q_1HTD = q.transpose(0, 1)[None]
                out_1HTD = masked_attention(q_1HTD, k_BKSD, v_BKSD, group.mask, causal=group.mask is None)
                out_NHD[group.tokens] = out_1HTD[0].transpose(0, 1)
        return out_NHD[None]


class FixedCache(NamedTuple):
    """One layer's share in a pass over one new token a sequence, of fixed shapes: what a CUDA graph can repeat.

    It copies the keys and values that it sees, which for few sequences is little beside the weights.
    """

    keys: Tensor
    values: Tensor
    """`[K, P, PAGE, D]`."""
    cells_N: Tensor
    """Where each token goes. Copies of a token may follow it, as padding: they write the same."""
    tables_NW: Tensor
    visible_N11S: Tensor
    """True = the token may see the position."""

    def attend(self, q_1NHD: Tensor, k_1NKD: Tensor, v_1NKD: Tensor) -> Tensor:
        """Write keys and values of the tokens, then attend to what each may see: `[1, N, H, D]`."""
        write(self.keys, self.cells_N, k_1NKD[0])
        write(self.values, self.cells_N, v_1NKD[0])
        extent = self.visible_N11S.shape[-1]
        k_NKSD, v_NKSD = (gather(x, self.tables_NW, extent) for x in (self.keys, self.values))
        q_NKGD = q_1NHD[0].unflatten(1, (k_NKSD.shape[1], -1))
        out_NKGD = F.scaled_dot_product_attention(q_NKGD, k_NKSD, v_NKSD, attn_mask=self.visible_N11S)
        return out_NKGD.flatten(1, 2)[None]


class CachePass(NamedTuple):
    """One pass over the tokens of sequences in a cache, a flat row of them (B = 1); padding may only be at its end."""

    positions: Tensor
    """int64 `[1, N]`."""
    padding: Tensor
    """bool `[1, N]`."""
    layers: Sequence[LayerCache | FixedCache]
    repeats: bool = False

    def of_layers(self, layers: int, dtype: torch.dtype) -> Sequence[LayerCache | FixedCache]:
        """Each layer's share of the cache."""
        return self.layers


class KVCache:
    """Preallocated keys and values of so many tokens, each `[layers, K, P, PAGE, D]`.

    Raises:
        UserError: there is not so much memory.
    """

    def __init__(self, config: ModelConfig, tokens: int, dtype: torch.dtype, device: torch.device | str):
        self.all_pages = range(pages_of(tokens))
        """Also the table of a sequence that has the cache for itself."""
        shape = (config.num_hidden_layers, config.num_key_value_heads, len(self.all_pages), PAGE, config.head_dim)
        try:
            self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        except RuntimeError as error:  # torch.OutOfMemoryError is one, what a CPU raises has no class of its own
            if not re.search("memory|size", str(error)):
                raise
            gib = 2 * math.prod(shape) * dtype.itemsize / 2**30
            raise UserError(
                f"the key/value cache of {tokens:,} tokens takes {gib:,.1f} GiB, more than there is: give a shorter "
                f"context, or let fewer sequences run at once"
            ) from error
        self.newest: Newest | None = None
        """A kernel for newest tokens; without one, the pages that they look at are copied together."""

    @property
    def bytes(self) -> int:
        """Memory of keys and values."""
        return self.keys.nbytes + self.values.nbytes

    def release(self) -> None:
        """Give its memory back until `resume`."""
        for store in (self.keys, self.values):
            store.untyped_storage().resize_(0)

    def resume(self) -> None:
        """Take the memory again, empty."""
        for store in (self.keys, self.values):
            store.untyped_storage().resize_(store.numel() * store.itemsize)
            store.zero_()

    def read(self, spans: Sequence[Span], padding: int = 0, alone: bool = False) -> CachePass:
        """A pass over the tokens of `spans`, in this order, and `padding` behind them.

        Newest tokens that follow each other attend together, unless each shall be computed `alone` (so that its bits do
        not depend on its neighbours), by torch's own attention.
        """
        device, tables_BW = self.keys.device, runtime.sent(tables_of(spans), self.keys.device)
        cells = [cell for span in spans for cell in span.cells]
        positions = [position for span in spans for position in span.positions]
        positions_N, cells_N = runtime.sent(torch.tensor([positions, cells]), device).unbind()
        groups, newest = self._groups(spans, tables_BW, alone), None if alone else self.newest
        layers = [
            LayerCache(keys, values, cells_N, positions_N, groups, newest)
            for keys, values in zip(self.keys, self.values, strict=True)
        ]
        none_1N = torch.arange(len(cells_N) + padding, device=device)[None] >= len(cells_N)
        return CachePass(F.pad(positions_N, (0, padding))[None], none_1N, layers)

    def _groups(self, spans: Sequence[Span], tables_BW: Tensor, alone: bool) -> list[Group]:
        groups: list[Group] = []
        token = 0
        kinds = groupby(range(len(spans)), lambda i: i if alone or spans[i].end - spans[i].start > 1 else -1)
        for _, members in kinds:
            first, *others = members
            together = spans[first : first + 1 + len(others)]
            tokens = sum(span.end - span.start for span in together)
            extent = max(span.end for span in together)
            tables = tables_BW[first : first + len(together), : pages_of(extent)]
            groups.append(Group(slice(token, token + tokens), tables, extent, self._mask(together, extent)))
            token += tokens
        return groups

    def _mask(self, spans: Sequence[Span], extent: int) -> Tensor | None:
        device = self.keys.device
        slots = torch.arange(extent, device=device)
        if len(spans) > 1:
            return (slots < runtime.sent(torch.tensor([[span.end] for span in spans]), device))[:, None, None]
        (span,) = spans
        if span.start == 0 or span.end - span.start == 1:
            return None
        return slots <= torch.arange(span.start, span.end, device=device)[:, None]
