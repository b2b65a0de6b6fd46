"""The section `[lora]` of a recipe."""

from dataclasses import dataclass, field

from minimind.limits import POSITIVE, SHARE, Limit, at_least, check


@dataclass
class LoraConfig:
    """LoRA: a low-rank update of chosen matrices, trained instead of the weights (`minimind/model/lora.py`)."""

    rank: int = 0
    """Rank of the update; 0: the whole model is trained."""
    alpha: float = 16.0
    """Scale of the update: it is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout probability of the update's inputs."""
    rslora: bool = False
    """Scale alpha / √rank instead of alpha / rank, so that larger ranks learn as fast."""
    dora: bool = False
    """DoRA: the length of each row trained by itself, its direction by the update."""
    targets: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    """Matrices to adapt: their names, or ends or patterns of them (`layers.0.self_attn.*`)."""

    def check(self) -> None:
        """Raise a `UsageError` that names the field if a value cannot work."""
        check("lora", self, at_least(0), "rank")
        check("lora", self, POSITIVE, "alpha")
        check("lora", self, SHARE, "dropout")
        check("lora", self, Limit(bool, "a list of names or patterns"), "targets")
