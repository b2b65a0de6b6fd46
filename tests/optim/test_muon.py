import pytest
import torch
from processes import in_ranks
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from minimind import runtime
from minimind.optim import muon
from minimind.optim.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (32, 32)])
def test_equals_the_reference_in_torch(shape):
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    a = Muon(ours, lr=0.02, momentum=0.95, weight_decay=0.1)
    b = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(shape)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        # bfloat16 products in another order: the update itself is a few hundredths per step
        assert (p - q).abs().max() < 0.003


@pytest.mark.parametrize(
    ("fast", "computed"),
    [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32), (torch.float16, torch.float32)],
)
def test_it_computes_in_what_the_device_is_fast_at_but_never_in_float16(fast, computed, monkeypatch):
    monkeypatch.setattr(runtime, "compute_dtype", lambda on: fast)
    assert orthogonalize(1e-6 * torch.randn(24, 40)).dtype == computed


def test_stacked_experts_are_updated_one_by_one():
    torch.manual_seed(0)
    stacked = torch.nn.Parameter(torch.randn(4, 16, 24))
    single = [torch.nn.Parameter(stacked[i].detach().clone()) for i in range(4)]
    stacked.grad = torch.randn(4, 16, 24)
    for i, p in enumerate(single):
        p.grad = stacked.grad[i].clone()
    Muon([stacked]).step()
    Muon(single).step()
    torch.testing.assert_close(stacked.detach(), torch.stack([p.detach() for p in single]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("stack", [1, 2 * 16 * 24, 1 << 24])
def test_how_many_are_updated_together_changes_nothing(stack, monkeypatch):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(16, 24)) for _ in range(5)]
    expected = [p.detach() - 0.01 * 0.2 * 24**0.5 * orthogonalize(p.detach()) for p in parameters]
    for p in parameters:
        p.grad = p.detach().clone()
    monkeypatch.setattr("minimind.optim.muon.STACK", stack)
    Muon(parameters, lr=0.01, weight_decay=0.0).step()
    torch.testing.assert_close([p.detach() for p in parameters], expected, atol=1e-3, rtol=1e-3)


def test_the_update_is_nearly_orthogonal():
    torch.manual_seed(0)
    singular_values = torch.linalg.svdvals(orthogonalize(torch.randn(48, 96)).float())
    assert singular_values.min() > 0.6
    assert singular_values.max() < 1.3


SHAPES = [(24, 40)] * 5 + [(3, 16, 24)] * 2 + [(8, 8)]  # of experts, and one that two ranks cannot divide


def stepped(kind):
    """Weights after three steps in float32, and how many matrices this rank orthogonalised in each."""
    runtime.compute_dtype = lambda on: torch.float32
    done = []
    muon.orthogonalize = lambda update: done.append(update.shape[:-2].numel()) or orthogonalize(update)
    dice = torch.Generator().manual_seed(0)
    mesh = init_device_mesh("cpu", (runtime.world_size(),)) if kind == "fsdp" else None

    def held(tensor):
        return distribute_tensor(tensor, mesh, [Shard(0)]) if mesh else tensor

    parameters = [torch.nn.Parameter(held(torch.randn(shape, generator=dice))) for shape in SHAPES]
    optimizer = Muon(parameters, lr=0.1)
    for _ in range(3):
        for parameter, shape in zip(parameters, SHAPES, strict=True):
            parameter.grad = held(torch.randn(shape, generator=dice))
        optimizer.step()
    weights = [(p.full_tensor() if mesh else p).detach() for p in parameters]
    return weights, sum(done) // 3


def stepped_in_both_ways():
    return stepped("ddp"), stepped("fsdp")


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_divide_the_matrices_and_end_where_one_does(world, monkeypatch):
    monkeypatch.setattr(runtime, "compute_dtype", None)  # `stepped` replaces both; they come back afterwards
    monkeypatch.setattr(muon, "orthogonalize", None)
    expected, all_of_them = stepped("alone")
    assert all_of_them == 5 + 2 * 3 + 1
    for ways in in_ranks(world, stepped_in_both_ways):
        for weights, share in ways:
            torch.testing.assert_close(weights, expected, atol=1e-5, rtol=0)
            assert share == -(-5 // world) + -(-6 // world) + 1
