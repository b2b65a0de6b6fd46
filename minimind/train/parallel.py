"""One model on several ranks. Each works on its own rows of a step; the gradient is the sum over all of them.

    ddp    every rank holds the whole model; gradients are summed while the backward pass is still running
    fsdp   every rank holds a share of each weight, gradient and moment (ZeRO-3, Rajbhandari et al. 2020); a block's
           weights are gathered from all ranks when it runs and dropped afterwards

Both average the gradients of the ranks. A mean over ranks would be a mean of means, so the loss, already divided by
the supervised tokens of *all* ranks, is multiplied by the number of ranks first: what comes out is the sum.
"""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from minimind import runtime
from minimind.model import lora
from minimind.model.qwen3 import Transformer
from minimind.train.settings import TrainConfig


def shard(model: nn.Module, blocks: nn.ModuleList, train: TrainConfig) -> None:
    """With `parallel = "fsdp"` leave each rank only its share of the weights; optimizers are made after this.

    Each block is a unit that is gathered and dropped as a whole; the embedding, the last norm and the head, which
    are needed from the beginning of a step to its end, are the unit of `model`.
    """
    if train.parallel == "fsdp" and runtime.world_size() > 1:
        mesh = _mesh(next(model.parameters()).device.type)
        for block in blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)


@cache
def _mesh(kind: str) -> DeviceMesh:
    """All ranks in a row: one mesh for all models, so that norms over several of them can be taken."""
    return init_device_mesh(kind, (runtime.world_size(),))


def is_sharded(model: nn.Module) -> bool:
    """Whether this rank has only a share of the weights of `model`, or of a model in it."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


class _LossModule(nn.Module):
    """A model together with its loss: DDP must see everything between its weights and the scalar to differentiate."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any, loss: Callable[[Any, Any], Any]) -> Any:
        return loss(self.model, batch)


def replicate(model: nn.Module) -> nn.Module:
    """Return the module that maps (batch, loss) to the loss, and whose backward pass reduces gradients over ranks."""
    module = _LossModule(model)
    if runtime.world_size() == 1 or is_sharded(model):
        return module
    # DDP would cut compiled graphs at its buckets to reduce early; a graph here is one block, smaller than a bucket.
    torch._dynamo.config.optimize_ddp = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # a new name for broadcast_buffers, which older torch lacks
        return DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)


def needs_dry_run(replica: nn.Module) -> bool:
    """Whether a backward pass must go before the first step for interrupted runs to end in the same bits.

    DDP arranges its buckets after the first one, by which gradients came first; and where in a bucket a gradient lies
    decides in which order more than two ranks add it up.
    """
    return isinstance(replica, DistributedDataParallel)


def accumulating(replica: nn.Module, more_to_come: bool) -> AbstractContextManager[None]:
    """While this micro-batch is not the step's last, DDP keeps its gradient to itself.

    FSDP reduces each one: a gradient not reduced yet is a whole one, and there should be no room for those.
    """
    if more_to_come and isinstance(replica, DistributedDataParallel):
        return replica.no_sync()
    return nullcontext()


def clip(model: nn.Module, limit: float) -> Tensor:
    """Shrink the gradient to a norm of `limit` if it is longer (0: never); return the norm it had.

    Under FSDP, too, it is the norm of the whole gradient, not of a rank's share.
    """
    norm = whole(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]))
    if limit:
        nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm)
    return norm


def settle(model: nn.Module) -> None:
    """Drop the weights that FSDP keeps gathered after a pass without backward, such as a validation."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole(tensor: Tensor) -> Tensor:
    """The full tensor, of which under FSDP this rank may have a share only; then all ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def plain_weights(model: Transformer) -> dict[str, Tensor]:
    """Every weight in full, on all ranks, of the model without adapter that computes the same."""
    settle(model)
    return {name: whole(weight) for name, weight in lora.plain_weights(model).items()}


def plain_copy(model: Transformer, dtype: torch.dtype | None = None) -> Transformer:
    """A model of this rank alone, without adapter, that computes the same; `dtype`: of its weights."""
    with torch.device("meta"):
        plain = Transformer(model.config)
    weights = plain_weights(model)
    plain.load_state_dict({name: weight.to(dtype, copy=True) for name, weight in weights.items()}, assign=True)
    return plain.eval()


def whole_weights(model: nn.Module, trained_only: bool = False) -> dict[str, Tensor]:
    """Every weight (or every trained one) in full, on the CPU of rank 0; the other ranks take part and get nothing."""
    settle(model)
    weights = {}
    for name, parameter in model.named_parameters():
        if trained_only and not parameter.requires_grad:
            continue
        weight = whole(parameter.detach())
        if runtime.is_main():
            weights[name] = weight.cpu()
    return weights
