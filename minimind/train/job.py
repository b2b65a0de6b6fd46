"""What a stage brings to the training loop."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minimind import runtime
from minimind.errors import UserError
from minimind.model.moe import RouterStatistics


class Loss(NamedTuple):
    """What a stage's loss returns for one micro-batch."""

    total: Tensor
    """Scalar to differentiate: a sum over the batch's items."""
    figures: dict[str, Tensor]
    """What to log: scalars are sums, to be divided by the items of the step (`loss` is one of them);
    a matrix holds counts, of which the shares in each row are logged (tokens of each expert)."""
    router: RouterStatistics | None = None
    """The routing of the forward pass: in a mixture of experts, the load-balancing loss is added to `total`."""


def balanced(loss: Loss, num_items: int) -> Loss:
    """Add the experts' load-balancing loss, if there are experts, and what there is to log of it.

    That loss is a mean; times the batch's items it counts as much as the rest in any batch. It is taken over each
    micro-batch of each rank: experts are balanced everywhere, not only in the sum.
    """
    if loss.router is None:
        return loss
    balance = loss.router.load_balancing_loss() * num_items
    figures = {**loss.figures, "balance_loss": balance, "expert_load": loss.router.counts}
    return Loss(loss.total + loss.router.coefficient * balance, figures)


class Halt(UserError):
    """A stage gives up and says why in one sentence; what was learned until then is saved first."""


class Stream(Protocol):
    """Batches in one global order. The state is all that is needed to continue at the same token."""

    def next_batch(self, rows: int, rank: int = 0, world: int = 1) -> Any:
        """The next `rows` rows (this rank's share of them): a named tuple of tensors [rows, time].

        It has `document_ids` (-1 on padding), a property `num_items`: what the sums of its loss are divided by (tokens,
        pairs or answers), and as its last field `host` (see `to_device`).
        """

    def dry_batch(self, rows: int, rank: int = 0, world: int = 1) -> Any:
        """A batch like the others from which nothing will be learned; the state is put back after it."""

    def state_dict(self) -> dict[str, Any]:
        """The position in the data."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue at that position."""


class LossFunction(Protocol):
    """A stage's loss: sums over one micro-batch."""

    def __call__(self, model: Any, batch: Any, compiled: bool = False) -> Loss:
        """Sum the loss over the batch's items; `compiled`: fuse its element-wise work."""


class Rehearsal(NamedTuple):
    """What every step learns again beside the stage's own batch."""

    stream: Stream
    loss: LossFunction
    rows: int
    """Rows of a step that each rank works on."""
    weight: float
    """What the mean over its items counts beside that of the stage."""


@dataclass
class Job:
    """One stage's part of a run."""

    model: nn.Module
    optimizers: list[Optimizer]
    stream: Stream
    loss: LossFunction
    steps: int
    flops_per_token: float
    write_model: Callable[[Path], None]
    validate: Callable[[], dict[str, float]]
    sample: Callable[[], list[str]]
    compile: Callable[[], None]
    figures: Callable[[], dict[str, Any]] = dict
    """What else there is to log since it was last asked; all ranks ask."""
    rehearsal: Rehearsal | None = None
    data: str = ""
    """In words, what is learned from."""
    close: Callable[[], None] = lambda: None
    """Ends what goes on beside the loop."""


@dataclass
class Progress:
    """Where a run is: what a checkpoint stores beside weights and moments."""

    step: int = 0
    tokens: int = 0
    best_step: int | None = None
    best_score: float = math.inf
    """The lowest validation BPB, or loss where a stage has no BPB."""
    compiled: bool = False
    init: int = 0
    """Checksum of the weights that the run started from; 0: drawn from the seed."""


def split(batch: Any, rows: int) -> Iterator[Any]:
    """Cut a batch (a named tuple of tensors [rows, time]) into micro-batches."""
    for first in range(0, len(batch[0]), rows):
        yield type(batch)(*(tensor[first : first + rows] for tensor in batch if tensor is not None))


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch of the host on `device`.

    It keeps the host's as `host`: what the host must know, such as how much is labelled, is asked there, because the
    device would have to be waited for.
    """
    return type(batch)(*(runtime.sent(tensor, device) for tensor in batch if tensor is not None), host=batch)
