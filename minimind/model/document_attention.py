"""Attention over packed documents on a CPU, window by window: its time does not grow with the row they are packed in.

A kernel that is given a mask multiplies all T² pairs of a row and throws away those across documents. In a row of 8,192
tokens with documents of 250, that is 97 % of them. Here a row is cut where documents end, into windows of at most 256
tokens or one longer document, and each window is computed by the definition:

    P = softmax(Q Kᵀ / √D + bias)      O = P V      bias: 0 = may see, -inf = may not
    dV = Pᵀ dO     dP = dO Vᵀ     dS = P ∘ (dP - rowsum(P ∘ dP))     dQ = dS K / √D     dK = dSᵀ Q / √D

P is computed again for the gradient instead of kept (FlashAttention, Dao et al. 2022), block by block of queries, so
memory does not grow with T² either. Two custom operators, so that `torch.compile` calls them and looks no further.

Shape letters as in `attend.py`; M queries of a block, W keys of a window up to the block's end.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 256
"""Tokens of a window at most, unless a document is longer, and queries at a time: fewer make products too small, more
multiply too many pairs that are masked."""


class Block(NamedTuple):
    """Queries `first` to `end - 1` of row `row`, and their keys from `start` to `end - 1`."""

    row: int
    start: int
    first: int
    end: int


def blocks(document_ids_BT: Tensor) -> Iterator[Block]:
    """Cut rows into windows between documents, and windows into blocks of queries.

    Padding (-1), which nobody reads, is no long document: it is cut anywhere.
    """
    rows, length = document_ids_BT.shape
    begins_BT = torch.ones_like(document_ids_BT, dtype=torch.bool)
    begins_BT[:, 1:] = document_ids_BT[:, 1:] != document_ids_BT[:, :-1]
    begins_BT |= (document_ids_BT < 0) & (torch.arange(length) % BLOCK == 0)
    for row in range(rows):
        start = 0
        cuts = [*begins_BT[row].nonzero().flatten().tolist(), length]
        for cut, following in zip(cuts[1:], [*cuts[2:], math.inf], strict=True):
            if following - start > BLOCK:  # with the next document it would be too long
                yield from (Block(row, start, x, min(x + BLOCK, cut)) for x in range(start, cut, BLOCK))
                start = cut


def probabilities(q_MHD: Tensor, k_WKD: Tensor, document_ids_W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of one block: scaled queries `[K, G·M, D]`, keys `[K, W, D]`, and P `[K, G·M, W]`."""
    (queries, _, head_dim), window = q_MHD.shape, len(k_WKD)
    q_KRD = (q_MHD * head_dim**-0.5).transpose(0, 1).reshape(k_WKD.shape[1], -1, head_dim)  # a group shares its keys
    k_KWD = k_WKD.transpose(0, 1)
    seen_MW = document_ids_W[window - queries :, None] == document_ids_W
    seen_MW = seen_MW.tril_(window - queries)
    bias_MW = torch.zeros(queries, window, dtype=q_MHD.dtype).masked_fill_(~seen_MW, -math.inf)
    scores_KGMW = (q_KRD @ k_KWD.mT).unflatten(1, (-1, queries)).add_(bias_MW)
    return q_KRD, k_KWD, scores_KGMW.softmax(-1).flatten(1, 2)


@torch.library.custom_op("minimind::attend_documents", mutates_args=())
def attend_documents(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, document_ids_BT: Tensor) -> Tensor:
    """Softmax(q · kᵀ / √D) · v, in which a token sees its own document up to itself: `[B, T, H, D]`.

    `document_ids_BT`: equal and consecutive within a document; -1 is padding, which sees some padding.
    """
    out_BTHD = torch.empty_like(q_BTHD, memory_format=torch.contiguous_format)
    for row, start, first, end in blocks(document_ids_BT):
        q_MHD, keys = q_BTHD[row, first:end], slice(start, end)
        _, _, p_KRW = probabilities(q_MHD, k_BTKD[row, keys], document_ids_BT[row, keys])
        o_KRD = p_KRW @ v_BTKD[row, keys].transpose(0, 1)
        out_BTHD[row, first:end] = o_KRD.reshape(q_MHD.transpose(0, 1).shape).transpose(0, 1)
    return out_BTHD


@attend_documents.register_fake
def _(q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, document_ids_BT: Tensor) -> Tensor:
    return torch.empty_like(q_BTHD, memory_format=torch.contiguous_format)


@torch.library.custom_op("minimind::attend_documents_backward", mutates_args=())
def attend_documents_backward(
    gradient_BTHD: Tensor, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, document_ids_BT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the loss by q, k and v."""
    dq_BTHD, dk_BTKD, dv_BTKD = _like(torch.zeros_like, q_BTHD, k_BTKD, v_BTKD)
    for row, start, first, end in blocks(document_ids_BT):
        q_MHD, keys = q_BTHD[row, first:end], slice(start, end)
        q_KRD, k_KWD, p_KRW = probabilities(q_MHD, k_BTKD[row, keys], document_ids_BT[row, keys])
        do_KRD = gradient_BTHD[row, first:end].transpose(0, 1).reshape(q_KRD.shape)
        dv_BTKD[row, keys] += (p_KRW.mT @ do_KRD).transpose(0, 1)
        dp_KRW = do_KRD @ v_BTKD[row, keys].permute(1, 2, 0)
        ds_KRW = torch._softmax_backward_data(dp_KRW, p_KRW, -1, p_KRW.dtype)
        dk_BTKD[row, keys] += (ds_KRW.mT @ q_KRD).transpose(0, 1)
        dq_KRD = (ds_KRW @ k_KWD).mul_(q_MHD.shape[-1] ** -0.5)
        dq_BTHD[row, first:end] = dq_KRD.reshape(q_MHD.transpose(0, 1).shape).transpose(0, 1)
    return dq_BTHD, dk_BTKD, dv_BTKD


@attend_documents_backward.register_fake
def _(
    gradient_BTHD: Tensor, q_BTHD: Tensor, k_BTKD: Tensor, v_BTKD: Tensor, document_ids_BT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return _like(torch.empty_like, q_BTHD, k_BTKD, v_BTKD)


def _like(make: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (make(x, memory_format=torch.contiguous_format) for x in (q, k, v))
    return dq, dk, dv


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient_BTHD: Tensor) -> tuple[Tensor | None, ...]:
    return *attend_documents_backward(gradient_BTHD, *ctx.saved_tensors), None


attend_documents.register_autograd(_backward, setup_context=_keep)
