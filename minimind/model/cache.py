"""The key/value cache of generation: what attention would otherwise recompute for every new token.

One pass through the model takes a flat list of tokens that may belong to many sequences: the newest token of some, a
stretch of the prompt of others. Nothing is padded. Letters: N tokens of a pass, H query heads, K key/value heads, D
head_dim, B sequences that attend together, S slots of the cache that they look at.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from minimind import runtime
from minimind.config import ModelConfig
from minimind.model.attend import masked_attention


class Span(NamedTuple):
    """The tokens at positions `start` to `end - 1` of the sequence that lives in cache row `row`."""

    row: int
    start: int
    end: int


class Group(NamedTuple):
    """Tokens of a pass that attend together: `tokens` of the N, to the first `extent` slots of `rows`."""

    tokens: slice
    rows: slice
    extent: int
    mask: Tensor | None
    """True = may see: `[rows, 1, 1, extent]` for one token a row, `[tokens, extent]` for a stretch of one row; None
    where everything (one token) or everything up to itself (a stretch from position 0) is seen."""


class LayerCache(NamedTuple):
    """One layer's share in a pass: `keys` and `values` `[rows, K, length, D]`."""

    keys: Tensor
    values: Tensor
    cells: tuple[Tensor, Tensor]
    """Row and slot of each token that is not padding."""
    groups: list[Group]

    def attend(self, q_1NHD: Tensor, k_1NKD: Tensor, v_1NKD: Tensor) -> Tensor:
        """Write keys and values of the pass, then attend to all of each sequence: `[1, N, H, D]`, 0 for padding."""
        q_NHD, k_NKD, v_NKD = q_1NHD[0], k_1NKD[0], v_1NKD[0]
        rows, slots = self.cells
        self.keys[rows, :, slots] = k_NKD[: len(rows)].to(self.keys.dtype)
        self.values[rows, :, slots] = v_NKD[: len(rows)].to(self.values.dtype)
        out_NHD = torch.zeros_like(q_NHD)
        for group in self.groups:
            q = q_NHD[group.tokens]
            k_BKSD, v_BKSD = (x[group.rows, :, : group.extent].to(q.dtype) for x in (self.keys, self.values))
            if len(q) == len(k_BKSD):
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
    """`[rows, K, length, D]`."""
    rows_N: Tensor
    slots_N: Tensor
    """Where each token goes. Copies of a token may follow it, as padding: they write the same."""
    visible_N11S: Tensor
    """True = the token may see the slot."""

    def attend(self, q_1NHD: Tensor, k_1NKD: Tensor, v_1NKD: Tensor) -> Tensor:
        """Write keys and values of the tokens, then attend to what each may see: `[1, N, H, D]`."""
        q_NHD, k_NKD, v_NKD = q_1NHD[0], k_1NKD[0], v_1NKD[0]
        self.keys[self.rows_N, :, self.slots_N] = k_NKD.to(self.keys.dtype)
        self.values[self.rows_N, :, self.slots_N] = v_NKD.to(self.values.dtype)
        extent = self.visible_N11S.shape[-1]
        k_NKSD, v_NKSD = (x[:, :, :extent].index_select(0, self.rows_N) for x in (self.keys, self.values))
        q_NKGD = q_NHD.unflatten(1, (k_NKSD.shape[1], -1))
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
    """Preallocated `[layers, rows, K, length, D]`; slot s of a row holds position s of a sequence."""

    def __init__(self, config: ModelConfig, rows: int, length: int, dtype: torch.dtype, device: torch.device | str):
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, length, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)

    def release(self) -> None:
        """Give its memory back until `resume`."""
        for store in (self.keys, self.values):
            store.untyped_storage().resize_(0)

    def resume(self) -> None:
        """Take the memory again, empty."""
        for store in (self.keys, self.values):
            store.untyped_storage().resize_(store.numel() * store.itemsize)
            store.zero_()

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` to row `target`."""
        for store in (self.keys, self.values):
            store[:, target, :, :length] = store[:, source, :, :length]

    def read(self, spans: Sequence[Span], padding: int = 0, alone: bool = False) -> CachePass:
        """A pass over the tokens of `spans`, in this order, and `padding` behind them.

        Newest tokens of sequences in consecutive rows attend together, unless each shall be computed `alone` (so that
        its bits do not depend on its neighbours).
        """
        device = self.keys.device
        cells = [(span.row, position) for span in spans for position in range(span.start, span.end)]
        rows_N, slots_N = runtime.sent(torch.tensor(cells), device).unbind(1)
        groups, pairs = self._groups(spans, alone), zip(self.keys, self.values, strict=True)
        layers = [LayerCache(keys, values, (rows_N, slots_N), groups) for keys, values in pairs]
        none_1N = torch.arange(len(cells) + padding, device=device)[None] >= len(cells)
        return CachePass(F.pad(slots_N, (0, padding))[None], none_1N, layers)

    def _groups(self, spans: Sequence[Span], alone: bool) -> list[Group]:
        groups, token, i = [], 0, 0
        while i < len(spans):
            first = last = spans[i]
            i += 1
            together = [first]
            if first.end - first.start == 1 and not alone:
                while i < len(spans) and spans[i].row == last.row + 1 and spans[i].end - spans[i].start == 1:
                    together.append(last := spans[i])
                    i += 1
            tokens = sum(span.end - span.start for span in together)
            extent = max(span.end for span in together)
            groups.append(
                Group(
                    slice(token, token + tokens), slice(first.row, last.row + 1), extent, self._mask(together, extent)
                )
            )
            token += tokens
        return groups

    def _mask(self, spans: list[Span], extent: int) -> Tensor | None:
        device = self.keys.device
        slots = torch.arange(extent, device=device)
        if len(spans) > 1:
            return (slots < runtime.sent(torch.tensor([[span.end] for span in spans]), device))[:, None, None]
        (span,) = spans
        if span.start == 0 or span.end - span.start == 1:
            return None
        return slots <= torch.arange(span.start, span.end, device=device)[:, None]
