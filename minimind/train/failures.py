"""What goes wrong with machines and numbers during training, each in one sentence that says what to do."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributed import DistError

from minimind import runtime
from minimind.console import warn
from minimind.errors import UserError
from minimind.train.precision import Precision
from minimind.train.settings import RunConfig

PATIENCE = 20
"""Steps in a row without a finite gradient before the run gives up."""
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
PEER_IS_GONE = ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL", "Broken pipe")


class Patience:
    """Counts the updates that were left out because the gradient was NaN or infinite."""

    def __init__(self) -> None:
        self.spoiled = 0

    def check(self, norm: float, step: int, precision: Precision) -> None:
        """Look at the gradient's norm after `step` steps.

        Raises:
            UserError: it has not been finite for too long.
        """
        if math.isfinite(norm):
            self.spoiled = 0
            return
        self.spoiled += 1
        if not precision.scales or precision.scale == 1:  # else it may be the scale, which is halved now
            warn(f"step {step}: the gradient is {norm}, the update is left out")
        if self.spoiled >= PATIENCE:
            raise UserError(
                f"the gradient was not finite for {PATIENCE} steps in a row (now step {step}); "
                f"lower optim.lr or train in float32 (--set.train.dtype float32), then run the same command again"
            )


@contextmanager
def explained(config: RunConfig) -> Iterator[None]:
    """Turn torch's errors about memory and about other ranks into sentences for the user."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in OUT_OF_MEMORY):
            raise UserError(_what_to_lower(config)) from error
        if runtime.world_size() > 1 and (isinstance(error, DistError) or any(word in text for word in PEER_IS_GONE)):
            raise UserError(
                "another process of this run has ended (killed, or with an error of its own); "
                "the same command goes on from the last checkpoint"
            ) from error
        raise


def _what_to_lower(config: RunConfig) -> str:
    """Memory grows with the positions that a rank works on at a time; only the balance of experts depends on them."""
    train, length = config.train, config.sequence_length
    rows = train.micro_batch_tokens // length
    if not config.samples:
        rows = min(rows, train.tokens_per_step // length // runtime.world_size())
    cures = []
    if rows > 1:
        cures.append(f"lower train.micro_batch_tokens from {rows * length} to {rows // 2 * length}")
    if not train.activation_checkpointing:
        cures.append("set train.activation_checkpointing true")
    if runtime.world_size() > 1 and train.parallel == "ddp":
        cures.append('set train.parallel "fsdp"')
    if not cures:
        cures.append(f"shorten the rows (data.sequence_length {length}) or choose a smaller model")
    return f"out of memory: {', or '.join(cures)}; then run the same command again"
