"""What `bench generate` compares."""

from typing import NamedTuple, Protocol

Prompts = list[list[int]]


class Speed(NamedTuple):
    """Tokens per second of all rows together."""

    prefill: float
    decode: float


class Generator(Protocol):
    """Something that continues prompts of equal length greedily, each by exactly `new` tokens."""

    def run(self, prompts: Prompts, new: int) -> Speed:
        """Generate once, nothing cached from before."""
