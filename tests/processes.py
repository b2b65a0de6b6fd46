"""Starts processes for tests: ranks of one run, and runs that are killed. They fork from one that has torch already."""

import os
import pickle
import signal
import socket
import sys
import traceback
from multiprocessing import get_context

FORKS = sys.platform != "win32"
CONTEXT = get_context("forkserver" if FORKS else "spawn")
if FORKS:
    CONTEXT.set_forkserver_preload(["minimind.stages.pretrain", "torch.distributed.fsdp", "torch._dynamo"])
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # what Windows calls SIGTERM is as abrupt


def in_ranks(world, function, *args, seconds=120):
    """Call `function(*args)` in `world` processes that are the ranks of one run; return what each gave."""
    results = CONTEXT.Queue()
    started = _started(world, results, function, args)
    try:
        values = {}
        for _ in started:
            number, value = results.get(timeout=seconds)
            if isinstance(value, str):
                raise AssertionError(f"rank {number} failed:\n{value}")
            values[number] = value
    finally:
        for process in started:
            process.join(0 if sys.exc_info()[0] else seconds)
            process.kill()
    return [pickle.loads(values[number]) for number in range(world)]


def kill_ranks(world, folder, moment, function, *args, seconds=120):
    """Call `function(*args)` in ranks. Once `folder` is there, rank 0 dies at a moment (as in `die_at`), then all."""
    results = CONTEXT.Queue()  # not read, but there for as long as they live
    started = _started(world, results, _dying, (folder, moment, function, args))
    try:
        started[0].join(seconds)
        assert started[0].exitcode == -KILL, f"it ended with {started[0].exitcode}"
    finally:
        for process in started:
            process.kill()
            process.join()


def _dying(folder, moment, function, args):
    from minimind import runtime

    if runtime.is_main():
        die_at(moment, [folder.parent], once=folder.exists)
    return function(*args)


def _started(world, results, function, args):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [CONTEXT.Process(target=_rank, args=(n, world, port, results, function, args)) for n in range(world)]
    for process in started:
        process.start()
    return started


def _rank(number, world, port, results, function, args):
    from minimind import ranks, runtime

    runtime.peak_flops = lambda *_: 1e11  # measuring it takes longer than these runs
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks.join("cpu")
    try:
        value = function(*args)
    except BaseException:
        results.put((number, traceback.format_exc()))
        raise
    ranks.leave()
    results.put((number, pickle.dumps(value)))  # by value: a tensor's memory would go with this process


def die_at(moment, folders, once=lambda: True):
    """Kill this process before its `moment`-th act of writing under `folders` or of an optimizer; count the acts.

    Only acts count that are done `once` something is so.
    """
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    places = tuple(str(folder) for folder in folders)
    acts = []

    def act(name):
        acts.extend([name] * once())
        if len(acts) == moment:
            os.kill(os.getpid(), KILL)

    def hear(event, args):
        changes = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")
        changes |= event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        if changes and str(args[0]).startswith(places):
            act(event)

    sys.addaudithook(hear)
    register_optimizer_step_pre_hook(lambda *_: act("step"))
    return acts
