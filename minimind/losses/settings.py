"""The sections `[distill]` and `[dpo]` of a recipe."""

from dataclasses import dataclass
from typing import Literal

from minimind.errors import UsageError
from minimind.limits import FRACTION, POSITIVE, Limit, at_least, check


@dataclass
class DistillConfig:
    """Learning from a teacher's whole distribution (`minimind/losses/distill.py`)."""

    teacher: str = ""
    """Model directory of the teacher, of any size and kind, with the same tokenizer."""
    alpha: float = 0.5
    """Weight of the cross-entropy with the text's own next token; the divergence from the teacher has the rest."""
    temperature: float = 1.0
    """Softmax temperature of both distributions: above 1 the unlikely tokens count more."""
    divergence: Literal["forward", "reverse", "js"] = "forward"
    """KL(teacher ‖ student), KL(student ‖ teacher), or a generalised Jensen-Shannon divergence between them."""
    beta: float = 0.5
    """Interpolation of `js` between forward (0) and reverse (1), in (0, 1)."""
    on_policy: bool = False
    """Comparison on the student's own answers to the prompts (sampled as `[rl]` says) instead of the data's answers;
    `alpha` does not count."""

    def check(self) -> None:
        """Raise a `UsageError` that names the field if a value cannot work."""
        check("distill", self, FRACTION, "alpha")
        check("distill", self, POSITIVE, "temperature")
        check("distill", self, Limit(lambda x: 0 < x < 1, "in (0, 1)"), "beta")


@dataclass
class DpoConfig:
    """Learning from pairs of answers (`minimind/losses/preference.py`)."""

    loss: Literal["sigmoid", "ipo", "simpo"] = "sigmoid"
    """Loss: `sigmoid` is DPO as in the paper; `simpo` needs no reference model."""
    beta: float = 0.1
    """Strength of the tie to the reference: small values let the model go far. SimPO's is about 2."""
    label_smoothing: float = 0.0
    """Share of the pairs that are taken to be labelled the wrong way round (cDPO)."""
    length_normalised: bool = False
    """Means over an answer's tokens instead of sums, so that length by itself is worth nothing."""
    margin: float = 1.0
    """SimPO's γ: the margin by which the chosen answer's reward should be the larger one."""
    sft_coef: float = 0.0
    """Weight of the chosen answer's own loss, a mean over its tokens, beside the preference loss."""

    def check(self) -> None:
        """Raise a `UsageError` that names the field if a value cannot work."""
        check("dpo", self, POSITIVE, "beta")
        check("dpo", self, at_least(0), "margin", "sft_coef")
        check("dpo", self, Limit(lambda x: 0 <= x < 0.5, "in [0, 0.5)"), "label_smoothing")
        if self.loss == "ipo" and self.label_smoothing:
            raise UsageError(
                'recipe: dpo.label_smoothing has no effect with dpo.loss = "ipo", whose margin has a goal of its own; '
                'set it to 0, or use "sigmoid"'
            )
        if self.loss == "simpo" and self.length_normalised:
            raise UsageError(
                'recipe: dpo.length_normalised has no effect with dpo.loss = "simpo", which takes means as it is; '
                "leave it out"
            )
