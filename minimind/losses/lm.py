"""Cross-entropy of a language model without ever holding all logits.

With 6,400 to 150,000 words, logits `[tokens, vocab]` in float32 and their gradient are by far the largest tensors of
a training step. Here a chunk of tokens is projected, its loss *and its gradient* computed, and its logits
dropped before the next (as Liger Kernel does, Hsu et al. 2024). Letters: N tokens, C hidden, V vocabulary.
"""

import math
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minimind import runtime

CHUNK = 1024
"""Rows of logits that exist at a time."""
IGNORE = -100
"""Label of a position that is not supervised (torch's convention)."""


def rows_of_logits(positions: int) -> int:
    """How many rows of logits exist at a time in a batch of so many positions."""
    return min(CHUNK, positions)


def linear_cross_entropy(
    states_NC: Tensor,
    weight_VC: Tensor,
    labels_N: Tensor,
    chunk: int = CHUNK,
    compiled: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Sum of -log softmax(states · weightᵀ)[label] over labels other than -100: a float32 scalar.

    Divide by your count of supervised tokens. Products are taken in autocast's dtype where it is on, else in that of
    `states`; softmax in float32. At most `chunk` rows of logits exist at a time. `compiled` fuses the
    element-wise work on them with `torch.compile`. `sparse`: many labels are -100, and their rows are left out; the
    labels should then be the host's (`labelled_rows`).
    """
    states_NC, labels_N = states_NC.flatten(0, -2), labels_N.flatten()
    if sparse:
        rows_M, labels_N = labelled_rows(labels_N, chunk, states_NC.device)
        states_NC = states_NC[rows_M]
    if torch.is_grad_enabled() and (states_NC.requires_grad or weight_VC.requires_grad):
        return _LinearCrossEntropy.apply(states_NC, weight_VC, labels_N, chunk, compiled)
    return token_nll(states_NC, weight_VC, labels_N, chunk).sum()


@torch.no_grad()
def token_nll(states_NC: Tensor, weight_VC: Tensor, labels_N: Tensor, chunk: int = CHUNK) -> Tensor:
    """Negative log-likelihood (nats) of each label, float32 `[N]`, 0 where it is -100; no gradient."""
    states_NC, labels_N = states_NC.flatten(0, -2), labels_N.flatten()
    dtype = compute_dtype(states_NC)
    weight = weight_VC.to(dtype)
    pairs = zip(states_NC.split(chunk), labels_N.split(chunk), strict=True)
    return torch.cat([_nll(wide(s.to(dtype) @ weight.t()), labels)[0] for s, labels in pairs])


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, labels: Tensor, chunk: int, compiled: bool) -> Tensor:
        dtype = compute_dtype(states)
        weight_VC = weight.to(dtype)
        run = _compiled_chunk() if compiled else chunk_gradients
        trained = ctx.needs_input_grad[1]  # not under LoRA: its product is a third of the work here
        total = torch.zeros((), dtype=torch.promote_types(dtype, torch.float32), device=states.device)
        d_states = torch.empty_like(states)
        d_weight = torch.zeros_like(weight) if trained else None
        for start in range(0, len(states), chunk):
            rows = slice(start, start + chunk)
            loss, d_rows, d_weight_VC = run(states[rows].to(dtype), weight_VC, labels[rows], trained)
            total += loss
            d_states[rows] = d_rows
            if d_weight is not None and d_weight_VC is not None:
                d_weight += d_weight_VC
        ctx.save_for_backward(d_states, d_weight)
        return total

    @staticmethod
    def backward(ctx: Any, d_total: Tensor) -> Any:
        d_states, d_weight = ctx.saved_tensors
        return d_states * d_total, None if d_weight is None else d_weight * d_total, None, None, None


def chunk_gradients(
    states_NC: Tensor, weight_VC: Tensor, labels_N: Tensor, weight_too: bool = True
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Loss of a chunk and its gradients: d loss / d logits = softmax(logits) - onehot(label), 0 where unsupervised."""
    logits_NV = wide(states_NC @ weight_VC.t())
    nll_N, lse_N = _nll(logits_NV, labels_N)
    words = torch.arange(logits_NV.shape[1], device=labels_N.device)
    onehot_NV = (words == labels_N[:, None]).to(logits_NV.dtype)
    supervised = (labels_N != IGNORE)[:, None]
    d_logits_NV = (((logits_NV - lse_N[:, None]).exp() - onehot_NV) * supervised).to(states_NC.dtype)
    return nll_N.sum(), d_logits_NV @ weight_VC, d_logits_NV.t() @ states_NC if weight_too else None


@cache
def _compiled_chunk() -> Any:
    return torch.compile(chunk_gradients)


def _nll(logits_NV: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    lse_N = logits_NV.logsumexp(-1)
    supervised = labels_N != IGNORE
    label_logit_N = logits_NV.gather(1, labels_N.where(supervised, 0)[:, None]).squeeze(1)
    return (lse_N - label_logit_N).where(supervised, 0), lse_N


def labelled_rows(labels_N: Tensor, chunk: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Indices, on `device`, of the rows that have a label and, to fill their last chunk, of some that have none; and
    their labels.

    The host must know their number, so `labels_N` should lie there: a device would have to be waited for.

    In whole chunks, because a new number of rows is dear: the CPU's matrix library keeps buffers for each that it has
    seen (a distillation grew by 80 MB a step), and a compiled program may be for one alone.
    """
    labels = labels_N.cpu().numpy()
    chunks = math.ceil(np.count_nonzero(labels != IGNORE) / chunk)
    rows_M = (labels == IGNORE).argsort(kind="stable")[: chunks * chunk]
    index_M, labels_M = (runtime.sent(torch.from_numpy(array), device) for array in (rows_M, labels[rows_M]))
    return index_M, labels_M


def wide(logits: Tensor) -> Tensor:
    """At least float32: a sum over the vocabulary needs more than bfloat16's 8 bits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def compute_dtype(states: Tensor) -> torch.dtype:
    """Of the product with the vocabulary: autocast's where it is on."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
