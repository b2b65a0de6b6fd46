"""The key/value cache of generation: what attention would otherwise recompute for every new token."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minimind.config import ModelConfig


class LayerCache(NamedTuple):
    """One layer's share: `keys` and `values` `[rows, slots, kv_heads, head_dim]` (views, head-major in memory)."""

    keys: Tensor
    values: Tensor
    rows: Tensor
    """`[rows, 1]`: 0, 1, 2 ..., to address (row, slot) pairs."""
    extent: int

    def update(self, k_BTKD: Tensor, v_BTKD: Tensor, positions_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """Write each token at its position; return keys and values of the first `extent` slots."""
        self.keys[self.rows, positions_BT] = k_BTKD.to(self.keys.dtype)
        self.values[self.rows, positions_BT] = v_BTKD.to(self.values.dtype)
        keys, values = self.keys[:, : self.extent], self.values[:, : self.extent]
        return keys.to(k_BTKD.dtype), values.to(k_BTKD.dtype)


class KVCache:
    """Preallocated `[layers, rows, kv_heads, length, head_dim]`; slot s of a row holds its position s.

    Padding is at the right: a padded slot lies beyond every real position of its row, so it is never seen, and the
    next real token overwrites it. `extent` is how many slots attention looks at: raise it to (highest
    position + 1) before a forward pass; it is a number on the host so that reading it costs no synchronisation.
    """

    def __init__(self, config: ModelConfig, rows: int, length: int, dtype: torch.dtype, device: torch.device | str):
        shape = (config.num_hidden_layers, rows, config.num_key_value_heads, length, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.extent = length

    @property
    def rows(self) -> int:
        """How many sequences it holds."""
        return self.keys.shape[1]

    @property
    def length(self) -> int:
        """How many positions a row has room for."""
        return self.keys.shape[3]

    def layers(self) -> list[LayerCache]:
        """Return the view that each layer reads and writes."""
        rows = torch.arange(self.rows, device=self.keys.device)[:, None]
        pairs = zip(self.keys.transpose(2, 3), self.values.transpose(2, 3), strict=True)
        return [LayerCache(k, v, rows, self.extent) for k, v in pairs]

    def select(self, rows: Sequence[int]) -> "KVCache":
        """Keep `rows`, in this order, as a view of the first `len(rows)` rows; the others' memory is reused.

        Only rows that change their place are copied.
        """
        target = [i for i, row in enumerate(rows) if row != i]
        if target:
            source = [rows[i] for i in target]
            self.keys[:, target] = self.keys[:, source]
            self.values[:, target] = self.values[:, source]
        kept = object.__new__(KVCache)
        kept.keys, kept.values, kept.extent = self.keys[:, : len(rows)], self.values[:, : len(rows)], self.extent
        return kept
