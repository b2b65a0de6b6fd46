"""DDP and FSDP2 with one rank, over NCCL: its gradients are those of a run without either, its checkpoints resume."""

import pytest
import torch
from gpu_models import REHEARSED
from gpu_runs import recipe_of, run, write_start
from processes import CONTEXT
from safetensors.torch import load_file

pytestmark = pytest.mark.gpu


def one_rank(kind, start, name, folder, results):
    """Two runs of the stage as the only rank of a group: one straight, one stopped in the middle and continued."""
    from types import SimpleNamespace

    import torch.distributed as dist

    from minimind import runtime
    from minimind.train import parallel

    device = torch.device("cpu" if REHEARSED else "cuda", 0)
    if not REHEARSED:
        torch.cuda.set_device(device)
    backend = "gloo" if REHEARSED else "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    on_device = torch.ones(3, device=device)
    dist.all_reduce(on_device)
    dist.all_reduce(on_device.cpu())
    parallel._mesh(device.type)  # of one rank, remembered; from here on it is wrapped and sharded as with several
    parallel.runtime = SimpleNamespace(world_size=lambda: 2, is_main=runtime.is_main, rank=runtime.rank)
    lines = run(recipe_of(start, name, **{"train.parallel": kind}), folder / "straight", folder / "cache")
    stopped = {"train.parallel": kind, "train.max_minutes": 1e-9}
    run(recipe_of(start, name, **stopped), folder / "again", folder / "cache")
    run(recipe_of(start, name, **{"train.parallel": kind}), folder / "again", folder / "cache")
    dist.destroy_process_group()
    results.put([line["loss"] for line in lines])


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    write_start(folder)
    return folder


@pytest.mark.parametrize(("kind", "name"), [("ddp", "pretrain"), ("fsdp", "pretrain moe"), ("fsdp", "grpo")])
def test_one_rank_learns_as_without(kind, name, start, tmp_path):
    results = CONTEXT.SimpleQueue()
    process = CONTEXT.Process(target=one_rank, args=(kind, start, name, tmp_path, results))
    process.start()
    process.join(400)
    process.kill()
    assert process.exitcode == 0
    losses = results.get()
    if name != "grpo":  # what is sampled may differ from the first rounding on
        alone = [line["loss"] for line in run(recipe_of(start, name), tmp_path / "alone", tmp_path / "cache")]
        assert losses == pytest.approx(alone, rel=1e-2)
        assert losses[:3] == pytest.approx(alone[:3], rel=1e-3)
    straight, again = (load_file(tmp_path / way / "model" / "model.safetensors") for way in ("straight", "again"))
    for weight_name, weight in straight.items():
        torch.testing.assert_close(again[weight_name], weight, rtol=0.02, atol=1e-3)
