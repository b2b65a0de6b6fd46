"""The section `[data]` of a recipe."""

from dataclasses import dataclass, field
from typing import Literal

from minimind.limits import FRACTION, SHARE, at_least, check


@dataclass
class DataConfig:
    """What to read and how to cut it into rows."""

    files: list[str] = field(default_factory=list)
    """JSON Lines files (`.gz`, `.zst` too), globs, or a Hugging Face dataset as `hf:NAME`."""
    valid: list[str] = field(default_factory=list)
    """Held-out files; when empty, `valid_fraction` of the documents is held out by a hash of their content, or in
    reinforcement learning nothing."""
    valid_fraction: float = 0.01
    """Fraction of the documents that is held out, where `valid` names no files."""
    sequence_length: int = 512
    """Tokens of a row. Documents are packed into rows; longer ones are split, conversations never."""
    on_bad_line: Literal["stop", "skip"] = "stop"
    """What a malformed line does: stop before training, or be counted and skipped."""
    too_long: Literal["drop_oldest", "skip"] = "drop_oldest"
    """What happens to a conversation longer than a row: its oldest turns are dropped until it fits, or it is left
    out."""
    random_system_prompt: float = 0.0
    """Fraction of the conversations without a system prompt that get one of a few general ones."""
    drop_empty_think: float = 0.0
    """Fraction of the empty think blocks that are left out of the training text."""

    def check(self) -> None:
        """Raise a `UsageError` that names the field if a value cannot work."""
        check("data", self, at_least(8), "sequence_length")
        check("data", self, SHARE, "valid_fraction")
        check("data", self, FRACTION, "random_system_prompt", "drop_empty_think")
