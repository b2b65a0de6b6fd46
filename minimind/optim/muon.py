"""Muon: momentum whose update is made (nearly) orthogonal, for weight matrices.

A gradient matrix is usually dominated by a few directions. Muon (Jordan et al. 2024) replaces the
momentum G = U S Vᵀ by U Vᵀ, so every direction moves equally far. U Vᵀ comes without an SVD, from a
Newton-Schulz iteration of matrix products alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from minimind import runtime

# Jordan's quintic: it does not converge to singular values of exactly 1 but brings them into about
# [0.7, 1.2] in five steps, which trains as well and is far cheaper.
_A, _B, _C = 3.4445, -4.7750, 2.0315
STACK = 1 << 24
"""Elements that are orthogonalised together: enough to fill any device, few enough to bound the memory."""


def weights_at_once(weights: int) -> int:
    """How many of so many weights are orthogonalised together."""
    return min(STACK, weights)


def orthogonalize(update: Tensor, steps: int = 5) -> Tensor:
    """Replace each matrix of `update` [..., rows, columns] by (about) the nearest orthogonal one.

    X ← aX + (bA + cA²)X with A = XXᵀ acts on the singular values as s ← as + bs³ + cs⁵. Where bfloat16 is emulated it
    would take most of a step, so there it is float32 (float16 cannot hold the squares of small gradients).
    """
    fast = runtime.compute_dtype(update.device) == torch.bfloat16
    x = update.to(torch.bfloat16 if fast else torch.float32)
    x = x.reshape(-1, *update.shape[-2:])  # [matrices, rows, columns]
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT  # XXᵀ is then the smaller of the two Gram matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C)
        x = torch.baddbmm(x, polynomial, x, beta=_A)
    return (x.mT if tall else x).reshape(update.shape)


def orthogonalize_among_ranks(update: Tensor) -> Tensor:
    """`orthogonalize`, of which each rank does an equal share of the matrices, and all ranks get all of them.

    Every rank must call it with the same `update`. One matrix more or less does not matter, so the last share is filled
    up with zeros: collectives want shares of one size.
    """
    world = runtime.world_size()
    if world == 1:
        return orthogonalize(update)
    matrices = update.reshape(-1, *update.shape[-2:])  # [matrices, rows, columns]
    each = -(-len(matrices) // world)
    filled = torch.nn.functional.pad(matrices, (0, 0, 0, 0, 0, each * world - len(matrices)))
    mine = orthogonalize(filled[runtime.rank() * each :][:each]).contiguous()
    everyones = torch.empty_like(filled, dtype=mine.dtype)
    dist.all_gather(list(everyones.split(each)), mine)
    return everyones[: len(matrices)].reshape(update.shape)


class Muon(torch.optim.Optimizer):
    """Muon with decoupled weight decay, for parameters [rows, columns] or stacked experts [experts, rows, columns].

    The update is scaled by 0.2·√max(rows, columns), which gives it AdamW's usual root-mean-square
    (Liu et al. 2025, "Muon is scalable for LLM training"): one learning rate then fits both optimizers.
    `torch.optim.Muon` computes the same for two-dimensional parameters; it has no batched form.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 3e-3, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            same_shape: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    same_shape[parameter.shape].append(parameter)
            for parameters in same_shape.values():
                together = max(1, STACK // parameters[0].numel())
                for start in range(0, len(parameters), together):
                    some = parameters[start : start + together]
                    self._step_together(some, **{k: group[k] for k in ("lr", "momentum", "weight_decay")})

    def _step_together(self, parameters: list[Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        """Update parameters of one shape: one batched product for all of them instead of one launch each."""
        updates = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            assert parameter.grad is not None
            buffer = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
            updates.append(parameter.grad.lerp(buffer, momentum))  # Nesterov: look one step ahead
        orthogonal = orthogonalize_among_ranks(
            torch.stack([_whole(update) for update in updates])
        )  # [parameters, (experts,) rows, columns]
        scale = 0.2 * max(parameters[0].shape[-2:]) ** 0.5
        for parameter, update in zip(parameters, orthogonal, strict=True):
            parameter.mul_(1 - lr * weight_decay)
            parameter.add_(_share(update.to(parameter.dtype), parameter), alpha=-lr * scale)


def _whole(update: Tensor) -> Tensor:
    """All rows of a matrix: under FSDP a rank holds some of them, but only the whole can be orthogonal."""
    return update.full_tensor() if isinstance(update, DTensor) else update


def _share(update: Tensor, parameter: Tensor) -> Tensor:
    """The part of `update` that this rank holds of `parameter`; every rank has the whole, so none is sent."""
    if not isinstance(parameter, DTensor):
        return update
    return distribute_tensor(update, parameter.device_mesh, parameter.placements, src_data_rank=None)
