"""Who sees whom, and the kernel that computes it: attention over packed documents.

    Segments      a batch of documents, one after the other in rows; some may branch
    Layout        the same, made ready for one of four kernels: products, torch's own, document by document, varlen

Sequences that grow token by token are in `model/cache.py`. Shape letters: B rows, T query positions, S key positions, H
query heads, K key/value heads, G = H / K, D head_dim.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from minimind import runtime
from minimind.model.document_attention import attend_documents

PRODUCTS_UP_TO, BLOCK = 1024, 256
"""Rows of up to so many tokens are trained on a CPU by plain products, so many queries at a time: the backward pass
of the CPU's flash kernel takes up to twice as long. Longer rows are computed document by document."""


class LayerAttention(Protocol):
    """What a layer computes with: it knows who sees whom."""

    def attend(self, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        """Softmax(q · kᵀ / √D) · v over what each token may see; returns `[B, T, H, D]`."""


class AttentionOf(Protocol):
    """What a forward pass is given beside its token ids `[B, T]`."""

    @property
    def positions(self) -> Tensor:
        """Where each token stands in its sequence, int64 `[B, T]`."""

    @property
    def padding(self) -> Tensor:
        """True where there is no token, `[B, T]`."""

    @property
    def repeats(self) -> bool:
        """Whether other passes have these shapes, so that compiling is worth it."""

    def of_layers(self, layers: int, dtype: torch.dtype) -> Sequence[LayerAttention]:
        """Each layer's, for queries and keys of `dtype`."""


class Segments(NamedTuple):
    """Which document each token of a batch belongs to and where in it: all `[B, T]`.

    `document_ids` (int32): tokens of a row with equal ids form one document, contiguous; -1 is padding.
    `positions` (int64): from 0 in each document.
    `branches` (uint8), if a document goes on in several ways from one beginning: 0 there, then 1, 2, ... in each; the
    positions of each go on from where the beginning ends, and no branch sees another.
    `host_ids`: `document_ids` in the host's memory, where they can be looked at without waiting for the device.
    """

    document_ids: Tensor
    positions: Tensor
    branches: Tensor | None = None
    host_ids: Tensor | None = None

    @property
    def padding(self) -> Tensor:
        """True where there is no token, `[B, T]`."""
        return self.document_ids < 0

    @property
    def repeats(self) -> bool:
        """Batches have the same shape again and again."""
        return True

    def of_layers(self, layers: int, dtype: torch.dtype) -> Sequence["Layout"]:
        """The layout of the documents, made once and shared by all layers."""
        return [make_layout(self, dtype)] * layers

    @classmethod
    def whole(cls, input_ids_BT: Tensor) -> "Segments":
        """One document a row, no padding."""
        rows, length = input_ids_BT.shape
        return cls.right_padded(torch.full((rows,), length), length, input_ids_BT.device)

    @classmethod
    def right_padded(cls, lengths_B: Tensor, length: int, device: torch.device) -> "Segments":
        """One document a row, padded at the right to `length`; padding has document id -1. `lengths_B`: the host's."""
        positions = torch.arange(length).expand(len(lengths_B), length)
        ids = torch.where(positions < lengths_B[:, None], 0, -1).int()
        return cls(runtime.sent(ids, device), runtime.sent(positions, device), host_ids=ids)


class Layout(NamedTuple):
    """Documents made ready for a kernel.

    One of `mask` `[B, 1, T, S]` (boolean: True = may see; or a bias: 0 = may see, -inf = may not), `documents` for
    CUDA's variable-length kernel, and `document_ids` `[B, T]` for long rows on a CPU (`document_attention`).
    """

    mask: Tensor | None
    documents: "Documents | None" = None
    document_ids: Tensor | None = None

    def attend(self, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor) -> Tensor:
        """Softmax(q · kᵀ / √D) · v over what each token may see; returns `[B, T, H, D]`."""
        return attend(q_BTHD, k_BTKD, v_BTKD, self)


class Documents(NamedTuple):
    """Where documents lie in the flattened batch. Both sizes are powers of two, so that shapes hardly ever change."""

    starts: Tensor
    """int32 `[documents + 1]`; behind the last document come empty ones, which start where the batch ends."""
    longest: int
    """No document has more tokens."""

    @classmethod
    def found(cls, host_ids_BT: Tensor, device: torch.device) -> "Documents":
        """Look for them on the host: the device could not say how many there are without being waited for."""
        ids = host_ids_BT.numpy()
        first = np.ones(ids.shape, bool)
        first[:, 1:] = ids[:, 1:] != ids[:, :-1]
        begins = np.flatnonzero(first)
        starts = np.full(_power_of_two(len(begins)) + 1, ids.size, np.int32)
        starts[: len(begins)] = begins
        longest = _power_of_two(int(np.diff(begins, append=ids.size).max()))
        return cls(runtime.sent(torch.from_numpy(starts), device), longest)


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()


def make_layout(segments: Segments, dtype: torch.dtype) -> Layout:
    """Describe who sees whom: a token sees its own document (and branch of it) up to itself.

    Without branches, on CUDA (Ampere or newer) in a 16-bit `dtype` the layout is that of the flash kernel of
    `torch.nn.attention.varlen`, which skips whatever lies outside a document; it needs a GPU to be exercised.
    """
    document_ids = segments.document_ids
    half = dtype in (torch.bfloat16, torch.float16)
    flash = document_ids.is_cuda and half and segments.branches is None and segments.host_ids is not None
    if flash and torch.cuda.get_device_capability(document_ids.device) >= (8, 0):
        assert segments.host_ids is not None
        return Layout(None, Documents.found(segments.host_ids, document_ids.device))
    if document_ids.device.type == "cpu" and document_ids.shape[1] > PRODUCTS_UP_TO and segments.branches is None:
        return Layout(None, document_ids=document_ids)
    # Padding sees padding, so that no row of the softmax is empty.
    visible = (document_ids[:, :, None] == document_ids[:, None, :]).tril()
    if segments.branches is not None:
        by_B1T, of_BT1 = segments.branches[:, None, :], segments.branches[:, :, None]
        visible &= (by_B1T == 0) | (by_B1T == of_BT1)
    visible = visible[:, None]
    return Layout(torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -math.inf))


