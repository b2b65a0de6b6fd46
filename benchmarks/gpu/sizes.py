"""How much each part does: on a GPU, and in a rehearsal on a CPU."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Everything that differs between the two."""

    dense: str
    moe: str
    """Presets; the pretraining and SFT recipes are theirs."""
    micro_batches: tuple[int, ...]
    """Tokens that go through the model at a time; the first is the recipe's own."""
    moe_micro_batches: tuple[int, ...]
    tokens_per_step: int
    sequence_length: int
    compiled: bool
    """Whether anything is compiled: on a CPU that alone takes minutes."""
    steps: int
    """Optimizer steps of a measurement, after two that warm up."""
    race_seconds: float
    batches: tuple[int, ...]
    """Answers at once."""
    moe_batches: tuple[int, ...]
    prompt: int
    new: int
    """Tokens of a prompt, and of an answer."""
    groups: int
    samples: int
    """Of a rollout."""
    world_mb: float
    """Text that the small world tells, where none is given."""
    copy_bytes: int
    run_seconds: float
    """Of the run at the end, if there is so much time left."""


FULL = Sizes(
    dense="minimind-3",
    moe="minimind-3-moe",
    micro_batches=(32768, 131072, 65536, 16384, 8192),
    moe_micro_batches=(32768, 131072, 8192),
    tokens_per_step=131072,
    sequence_length=512,
    compiled=True,
    steps=12,
    race_seconds=12.0,
    batches=(1, 8, 64, 256),
    moe_batches=(1, 64),
    prompt=128,
    new=96,
    groups=32,
    samples=8,
    world_mb=40.0,
    copy_bytes=1 << 30,
    run_seconds=180.0,
)
QUICK = Sizes(
    dense="tiny",
    moe="tiny-moe",
    micro_batches=(256, 512),
    moe_micro_batches=(256,),
    tokens_per_step=512,
    sequence_length=64,
    compiled=False,
    steps=1,
    race_seconds=0.5,
    batches=(1, 4),
    moe_batches=(1,),
    prompt=16,
    new=8,
    groups=2,
    samples=2,
    world_mb=0.3,
    copy_bytes=1 << 24,
    run_seconds=3.0,
)
