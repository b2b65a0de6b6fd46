"""The section `[optim]` of a recipe."""

from dataclasses import dataclass
from typing import Literal

from minimind.limits import FRACTION, POSITIVE, SHARE, UP_TO_INFINITY, at_least, check


@dataclass
class OptimConfig:
    """Optimizers, learning rates and their schedule."""

    matrices: Literal["muon", "adamw"] = "muon"
    """Optimizer of the weight matrices; embeddings and norms are always updated by AdamW."""
    lr: float = 3e-3
    """Learning rate at the peak, of both optimizers (Muon's update is scaled to AdamW's size)."""
    embedding_lr: float = 1.0
    """Learning rate of the embedding and the output head, as a multiple of `lr`. Most batches hold few of the tokens
    that the rows stand for, so short runs need more than 1."""
    weight_decay: float = 0.01
    """Decoupled weight decay of the matrices, in units of the learning rate."""
    embedding_decay: float = 0.0
    """Decoupled weight decay of the embedding and the output head, in units of their rate (`embedding_lr` times `lr`).
    Rows of rare tokens fade between the batches that hold them, so text that is read once wants none."""
    beta1: float = 0.9
    """AdamW's decay of the first moment, per step."""
    beta2: float = 0.95
    """AdamW's decay of the second moment, per step."""
    momentum: float = 0.95
    """Muon's momentum, per step."""
    clip: float = 1.0
    """Largest norm of the whole gradient; 0: no clipping."""
    schedule: Literal["cosine", "wsd"] = "wsd"
    """Shape of the schedule: warm-up-stable-decay (linear to `final_lr` over the last `decay` of the steps), or a
    cosine."""
    warmup: float = 0.02
    """Fraction of the steps over which the rate rises from 0."""
    decay: float = 0.5
    """Fraction of the steps, at the end, over which `wsd` lets the rate fall."""
    final_lr: float = 0.0
    """Rate at the last step, as a fraction of `lr`."""

    def check(self) -> None:
        """Raise a `UsageError` that names the field if a value cannot work."""
        check("optim", self, POSITIVE, "lr", "embedding_lr")
        check("optim", self, at_least(0), "weight_decay", "embedding_decay")
        check("optim", self, UP_TO_INFINITY, "clip")
        check("optim", self, SHARE, "warmup", "beta1", "beta2", "momentum")
        check("optim", self, FRACTION, "decay", "final_lr")
