"""The section `[lora]` of a recipe."""

from dataclasses import dataclass, field

from minimind.limits import POSITIVE, SHARE, Limit, at_least, check


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

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            UsageError: naming the field.
        """
        check("lora", self, at_least(0), "rank")
        check("lora", self, POSITIVE, "alpha")
        check("lora", self, SHARE, "dropout")
        check("lora", self, Limit(bool, "a list of names or patterns"), "targets")
