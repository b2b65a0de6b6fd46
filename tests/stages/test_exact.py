"""A run that is killed, again and again and at any instant, ends in the bits of one that never was."""

import itertools
import random
import time

import pytest
from processes import CONTEXT, KILL, die_at
from test_stages import figures, weights

KILLS = 5


def train(flags, out, cache, moment=0, acts=None):
    """Run the command line in this process, watched, and killed at its `moment`-th act."""
    from minimind import runtime
    from minimind.cli import main

    runtime.peak_flops = lambda *_: 1e11
    runtime.cache_dir = lambda: cache
    seen, began = die_at(moment, [out, cache]), time.monotonic()
    assert main([*flags, "--out", str(out)]) == 0
    if acts is not None:
        acts.put((len(seen), time.monotonic() - began))


def in_process(*args):
    process = CONTEXT.Process(target=train, args=args)
    process.start()
    return process


CHOICES = list(itertools.product(["float32", "bfloat16"], ["never", "always"], ["adamw", "muon"], ["tiny", "tiny-moe"]))
QUICK = [("float32", "never", "adamw", "tiny-moe"), ("bfloat16", "never", "muon", "tiny")]


@pytest.mark.parametrize(
    ("dtype", "compiled", "optim", "preset"),
    [pytest.param(*choice, marks=[] if choice in QUICK else pytest.mark.slow) for choice in CHOICES],
)
def test_killed_at_any_instant(world, pretrain_flags, tmp_path, dtype, compiled, optim, preset):
    flags = [*pretrain_flags, "--preset", preset, "--set.optim.matrices", optim, "--set.train.dtype", dtype]
    flags += ["--set.train.compile", compiled, "--valid", str(world / "few_pretrain_valid.jsonl"), "--save-every", "2"]
    flags += ["--set.model.hidden_size", "64", "--set.model.intermediate_size", "64"]
    flags += ["--set.model.moe_intermediate_size", "64", "--set.train.valid_every", "5", "--max-steps", "7"]
    killed_again_and_again(flags, tmp_path, f"{dtype} {compiled} {optim} {preset}")


def killed_again_and_again(flags, tmp_path, seed):
    """Run `flags` straight, and killed at moments that `seed` chooses: the results are the same bits."""
    acts = CONTEXT.SimpleQueue()
    straight = in_process(flags, tmp_path / "straight", tmp_path / "cache of straight", 0, acts)
    straight.join()
    assert straight.exitcode == 0
    total, seconds = acts.get()

    chance = random.Random(seed)
    run, cache, died_at = tmp_path / "run", tmp_path / "cache", []
    for kill in range(KILLS):
        if kill % 2 == 0:  # between two acts, which are those of all runs
            died_at.append(chance.randrange(1, total // 2))
            process = in_process(flags, run, cache, died_at[-1])
        else:  # wherever it is by then, in the middle of a file too
            died_at.append(chance.uniform(0, 0.6 * seconds))
            process = in_process(flags, run, cache)
            process.join(died_at[-1])
            process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -KILL
    assert kill, "it was killed once at least"
    last = in_process(flags, run, cache)
    last.join()
    assert last.exitcode == 0
    assert weights(run) == weights(tmp_path / "straight"), died_at
    assert figures(run) == figures(tmp_path / "straight"), died_at
    assert not list(run.rglob("*.tmp"))
