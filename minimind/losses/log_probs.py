"""Log-probability of every token under a model, with a gradient, without ever holding all logits.

What preference and policy losses are made of: they need each token's log-probability by itself, not the sum. The
gradient is not known before the loss is, so the backward pass projects each chunk of tokens a second time. With
z = logits / temperature, p = softmax(z) and the entropy H = -Σ p log p:

    d log p_label / dz = onehot(label) - p          dH / dz = -p (log p + H)

Letters: N tokens, C hidden, V vocabulary.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from minimind.losses.lm import CHUNK, IGNORE, compute_dtype, labelled_rows, wide


class LogProbs(NamedTuple):
    """Both shaped like the labels, in float32, 0 where the label is -100."""

    log_probs: Tensor
    """Nats."""
    entropy: Tensor
    """Of the distribution that the token was drawn from, in nats; 0 everywhere if it was not asked for."""


Keep = Callable[[Tensor], Tensor]
"""From probabilities [N, V] to True where a token may be drawn: top-k, top-p and the like."""


class Rule(NamedTuple):
    """What is computed; the fields are those of `token_log_probs`."""

    temperature: float = 1.0
    keep: Keep | None = None
    entropy: bool = True


def token_log_probs(
    states: Tensor,
    weight_VC: Tensor,
    labels: Tensor,
    temperature: float = 1.0,
    chunk: int = CHUNK,
    keep: Keep | None = None,
    entropy: bool = True,
    compiled: bool = False,
) -> LogProbs:
    """Score `labels` [...] given the last hidden `states` [..., C]: log softmax(states · weightᵀ / temperature)[label].

    With `keep` the softmax is over the tokens that it leaves (and the label, so that what was drawn under other weights
    stays possible): the distribution of a sampler that filters. Which tokens those are counts as a constant.

    Differentiable in `states` and `weight_VC`. Positions whose label is -100 are not even projected, but for those that
    fill the last chunk; so the labels should lie on the host (`labelled_rows`). Products are taken in autocast's dtype
    where it is on, else in that of `states`; softmax in float32. `compiled` fuses the element-wise work on a chunk with
    `torch.compile`.
    """
    rule = Rule(temperature, keep, entropy)
    rows_M, labels_M = labelled_rows(labels.flatten(), chunk, states.device)
    found = _TokenLogProbs.apply(states.flatten(0, -2)[rows_M], weight_VC, labels_M, rule, chunk, compiled)
    empty_N = torch.zeros(labels.numel(), dtype=found[0].dtype, device=states.device)
    return LogProbs(*(empty_N.index_copy(0, rows_M, values_M).view(labels.shape) for values_M in found))


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states_NC: Tensor, weight: Tensor, labels_N: Tensor, rule: Rule, chunk: int, compiled: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        dtype = compute_dtype(states_NC)
        weight_VC = weight.to(dtype)
        ctx.save_for_backward(states_NC, weight, labels_N)
        ctx.rule, ctx.chunk, ctx.dtype, ctx.compiled = rule, chunk, dtype, compiled
        run = _compiled(chunk_log_probs) if compiled else chunk_log_probs
        log_probs_N = states_NC.new_empty(len(labels_N), dtype=torch.promote_types(dtype, torch.float32))
        entropy_N = torch.zeros_like(log_probs_N)
        for start in range(0, len(labels_N), chunk):
            rows = slice(start, start + chunk)
            log_probs_N[rows], found = run(states_NC[rows].to(dtype), weight_VC, labels_N[rows], rule)
            if found is not None:
                entropy_N[rows] = found
        return log_probs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, d_log_probs_N: Tensor | None, d_entropy_N: Tensor | None) -> Any:
        states_NC, weight, labels_N = ctx.saved_tensors
        weight_VC = weight.to(ctx.dtype)
        run = _compiled(chunk_gradients) if ctx.compiled else chunk_gradients
        trained = ctx.needs_input_grad[1]  # not under LoRA: its product is a third of the work here
        d_states_NC, d_weight_VC = torch.empty_like(states_NC), torch.zeros_like(weight) if trained else None
        rule = ctx.rule._replace(entropy=ctx.rule.entropy and d_entropy_N is not None)
        zeros_N = torch.zeros(len(labels_N), device=labels_N.device)
        d_log_probs_N, d_entropy_N = (zeros_N if d_N is None else d_N for d_N in (d_log_probs_N, d_entropy_N))
        for start in range(0, len(labels_N), ctx.chunk):
            rows = slice(start, start + ctx.chunk)
            d_outputs = (d_log_probs_N[rows], d_entropy_N[rows])
            chunk_NC = states_NC[rows].to(ctx.dtype)
            d_states_NC[rows], d_chunk_VC = run(chunk_NC, weight_VC, labels_N[rows], d_outputs, rule, trained)
            if d_weight_VC is not None and d_chunk_VC is not None:
                d_weight_VC += d_chunk_VC
        return d_states_NC, d_weight_VC, None, None, None, None


def chunk_log_probs(states_NC: Tensor, weight_VC: Tensor, labels_N: Tensor, rule: Rule) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities of a chunk's labels, and the entropies if the rule asks for them; 0 where there is no label."""
    labelled_N, words_N1 = labels_N != IGNORE, labels_N.clamp(min=0)[:, None]
    logp_NV = _log_softmax(states_NC, weight_VC, words_N1, rule)
    log_probs_N = logp_NV.gather(1, words_N1).squeeze(1).where(labelled_N, 0)
    if not rule.entropy:
        return log_probs_N, None
    return log_probs_N, -_weighted(logp_NV.exp(), logp_NV).sum(1).where(labelled_N, 0)


