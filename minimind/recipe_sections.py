"""Sections of a recipe that only some stages read; `minimind/recipe.py` holds what all of them do."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class LoraConfig:
    """Train a small change of chosen matrices instead of the weights (`minimind/model/lora.py`)."""

    rank: int = 0
    """Of the change; 0 trains the whole model."""
    alpha: float = 16.0
    """The change is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Share of the change's inputs that is left out while training."""
    rslora: bool = False
    """Multiply by alpha / √rank instead, so that larger ranks learn as fast."""
    dora: bool = False
    """Train the length of each row by itself, and its direction by the change."""
    targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    """Which matrices: their names, or ends or patterns of them (`layers.0.self_attn.*`)."""


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
