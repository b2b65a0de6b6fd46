"""Where the time of a training step goes, by the profiler."""

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.work import Tell, Work, timed
from minimind.bench.ours import Ours

STEPS, SHOWN = 2, 10


def where(work: Work, tell: Tell) -> None:
    """The ten kernels that take most, and how long the device had nothing to do."""
    recipe = work.recipe(work.sizes.dense, **{"train.micro_batch_tokens": work.sizes.micro_batches[0]})
    ours, on = Ours(recipe, work.tokenizer, work.shards(recipe)), work.on
    for _ in range(2):
        ours.step()
    wall = timed(lambda: [ours.step() for _ in range(STEPS)], on)  # by itself: the profiler slows the host down
    cuda = on.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU][not cuda :]) as seen:
        timed(lambda: [ours.step() for _ in range(STEPS)], on)
    kind = "self_device_time_total" if cuda else "self_cpu_time_total"
    # On a GPU an operator carries the time of the kernels that it started, which are in the list themselves, too.
    events = [event for event in seen.key_averages() if (event.device_type == DeviceType.CPU) != cuda]
    found = sorted(events, key=lambda event: getattr(event, kind), reverse=True)
    total = sum(getattr(event, kind) for event in found)
    for event in found[:SHOWN]:
        taken = getattr(event, kind)
        tell(
            {
                "kernel": event.key[:80],
                "share": round(taken / total, 4),
                "calls_a_step": event.count / STEPS,
                "ms_a_step": round(taken / 1000 / STEPS, 3),
            }
        )
    tell({"kernel": "all", "share": 1.0, "ms_a_step": round(total / 1000 / STEPS, 3)})
    if not cuda:
        tell({"kernel": "idle", "error": "needs CUDA"})
        return
    idle = wall - total / 1e6
    tell({"kernel": "idle", "share": round(idle / wall, 4), "ms_a_step": round(idle * 1000 / STEPS, 3)})