def chunk_gradients(
    states_NC: Tensor,
    weight_VC: Tensor,
    labels_N: Tensor,
    d_outputs: tuple[Tensor, Tensor],
    rule: Rule,
    weight_too: bool,
) -> tuple[Tensor, Tensor | None]:
    """Gradients by states and weight, given those by the chunk's log-probabilities and entropies."""
    d_log_probs_N1, d_entropy_N1 = (d_N.where(labels_N != IGNORE, 0)[:, None] for d_N in d_outputs)
    words_N1 = labels_N.clamp(min=0)[:, None]
    logp_NV = _log_softmax(states_NC, weight_VC, words_N1, rule)
    p_NV = logp_NV.exp()
    onehot_NV = (torch.arange(logp_NV.shape[1], device=labels_N.device) == words_N1).to(logp_NV.dtype)
    d_z_NV = (onehot_NV - p_NV) * d_log_probs_N1
    if rule.entropy:
        entropy_N1 = -_weighted(p_NV, logp_NV).sum(1, keepdim=True)
        d_z_NV = d_z_NV - _weighted(p_NV, logp_NV + entropy_N1) * d_entropy_N1
    d_logits_NV = (d_z_NV / rule.temperature).to(states_NC.dtype)
    return d_logits_NV @ weight_VC, d_logits_NV.t() @ states_NC if weight_too else None


@cache
def _compiled(work: Callable[..., Any]) -> Any:
    return torch.compile(work, dynamic=True)


def _log_softmax(states_NC: Tensor, weight_VC: Tensor, words_N1: Tensor, rule: Rule) -> Tensor:
    logits_NV = wide(states_NC @ weight_VC.t())
    logp_NV = (logits_NV if rule.temperature == 1 else logits_NV / rule.temperature).log_softmax(-1)
    if rule.keep is None:
        return logp_NV
    kept_NV = rule.keep(logp_NV.exp()).scatter(1, words_N1, True)
    return logp_NV.masked_fill(~kept_NV, -torch.inf).log_softmax(-1)


def _weighted(p_NV: Tensor, values_NV: Tensor) -> Tensor:
    """p · value, 0 where p is: there the value may be infinite."""
    return torch.where(p_NV > 0, p_NV * values_NV, 0)
