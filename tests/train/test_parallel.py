"""Ranks that are real processes: the maths is that of one, checkpoints are for any number, and nobody waits forever."""

import itertools
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import FORKS, in_ranks
from test_loop import SHAPE, WALL_CLOCK, Counting, make, recipe

from minimind import ranks, runtime
from minimind.errors import UsageError
from minimind.stages.pretrain import next_token_loss
from minimind.train import metrics, parallel
from minimind.train.job import Rehearsal
from minimind.train.loop import rows_of_a_step, run
from minimind.train.resume import check_recipe

MODELS = {
    "dense": SHAPE,
    "sparse": replace(SHAPE, num_experts=16),  # some experts get none of a rank's few tokens
    "rehearsing": SHAPE,
    "wide": replace(SHAPE, hidden_size=96, vocab_size=300),
}
KINDS = ("ddp", "fsdp")


MANY = [(2, KINDS, ["dense", "sparse", "rehearsing"]), (4, ["ddp"], ["dense", "rehearsing"])]


def train(out, steps=3, model="dense", kind="ddp", optim="sgd", **changes):
    """Eight rows a step, shared by as many ranks as there are: the weights and the metrics after `steps` of six."""
    job = make(fail_at=steps, loss=next_token_loss, config=MODELS[model], optim=optim, kind=kind)
    if model == "rehearsing":
        job.rehearsal = Rehearsal(Counting(at=1000), next_token_loss, rows=4 // runtime.world_size(), weight=0.5)
    settings = recipe(**({"tokens_per_step": 128, "micro_batch_tokens": 32, "valid_every": 0} | changes))
    settings.optim.lr = 0.5 if optim == "sgd" else 3e-3
    try:
        run(job, settings, out)
    except KeyboardInterrupt:
        assert steps < 6
    lines = [{k: v for k, v in line.items() if k not in WALL_CLOCK} for line in metrics.read(out / "metrics.jsonl")]
    return parallel.whole_weights(job.model), lines


def train_all(folder, kinds, models):
    return {(kind, model): train(folder / kind / model, model=model, kind=kind) for kind in kinds for model in models}


def assert_alike(a, b, weights=1e-6, figures=1e-6):
    for line, other in zip(a[1], b[1], strict=True):
        assert line.keys() == other.keys()
        for name, value in line.items():
            actual, expected = (torch.tensor(x, dtype=torch.float64) for x in (other[name], value))
            torch.testing.assert_close(actual, expected, rtol=figures, atol=0, msg=f"{name} of step {line['step']}")
    for name, weight in a[0].items():
        torch.testing.assert_close(weight, b[0][name], atol=weights, rtol=0, msg=name)


@pytest.mark.parametrize(("world", "kinds", "models"), MANY)
def test_ranks_and_accumulation_change_nothing(tmp_path, world, kinds, models):
    alone = {model: train(tmp_path / "alone" / model, model=model) for model in models}
    several = in_ranks(world, train_all, tmp_path / "several", kinds, models)[0]
    for kind, model in itertools.product(kinds, models):
        assert_alike(several[kind, model], alone[model])
    assert_alike(alone["dense"], train(tmp_path / "whole", micro_batch_tokens=128))
    before = dict(make().model.named_parameters())
    assert sum((weight - before[name]).square().sum() for name, weight in alone["dense"][0].items()) > 0.5**2


def interrupted_in_all_ways(folder):
    """Two ranks begin a run and continue others."""
    train(folder / "two-one", optim="muon")
    train(folder / "fsdp-one", optim="muon", kind="fsdp")
    train(folder / "ddp-fsdp", optim="muon")
    return {
        "ddp-fsdp": train(folder / "ddp-fsdp", 6, optim="muon", kind="fsdp"),
        "one-two": train(folder / "one-two", 6, optim="muon"),
        "one-fsdp": train(folder / "one-fsdp", 6, optim="muon", kind="fsdp"),
    }


def test_a_run_continues_with_another_number_of_ranks(tmp_path):
    straight = train(tmp_path / "straight", 6, optim="muon")
    for name in ("one-two", "one-fsdp"):
        train(tmp_path / name, optim="muon")
    ends = in_ranks(2, interrupted_in_all_ways, tmp_path)[0]
    for name in ("two-one", "fsdp-one"):
        ends[name] = train(tmp_path / name, 6, optim="muon")
    assert len(ends) == 5
    for end in ends.values():
        assert_alike(straight, end, weights=1e-3, figures=1e-4)  # Muon rounds to bfloat16


def exactly(folder):
    """A run of this many ranks, and one that is interrupted."""
    changes = {"model": "wide", "optim": "adamw", "tokens_per_step": 96}
    train(folder / "broken", **changes)
    return train(folder / "straight", 6, **changes), train(folder / "broken", 6, **changes)


def test_an_interrupted_run_of_three_ranks_ends_in_the_same_bits(tmp_path):
    """Two ranks can be added up in one order only, three cannot: it depends on how DDP lays its buckets out."""
    straight, broken = in_ranks(3, exactly, tmp_path)[0]
    assert straight[1] == broken[1]
    for name, weight in straight[0].items():
        assert torch.equal(weight, broken[0][name]), name


def stopped(folder):
    """Rank 1 alone is asked to stop, in its second step."""
    job = make(steps=50)
    asked = itertools.count(1)
    loss = job.loss

    def asking(model, batch, compiled=False):
        if runtime.rank() == 1 and next(asked) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(model, batch)

    job.loss = asking
    at = run(job, recipe(tokens_per_step=64, save_every=0, valid_every=0), folder)
    saved = sorted(path.name for path in (folder / "checkpoints").iterdir())
    return at.step, saved, ranks.all_gather(at.step), ranks.all_gather(torch.rand(()).item())


@pytest.mark.skipif(not FORKS, reason="Windows has no SIGTERM to catch")
def test_all_ranks_stop_together(tmp_path):
    (step, saved, steps, (one, other)), _ = in_ranks(2, stopped, tmp_path)
    assert step < 5
    assert steps == [step, step]
    assert saved == [f"step-{step:08d}"]
    assert one != other, "dropout leaves other inputs out on each rank"


def test_rows_that_cannot_be_shared_evenly(monkeypatch):
    assert rows_of_a_step(recipe(tokens_per_step=128, micro_batch_tokens=48)) == (8, 3)
    monkeypatch.setattr(runtime, "world_size", lambda: 3)
    with pytest.raises(UsageError, match=r"8 rows of 16.*3 processes.*use 144"):
        rows_of_a_step(recipe(tokens_per_step=128))
    assert rows_of_a_step(recipe(tokens_per_step=144)) == (3, 3)
    sampling = replace(recipe(tokens_per_step=128, micro_batch_tokens=48), samples=True)
    assert rows_of_a_step(sampling) == (0, 3), "the rollout decides"
    check_recipe(Path("c"), sampling.recipe, recipe(tokens_per_step=144, micro_batch_tokens=48).recipe, samples=True)