def blocks_of_products(length: int) -> float:
    """Into how many blocks training on a CPU cuts the queries of a row; 0: such rows are computed another way."""
    return max(1.0, length / BLOCK) if length <= PRODUCTS_UP_TO else 0.0


def attend(q_BTHD: Tensor, k_BSKD: Tensor, v_BSKD: Tensor, layout: Layout) -> Tensor:
    """Softmax(q · kᵀ / √D) · v over what `layout` lets each token see; returns `[B, T, H, D]`.

    The heads of a group share their key/value head without a copy of it.
    """
    if layout.documents is not None:
        return _attend_varlen(q_BTHD, k_BSKD, v_BSKD, *layout.documents)
    if layout.document_ids is not None:
        out_BTHD: Tensor = attend_documents(q_BTHD, k_BSKD, v_BSKD, layout.document_ids)
        return out_BTHD
    q_BHTD, k_BKSD, v_BKSD = q_BTHD.transpose(1, 2), k_BSKD.transpose(1, 2), v_BSKD.transpose(1, 2)
    if q_BTHD.device.type == "cpu" and q_BTHD.requires_grad and q_BTHD.shape[1] <= PRODUCTS_UP_TO:
        assert layout.mask is not None
        return _attend_products(q_BHTD, k_BKSD, v_BKSD, layout.mask).transpose(1, 2)
    return masked_attention(q_BHTD, k_BKSD, v_BKSD, layout.mask, causal=False).transpose(1, 2)


def masked_attention(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """torch's attention of grouped heads, by a kernel that does not hold all scores; `causal` only without a mask."""
    if q_BHTD.is_cuda and mask is not None:
        # With a mask and grouped heads CUDA has only the kernel that holds all scores; a copy of the keys is small.
        group = q_BHTD.shape[1] // k_BKSD.shape[1]
        k_BKSD, v_BKSD = (x.repeat_interleave(group, 1) for x in (k_BKSD, v_BKSD))
    return F.scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, attn_mask=mask, is_causal=causal, enable_gqa=True)


def _attend_products(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, bias: Tensor) -> Tensor:
    """The definition, block by block of queries: what comes after a block's last query is never multiplied."""
    rows, head_dim = len(q_BHTD), q_BHTD.shape[-1]
    out: list[Tensor] = []
    for q_BHMD, bias_B1MS in zip(q_BHTD.split(BLOCK, 2), bias.split(BLOCK, 2), strict=True):
        seen = sum(block.shape[2] for block in out) + q_BHMD.shape[2]
        k, v, bias_B11MS = k_BKSD[:, :, :seen], v_BKSD[:, :, :seen], bias_B1MS[:, :, None, :, :seen]
        q_BKRD = (q_BHMD * head_dim**-0.5).reshape(rows, k.shape[1], -1, head_dim)  # R = G · M: a group shares its keys
        scores_BKGMS = (q_BKRD @ k.mT).unflatten(2, (-1, q_BHMD.shape[2])) + bias_B11MS
        weights_BKRS = scores_BKGMS.softmax(-1).flatten(2, 3)
        out.append((weights_BKRS @ v).view(q_BHMD.shape))
    return torch.cat(out, dim=2)


def _attend_varlen(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, starts: Tensor, longest: int) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x.flatten(0, 1) for x in (q_BTHD, k_BTKD, v_BTKD))
    out = varlen_attn(q, k, v, starts, starts, longest, longest, window_size=(-1, 0), **runtime.grouped_heads())
    assert isinstance(out, Tensor)  # a pair only where the log-sum-exp is asked for too
    return out.view_as(q_BTHD)
