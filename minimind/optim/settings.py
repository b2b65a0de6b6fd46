"""The section `[optim]` of a recipe."""

from dataclasses import dataclass
from typing import Literal

from minimind.limits import FRACTION, POSITIVE, SHARE, at_least, check


@dataclass
class OptimConfig:
    """Optimizers, learning rates and their schedule."""

    matrices: Literal["muon", "adamw"] = "muon"
    """What updates the weight matrices; embeddings and norms are always AdamW's."""
    lr: float = 3e-3
    """Peak learning rate, of both optimizers (Muon's update is scaled to AdamW's size)."""
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.95
    momentum: float = 0.95
    clip: float = 1.0
    """Largest allowed norm of the whole gradient; 0 switches clipping off."""
    schedule: Literal["cosine", "wsd"] = "wsd"
    """Warm-up-stable-decay (linear to `final_lr` over the last `decay` of the steps), or a cosine."""
    warmup: float = 0.02
    """Fraction of the steps over which the rate rises from 0."""
    decay: float = 0.5
    final_lr: float = 0.0
    """Rate at the last step, as a fraction of `lr`."""

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the field.
        """
        check("optim", self, POSITIVE, "lr")
        check("optim", self, at_least(0), "clip", "weight_decay")
        check("optim", self, SHARE, "warmup", "beta1", "beta2", "momentum")
        check("optim", self, FRACTION, "decay", "final_lr")
