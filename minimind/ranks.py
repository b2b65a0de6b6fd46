"""Talking to the other processes of a run, those that `torchrun` started; each of them is a rank, counted from 0.

With one process every function here does nothing, or returns what it was given. What several ranks do with one
model is in `train/parallel.py`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from minimind import runtime
from minimind.errors import UsageError, UserError
from minimind.runtime import is_main, world_size

if TYPE_CHECKING:
    import torch
    from torch.distributed import Store

T = TypeVar("T")
_store: "Store | None" = None
"""Where the ranks meet: a few values that all of them see, kept by torchrun itself."""
_turns = itertools.count()


def join(device_name: str) -> None:
    """Meet the other ranks, if there are any: NCCL between GPUs, gloo between CPUs.

    Raises:
        UsageError: they were not started by torchrun, or there are more of them than GPUs.
    """
    global _store
    if world_size() == 1:
        return
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    try:
        _store, number, world = next(rendezvous("env://"))
    except ValueError as error:
        raise UsageError(f"several processes of one run must be started by torchrun ({error})") from None
    on = runtime.device(device_name)
    if on.type == "mps":
        raise UsageError("--device mps: there is only one; start a single process, without torchrun")
    if on.type == "cuda":
        torch.cuda.set_device(on)
    backend = "cpu:gloo,cuda:nccl" if on.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=_store, rank=number, world_size=world)


def leave() -> None:
    """Say goodbye at the end of a run that went well; a rank that fails just goes."""
    global _store
    if world_size() > 1:
        import torch.distributed as dist

        dist.destroy_process_group()
        _store = None


@contextmanager
def main_first(what: str) -> Iterator[None]:
    """Let rank 0 do something before the others do it too: build the shards that they then only open.

    That may take hours, so nobody waits in a collective, which would give up after some minutes.
    """
    turn = f"{what} {next(_turns)}"  # all ranks come here equally often
    if _store is None:
        yield
    elif is_main():
        yield
        _store.set(turn, "done")
    else:
        _store.wait([turn], timedelta(days=30))
        yield


class WeightGroup:
    """A group beside those of a run, over which a trainer in another process sends weights; the trainer is rank 0.

    Args:
        address: `tcp://host:port`, where the trainer listens.
        name: of the group; both sides give the same.
        backend: `nccl` or `gloo`.
        rank: of this process, from 1.
        world_size: ranks in all.
        seconds: that joining, and every tensor, may take.

    Raises:
        UserError: the others did not come.
    """

    def __init__(self, address: str, name: str, backend: str, rank: int, world_size: int, seconds: float) -> None:
        import torch.distributed as dist
        from torch.distributed import distributed_c10d as c10d
        from torch.distributed.rendezvous import rendezvous

        limit = timedelta(seconds=seconds)
        try:
            store = next(rendezvous(address, rank, world_size, timeout=limit))[0]
            store.set_timeout(limit)
            # new_group makes parts of one world, and this group crosses two: the default group's own maker is used,
            # as on the trainer's side; the prefix and the name are where both look for each other.
            prefixed = dist.PrefixStore(name, store)
            self._group, _ = c10d._new_process_group_helper(
                world_size, rank, [], dist.Backend(backend), prefixed, c10d.GroupName(name), timeout=limit
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(f"no group {name!r} at {address}: {str(error).splitlines()[0]}") from None
        c10d._world.pg_group_ranks[self._group] = {number: number for number in range(world_size)}

    def receive(self, tensors: "Sequence[torch.Tensor]") -> None:
        """Fill tensors with what rank 0 broadcasts, in this order.

        Raises:
            UserError: nothing came, or the connection broke.
        """
        import torch.distributed as dist

        try:
            for work in [dist.broadcast(tensor, 0, self._group, async_op=True) for tensor in tensors]:
                work.wait()
        except RuntimeError as error:
            raise UserError(f"the weights did not come: {str(error).splitlines()[0]}") from None

    def leave(self) -> None:
        """End the group."""
        import torch.distributed as dist

        dist.destroy_process_group(self._group)


def all_reduce(value: "torch.Tensor") -> "torch.Tensor":
    """Replace `value` by the sum of what all ranks give, on all of them."""
    if world_size() > 1:
        import torch.distributed as dist

        dist.all_reduce(value)
    return value


def barrier() -> None:
    """Wait until all ranks are here."""
    any_rank(False)


def any_rank(flag: bool) -> bool:
    """Whether `flag` is true on at least one rank; nobody goes on before all have asked."""
    import torch

    return bool(all_reduce(torch.tensor(int(flag))))


def every_rank(flag: bool) -> bool:
    """Whether `flag` is true on every rank."""
    return not any_rank(not flag)


def on_all_ranks(act: Callable[[], None]) -> None:
    """Do something on every rank; where it fails on one, it fails on all of them, or the others would wait for it.

    Raises:
        UserError: the reason.
    """
    reason = None
    try:
        act()
    except UserError as error:
        reason = str(error)
    for said in all_gather(reason):
        if said is not None:
            raise UserError(said)


def all_gather(value: T) -> list[T]:
    """What each rank gives, in their order, on all of them."""
    if world_size() == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: T) -> T:
    """What rank 0 gives, on all ranks."""
    if world_size() == 1:
        return value
    import torch.distributed as dist

    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def speaks_for_all() -> bool:
    """Whether this rank is to say why the run ends: the first that fails, so that it is said once."""
    if _store is None:
        return is_main()  # what fails before the ranks have met fails on all of them
    try:
        return _store.add("failures", 1) == 1
    except RuntimeError:  # torchrun, which counted them, has gone
        return True
