"""Sections of a recipe that only some stages read; `minimind/recipe.py` holds what all of them do."""

from dataclasses import dataclass, field


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
