"""The sections `[distill]` and `[dpo]` of a recipe."""

from dataclasses import dataclass
from typing import Literal

from minimind.limits import FRACTION, POSITIVE, Limit, at_least, check


@dataclass
class DistillConfig:
    """Learning from a teacher's whole distribution (`minimind/losses/distill.py`)."""

    teacher: str = ""
    """Model directory with the same tokenizer; of any size and kind."""
    alpha: float = 0.5
    """Weight of the text's own next word; the teacher's distribution has the rest."""
    temperature: float = 1.0
    """Both distributions are flattened by it: above 1 the unlikely words count more."""
    divergence: Literal["forward", "reverse", "js"] = "forward"
    """Cover all that the teacher may say; say nothing that it would not; or between the two."""
    beta: float = 0.5
    """js: how near it is to `reverse`, in (0, 1)."""
    on_policy: bool = False
    """Compare on what the student answers to the prompts (sampled as `[rl]` says) instead of on the data's answers;
    `alpha` does not count."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the field.
        """
        check("distill", self, FRACTION, "alpha")
        check("distill", self, POSITIVE, "temperature")
        check("distill", self, Limit(lambda x: 0 < x < 1, "in (0, 1)"), "beta")


@dataclass
class DpoConfig:
    """Learning from pairs of answers (`minimind/losses/preference.py`)."""

    loss: Literal["sigmoid", "ipo", "simpo"] = "sigmoid"
    """`sigmoid` is DPO as in the paper; `simpo` needs no reference model."""
    beta: float = 0.1
    """How dear it is to leave the reference: small values let the model go far. SimPO's is about 2."""
    label_smoothing: float = 0.0
    """Share of the pairs that are taken to be the wrong way round (cDPO)."""
    length_normalised: bool = False
    """Compare means over an answer's tokens instead of sums, so that length by itself is worth nothing."""
    margin: float = 1.0
    """SimPO's γ: by how much the chosen answer's reward should be the larger one."""
    sft_coef: float = 0.0
    """Weight of the chosen answer's own loss, a mean over its tokens, beside the preference loss."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the field.
        """
        check("dpo", self, POSITIVE, "beta")
        check("dpo", self, at_least(0), "margin", "sft_coef")
        check("dpo", self, Limit(lambda x: 0 <= x < 0.5, "in [0, 0.5)"), "label_smoothing")
