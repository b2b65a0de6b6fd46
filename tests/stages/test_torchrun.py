"""`torchrun -m minimind train`: one of two processes is killed, and the run goes on with the same command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_stages import figures

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torch has no torchrun on Windows")


def torchrun(program, *flags):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
    arguments = [*command, *map(str, flags)]
    return subprocess.run(arguments, env=environment, capture_output=True, encoding="utf-8", timeout=600)


def ours(ended):
    """What we said, without torchrun's own report of a failed process."""
    return [line for line in ended.stderr.splitlines() if line.startswith("minimind: ")]


def test_a_rank_that_dies_ends_the_run_in_one_sentence_and_it_goes_on(minimind, pretrain_flags, tmp_path):
    flags = [*pretrain_flags, "--max-steps", "4", "--save-every", "2", "--set.train.dtype", "float32"]
    dying = [TESTS / "stages" / "dying_rank.py", TESTS, 3 * 2]  # the second optimizer's part of the third step
    ended = torchrun(map(str, dying), *flags, "--out", tmp_path / "two")
    assert ended.returncode != 0
    (sentence,) = ours(ended)
    assert "another process of this run has ended" in sentence
    assert "the same command goes on" in sentence
    assert "minimind/train" not in ended.stderr, "no traceback of ours"
    assert [path.name for path in (tmp_path / "two" / "checkpoints").glob("step-????????")] == ["step-00000002"]

    ended = torchrun(["-m", "minimind"], *flags, "--out", tmp_path / "two", "--json")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("\n") == 1
    assert ended.stderr.count("Continuing") == 1
    assert minimind(*flags, "--out", tmp_path / "one").code == 0
    for two, one in zip(figures(tmp_path / "two"), figures(tmp_path / "one"), strict=True):
        assert two["tokens"] == one["tokens"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert sorted(path.name for path in (tmp_path / "two").rglob("*.safetensors")) == ["model.safetensors"] * 3


def test_a_mistake_that_all_ranks_make_is_said_once(pretrain_flags, tmp_path):
    ended = torchrun(["-m", "minimind"], *pretrain_flags, "--set.train.tokens_per_step", "320", "--out", tmp_path)
    (sentence,) = ours(ended)
    assert "5 rows of 64, which 2 processes cannot share evenly; use 384" in sentence
