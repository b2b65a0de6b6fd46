"""Grouped-query attention (Ainslie et al. 2023) with QK-norm, over packed documents.

Shape letters: B rows, T query positions, S key positions, H query heads, K key/value heads, G = H / K, D head_dim.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minimind import runtime
from minimind.config import ModelConfig
from minimind.model.cache import FixedCache, LayerCache
from minimind.model.document_attention import attend_documents
from minimind.model.linear import Linear
from minimind.model.norm import RMSNorm
from minimind.model.rope import Rotation, rotate

PRODUCTS_UP_TO, BLOCK = 1024, 256
"""Rows of up to so many tokens are trained on a CPU by plain products, so many queries at a time: the backward pass
of the CPU's flash kernel takes up to twice as long. Longer rows are computed document by document."""


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
    """What `attend` needs to know of the documents, made once a forward pass and shared by all layers.

    One of `mask` `[B, 1, T, S]` (boolean: True = may see; or a bias: 0 = may see, -inf = may not), `documents` for
    CUDA's variable-length kernel, and `document_ids` `[B, T]` for long rows on a CPU (`document_attention`).
    """

    mask: Tensor | None
    documents: "Documents | None" = None
    document_ids: Tensor | None = None


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
    if q_BTHD.is_cuda and layout.mask is not None:
        # With a mask and grouped heads CUDA has only the kernel that holds all scores; a copy of the keys is small.
        group = q_BHTD.shape[1] // k_BKSD.shape[1]
        k_BKSD, v_BKSD = (x.repeat_interleave(group, 1) for x in (k_BKSD, v_BKSD))
    out = F.scaled_dot_product_attention(q_BHTD, k_BKSD, v_BKSD, attn_mask=layout.mask, enable_gqa=True)
    return out.transpose(1, 2)


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


class Attention(nn.Module):
    """Project to queries, keys and values, norm and rotate the first two, attend, project back."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim = config.head_dim
        hidden, bias = config.hidden_size, config.attention_bias
        queries = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        self.q_proj = Linear(hidden, queries, bias=bias)
        self.k_proj = Linear(hidden, keys, bias=bias)
        self.v_proj = Linear(hidden, keys, bias=bias)
        self.o_proj = Linear(queries, hidden, bias=bias)
        # QK-norm (Henry et al. 2020), one weight for all heads: bounds the attention logits.
        self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(
        self,
        x_BTC: Tensor,
        rotation: Rotation,
        layout: Layout | None,
        cache: LayerCache | FixedCache | None = None,
    ) -> Tensor:
        """Return `[B, T, hidden]`; with a cache (and B = 1), keys and values of earlier passes are seen too."""
        rows, time, _ = x_BTC.shape
        heads = (rows, time, -1, self.head_dim)
        q = rotate(self.q_norm(self.q_proj(x_BTC).view(heads)), rotation)
        k = rotate(self.k_norm(self.k_proj(x_BTC).view(heads)), rotation)
        v = self.v_proj(x_BTC).view(heads)
        if cache is not None:
            out = cache.attend(q[0], k[0], v[0])
        else:
            assert layout is not None
            out = attend(q, k, v, layout)
        return self.o_proj(out.reshape(rows, time, -1))
