"""Distillation: learn the teacher's whole distribution over the next word, not only the word that came.

    loss = α · CE(label) + (1 - α) · T² · D(p, q)          p = softmax(teacher / T), q = softmax(student / T)

(Hinton et al. 2015, https://arxiv.org/abs/1503.02531; T² because the gradient of D shrinks by 1 / T².) D is one of

    forward   KL(p ‖ q) = Σ p log p/q                  the student covers all that the teacher may say
    reverse   KL(q ‖ p) = Σ q log q/p                  the student says nothing that the teacher would not (MiniLLM,
                                                       Gu et al. 2023, https://arxiv.org/abs/2306.08543)
    js        β KL(p ‖ m) + (1 - β) KL(q ‖ m)          m = β p + (1 - β) q, between the two (GKD, Agarwal et al. 2023,
                                                       https://arxiv.org/abs/2306.13649)

With z = student / T the gradients are

    forward   dD/dz = q - p        reverse   dD/dz = q (log q/p - KL(q ‖ p))        js   (1 - β) q (log q/m - KL(q ‖ m))

so each chunk of tokens gets its loss and its gradient at once, as in `losses/lm.py`, and of both models' logits no
more than a chunk exists. Letters: N tokens, C hidden, V vocabulary.
"""

import math
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from minimind.losses.lm import IGNORE, compute_dtype, wide

CHUNK = 512
"""Rows of logits, the student's and the teacher's, that exist at a time."""
Divergence = Literal["forward", "reverse", "js"]


class TeacherStates(NamedTuple):
    """What a teacher thinks of N tokens: its last hidden states, and the matrix that makes logits of them."""

    states_NC: Tensor
    weight_VC: Tensor


class Rule(NamedTuple):
    """How the loss is put together; the letters are those of the formulas above."""

    alpha: float = 0.5
    temperature: float = 1.0
    divergence: Divergence = "forward"
    beta: float = 0.5


class Distillation(NamedTuple):
    """Sums over the labelled tokens: `total` has a gradient, its two parts (D without T²) are for the log."""

    total: Tensor
    cross_entropy: Tensor
    divergence: Tensor


def distillation_loss(
    states_NC: Tensor,
    weight_VC: Tensor,
    labels_N: Tensor,
    teacher: TeacherStates,
    rule: Rule,
    chunk: int = CHUNK,
    compiled: bool = False,
) -> Distillation:
    """Sum the loss over those of N tokens whose label is not -100.

    Products are taken in autocast's dtype where it is on, else in that of the states; softmax in float32. `compiled`
    fuses the element-wise work on a chunk with `torch.compile`.
    """
    return Distillation(*_Distill.apply(states_NC, weight_VC, labels_N, *teacher, rule, chunk, compiled))


class _Distill(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        labels: Tensor,
        teacher_states: Tensor,
        teacher_weight: Tensor,
        rule: Rule,
        chunk: int,
        compiled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = compute_dtype(states)
        weight_VC = weight.to(dtype)
        teacher_states, teacher_weight = teacher_states.to(dtype), teacher_weight.to(dtype)
        run = _compiled_chunk() if compiled else chunk_gradients
        trained = ctx.needs_input_grad[1]
        ce, divergence = torch.zeros(2, dtype=torch.promote_types(dtype, torch.float32), device=states.device)
        d_states = torch.empty_like(states)
        d_weight = torch.zeros_like(weight) if trained else None
        for start in range(0, len(states), chunk):
            rows = slice(start, start + chunk)
            teacher = TeacherStates(teacher_states[rows], teacher_weight)
            one, other, d_rows, d_weight_VC = run(
                states[rows].to(dtype), weight_VC, labels[rows], teacher, rule, trained
            )
            ce += one
            divergence += other
            d_states[rows] = d_rows
            if d_weight is not None and d_weight_VC is not None:
                d_weight += d_weight_VC
        ctx.save_for_backward(d_states, d_weight)
        ctx.mark_non_differentiable(ce, divergence)
        return rule.alpha * ce + (1 - rule.alpha) * rule.temperature**2 * divergence, ce, divergence

    @staticmethod
    def backward(ctx: Any, d_total: Tensor, *_: Tensor) -> Any:
        d_states, d_weight = ctx.saved_tensors
        return d_states * d_total, None if d_weight is None else d_weight * d_total, *[None] * 6


def chunk_gradients(
    states_NC: Tensor,
    weight_VC: Tensor,
    labels_N: Tensor,
    teacher: TeacherStates,
    rule: Rule,
    weight_too: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Cross-entropy and divergence of a chunk, and the gradients of the whole loss."""
    logits_NV = wide(states_NC @ weight_VC.t())
    logq1_NV = logits_NV.log_softmax(-1)
    labelled_N = labels_N != IGNORE
    ce = -logq1_NV.gather(1, labels_N.clamp(min=0)[:, None]).squeeze(1).where(labelled_N, 0).sum()
    logq_NV = logq1_NV if rule.temperature == 1 else (logits_NV / rule.temperature).log_softmax(-1)
    logp_NV = (wide(teacher.states_NC @ teacher.weight_VC.t()) / rule.temperature).log_softmax(-1)
    divergence_N, d_z_NV = _divergence(logp_NV, logq_NV, rule)
    words = torch.arange(logits_NV.shape[1], device=labels_N.device)
    onehot_NV = (words == labels_N[:, None]).to(logits_NV.dtype)
    # T² from the loss, 1 / T because z = logits / T
    d_logits_NV = rule.alpha * (logq1_NV.exp() - onehot_NV) + (1 - rule.alpha) * rule.temperature * d_z_NV
    d_logits_NV = (d_logits_NV * labelled_N[:, None]).to(states_NC.dtype)
    d_weight_VC = d_logits_NV.t() @ states_NC if weight_too else None
    return ce, divergence_N.where(labelled_N, 0).sum(), d_logits_NV @ weight_VC, d_weight_VC


@cache
def _compiled_chunk() -> Any:
    return torch.compile(chunk_gradients, dynamic=True)


def _divergence(logp: Tensor, logq: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """D `[N]` of two distributions over the vocabulary `[N, V]`, and its gradient by the logits of q."""
    p, q = logp.exp(), logq.exp()
    if rule.divergence == "forward":
        return (p * (logp - logq)).sum(-1), q - p
    if rule.divergence == "reverse":
        ratio = logq - logp
        kl_N = (q * ratio).sum(-1)
        return kl_N, q * (ratio - kl_N[:, None])
    logm = torch.logaddexp(logp + math.log(rule.beta), logq + math.log1p(-rule.beta))
    ratio = logq - logm
    kl_N = (q * ratio).sum(-1)
    js_N = rule.beta * (p * (logp - logm)).sum(-1) + (1 - rule.beta) * kl_N
    return js_N, (1 - rule.beta) * q * (ratio - kl_N[:, None])
