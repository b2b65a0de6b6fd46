"""Losses on pairs of answers, one preferred to the other: DPO and its relatives, and Bradley-Terry.

Shapes: P pairs; a tensor [P, 2] holds of each pair the chosen answer's number in column 0 and the rejected one's in
column 1. Log-probabilities of answers are sums over their tokens, in nats. Every loss is given pair by pair, [P].
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from minimind.losses.settings import DpoConfig


class Answers(NamedTuple):
    """Both answers of each pair, all [P, 2]."""

    policy: Tensor
    """Log-probability under the model that is trained."""
    reference: Tensor
    """The same under the model that training started from."""
    lengths: Tensor
    """Tokens."""


def log_odds(margin_P: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-(1 - ε) log σ(margin) - ε log σ(-margin): how surprising it is that the chosen answer won.

    ε is the share of the labels that are taken to be the wrong way round (cDPO, Mitchell 2023,
    https://ericmitchell.ai/cdpo.pdf); then the margin is not driven to infinity, but to log((1 - ε) / ε).
    """
    return -(1 - label_smoothing) * F.logsigmoid(margin_P) - label_smoothing * F.logsigmoid(-margin_P)


def bradley_terry(scores_P2: Tensor) -> Tensor:
    """-log σ(r_chosen - r_rejected): a reward model (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155, Eq. 1)."""
    return log_odds(scores_P2[:, 0] - scores_P2[:, 1])


def log_ratios(answers: Answers, length_normalised: bool = False) -> Tensor:
    """log π(answer) - log π_ref(answer), [P, 2]; with `length_normalised` its mean over the answer's tokens."""
    ratios_P2 = answers.policy - answers.reference
    return ratios_P2 / answers.lengths if length_normalised else ratios_P2


def dpo(delta_P: Tensor, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """-log σ(β Δ), Δ the difference of log-ratios (Rafailov et al. 2023, https://arxiv.org/abs/2305.18290, Eq. 7)."""
    return log_odds(beta * delta_P, label_smoothing)


def ipo(delta_P: Tensor, beta: float) -> Tensor:
    """(Δ - 1/(2β))² (Azar et al. 2023, https://arxiv.org/abs/2310.12036, Eq. 17, where β is τ).

    The log-ratio gap has a goal instead of being pushed for ever. As printed Δ is of sums; its authors, and trl, take
    means over tokens (`length_normalised`), or long answers would have the same goal as short ones.
    """
    return (delta_P - 1 / (2 * beta)).square()


def simpo(answers: Answers, beta: float, margin: float, label_smoothing: float = 0.0) -> Tensor:
    """-log σ(β (mean log π(chosen) - mean log π(rejected)) - γ), γ = `margin`; needs no reference.

    (Meng et al. 2024, https://arxiv.org/abs/2405.14734, Eq. 6.)
    """
    means_P2 = answers.policy / answers.lengths
    return log_odds(beta * (means_P2[:, 0] - means_P2[:, 1]) - margin, label_smoothing)


def imitation(answers: Answers) -> Tensor:
    """-mean log π over the chosen answer's tokens: keeps it likely, which a difference alone does not.

    (RPO: Pang et al. 2024, https://arxiv.org/abs/2404.19733, Eq. 1.)
    """
    return -answers.policy[:, 0] / answers.lengths[:, 0]


def preference_loss(answers: Answers, config: DpoConfig) -> Tensor:
    """The loss that a recipe's `[dpo]` asks for."""
    if config.loss == "simpo":
        loss_P = simpo(answers, config.beta, config.margin, config.label_smoothing)
    else:
        ratios_P2 = log_ratios(answers, config.length_normalised)
        delta_P = ratios_P2[:, 0] - ratios_P2[:, 1]
        if config.loss == "ipo":
            loss_P = ipo(delta_P, config.beta)
        else:
            loss_P = dpo(delta_P, config.beta, config.label_smoothing)
    return loss_P + config.sft_coef * imitation(answers) if config.sft_coef else loss_P


@torch.no_grad()
def rewards(answers: Answers, config: DpoConfig) -> Tensor:
    """The reward that the model implies for each answer, [P, 2]: β log(π / π_ref); SimPO's is β mean log π."""
    if config.loss == "simpo":
        return config.beta * answers.policy / answers.lengths
    return config.beta * log_ratios(answers, config.length_normalised)
