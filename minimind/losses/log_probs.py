"""Log-probability of every token under a model, with a gradient, without ever holding all logits.

What preference and policy losses are made of: they need each token's log-probability by itself, not the sum. The
gradient is not known before the loss is, so the backward pass projects each chunk of tokens a second time. With
z = logits / temperature, p = softmax(z) and the entropy H = -Σ p log p:

    d log p_label / dz = onehot(label) - p          dH / dz = -p (log p + H)

Letters: N tokens, C hidden, V vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minimind.losses.lm import CHUNK, IGNORE, compute_dtype, wide


class LogProbs(NamedTuple):
    """Both shaped like the labels, in float32, 0 where the label is -100."""

    log_probs: Tensor
    """Nats."""
    entropy: Tensor
    """Of the distribution that the token was drawn from, in nats."""


Keep = Callable[[Tensor], Tensor]
"""From probabilities [N, V] to True where a token may be drawn: top-k, top-p and the like."""


def token_log_probs(
    states: Tensor,
    weight_VC: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    chunk: int = CHUNK,
    keep: Keep | None = None,
) -> LogProbs:
    """Score `labels` [...] given the last hidden `states` [..., C]: log softmax(states · weightᵀ / temperature)[label].

    With `keep` the softmax is over the tokens that it leaves (and the label, so that what was drawn under other weights
    stays possible): the distribution of a sampler that filters. Which tokens those are counts as a constant.

    Differentiable in `states` and `weight_VC`. Positions whose label is -100 are not even projected. Products are taken
    in autocast's dtype where it is on, else in that of `states`; softmax in float32.
    """
    scored = labels != IGNORE
    log_probs_N, entropy_N = _TokenLogProbs.apply(states[scored], weight_VC, labels[scored], temperature, chunk, keep)
    empty = torch.zeros(labels.shape, dtype=log_probs_N.dtype, device=labels.device)
    return LogProbs(empty.masked_scatter(scored, log_probs_N), empty.masked_scatter(scored, entropy_N))


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_NC: Tensor,
        weight: Tensor,
        labels_N: Tensor,
        temperature: float,
        chunk: int,
        keep: Keep | None,
    ) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(states_NC)
        weight_VC = weight.to(dtype)
        ctx.save_for_backward(states_NC, weight, labels_N)
        ctx.temperature, ctx.chunk, ctx.dtype, ctx.keep = temperature, chunk, dtype, keep
        log_probs_N = states_NC.new_empty(len(labels_N), dtype=torch.promote_types(dtype, torch.float32))
        entropy_N = torch.empty_like(log_probs_N)
        for start in range(0, len(labels_N), chunk):
            rows = slice(start, start + chunk)
            logp_NV = _log_softmax(states_NC[rows].to(dtype), weight_VC, labels_N[rows], temperature, keep)
            log_probs_N[rows] = logp_NV.gather(1, labels_N[rows, None]).squeeze(1)
            entropy_N[rows] = -_weighted(logp_NV.exp(), logp_NV).sum(1)
        return log_probs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, d_log_probs_N: Tensor, d_entropy_N: Tensor) -> Any:
        states_NC, weight, labels_N = ctx.saved_tensors
        weight_VC = weight.to(ctx.dtype)
        trained = ctx.needs_input_grad[1]  # not under LoRA: its product is a third of the work here
        d_states_NC, d_weight_VC = torch.empty_like(states_NC), torch.zeros_like(weight) if trained else None
        for start in range(0, len(labels_N), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            chunk_NC = states_NC[rows].to(ctx.dtype)
            logp_NV = _log_softmax(chunk_NC, weight_VC, labels_N[rows], ctx.temperature, ctx.keep)
            p_NV = logp_NV.exp()
            d_logits_NV = -p_NV * d_log_probs_N[rows, None]
            d_logits_NV.scatter_add_(1, labels_N[rows, None], d_log_probs_N[rows, None])
            if d_entropy_N.any():
                entropy_N1 = -_weighted(p_NV, logp_NV).sum(1, keepdim=True)
                d_logits_NV -= _weighted(p_NV, logp_NV + entropy_N1) * d_entropy_N[rows, None]
            d_logits_NV = (d_logits_NV / ctx.temperature).to(ctx.dtype)
            d_states_NC[rows] = d_logits_NV @ weight_VC
            if d_weight_VC is not None:
                d_weight_VC += d_logits_NV.t() @ chunk_NC
        return d_states_NC, d_weight_VC, None, None, None, None


def _log_softmax(
    states_NC: Tensor, weight_VC: Tensor, labels_N: Tensor, temperature: float, keep: Keep | None
) -> Tensor:
    logp_NV = (wide(states_NC @ weight_VC.t()) / temperature).log_softmax(-1)
    if keep is None:
        return logp_NV
    kept_NV = keep(logp_NV.exp()).scatter(1, labels_N[:, None], True)
    return logp_NV.masked_fill(~kept_NV, -torch.inf).log_softmax(-1)


def _weighted(p_NV: Tensor, values_NV: Tensor) -> Tensor:
    """p · value, 0 where p is: there the value may be infinite."""
    return torch.where(p_NV > 0, p_NV * values_NV, 0)
