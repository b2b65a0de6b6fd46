"""Whole runs: what they leave behind, that another library reads it, and that interruptions change nothing."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

import minimind as package
from minimind.data.packing import PackedStream
from minimind.recipe import Recipe, load
from minimind.train import metrics

WALL_CLOCK = {"tokens_per_second", "rollout_tokens_per_second", "mfu"}
TEXTS = [
    "The quick brown fox.",
    "春眠不觉晓，处处闻啼鸟。",
    "  two  spaces\n\nand lines\t1234 'quoted'",
    "混合 mixed 🙂 text",
]


def figures(run):
    """The metrics of a run without what the clock decides."""
    lines = metrics.read(run / "metrics.jsonl")
    return [{name: value for name, value in line.items() if name not in WALL_CLOCK} for line in lines]


def weights(run):
    """Of a model or an adapter."""
    (file,) = (run / "model").glob("*.safetensors")
    return file.read_bytes()


@pytest.fixture
def no_batches(monkeypatch):
    """Training on any further batch fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("it trains again")

    monkeypatch.setattr(PackedStream, "next_batch", refuse)


def test_a_pretraining_leaves_a_whole_run(pretrained):
    lines = figures(pretrained)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert {"tokens", "loss", "lr", "grad_norm"} <= set(lines[0])
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.3
    assert 0.9 * 8 * 256 <= lines[-1]["tokens"] <= 8 * 256
    recipe = load(Recipe, pretrained / "recipe.toml")
    assert recipe.train.max_steps == 8
    assert recipe.model == {"num_hidden_layers": 2}
    assert json.loads((pretrained / "environment.json").read_text(encoding="utf-8"))["torch"] == torch.__version__
    assert sorted(path.name for path in (pretrained / "checkpoints").iterdir()) == ["step-00000004", "step-00000008"]
    last = pretrained / "checkpoints" / "step-00000008"
    assert (last / "complete").is_file()
    assert weights(pretrained) == (last / "model.safetensors").read_bytes()


def test_fine_tuning_starts_from_the_pretrained_weights(pretrained, tuned):
    before, after = (package.load(run / "model", "cpu").model for run in (pretrained, tuned))
    assert before.config == after.config
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        distance = (new - old).norm() / old.norm()
        assert distance < 0.5, name
    assert not torch.equal(before.output_weight, after.output_weight)
    loss = [line["loss"] for line in figures(tuned)]
    assert loss[-1] < loss[0]


def test_validation_is_logged_with_the_last_step(minimind, pretrain_flags, world, tmp_path):
    flags = [*pretrain_flags, "--valid", world / "few_pretrain_valid.jsonl", "--max-steps", "2"]
    ended = minimind(*flags, "--set.train.valid_every", "1", "--out", tmp_path / "run", "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out) == {"model": str(tmp_path / "run" / "model"), "run": str(tmp_path / "run")}
    bpb = {line["step"]: line["valid_bpb"] for line in figures(tmp_path / "run") if "valid_bpb" in line}
    assert list(bpb) == [1, 2]
    argv = ["eval", "bpb", tmp_path / "run" / "model", "--data", world / "few_pretrain_valid.jsonl", "--json"]
    measured = json.loads(minimind(*argv, "--device", "cpu").out)
    assert measured["bpb"] == pytest.approx(bpb[2], rel=0.02)  # shorter windows there, and weights stored as bfloat16
    nats = measured["bpb"] * measured["bytes"] * math.log(2)
    assert measured["loss"] == pytest.approx(nats / measured["tokens"], rel=1e-6)


@pytest.mark.parametrize("stage", ["pretrained", "tuned", "sparse"])
def test_transformers_reads_the_result(request, stage):
    transformers = pytest.importorskip("transformers")
    folder = request.getfixturevalue(stage) / "model"
    lm = package.load(folder, "cpu")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        ids = lm.tokenizer.encode(text)
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
        assert tokenizer.decode(ids) == text == lm.tokenizer.decode(ids)
        with torch.no_grad():
            expected = theirs(torch.tensor([ids])).logits[0]
        torch.testing.assert_close(lm.logits(ids), expected, atol=2e-4, rtol=1e-4)


@pytest.fixture(scope="session")
def sparse(tmp_path_factory, minimind, pretrain_flags):
    """A pretraining of `tiny-moe`."""
    run = tmp_path_factory.mktemp("moe") / "run"
    flags = [*pretrain_flags, "--preset", "tiny-moe", "--max-steps", "3", "--out", run]
    ended = minimind(*flags)
    assert ended.code == 0, ended.err
    return run


def test_a_mixture_of_experts_logs_the_load_of_each(sparse):
    for line in figures(sparse):
        load = torch.tensor(line["expert_load"])
        assert load.shape == (2, 4)  # [layers, experts]
        torch.testing.assert_close(load.sum(-1), torch.ones(2))
        assert line["balance_loss"] >= 0.99  # 1 where the load is even
    assert figures(sparse)[-1]["loss"] < figures(sparse)[0]["loss"]


def test_a_finished_run_is_not_trained_again(minimind, pretrain_flags, pretrained, no_batches):
    before, lines = weights(pretrained), figures(pretrained)
    ended = minimind(*pretrain_flags, "--out", pretrained)
    assert ended.code == 0, ended.err
    assert "step 8 of 8" in " ".join(ended.err.split())
    assert weights(pretrained) == before
    assert figures(pretrained) == lines


def test_more_steps_continue_a_finished_run(minimind, pretrain_flags, pretrained, tmp_path):
    run = shutil.copytree(pretrained, tmp_path / "run")
    ended = minimind(*pretrain_flags, "--out", run, "--max-steps", "10")
    assert ended.code == 0, ended.err
    assert "Changed since the checkpoint: train.max_steps 8 → 10." in " ".join(ended.err.split())
    assert [line["step"] for line in figures(run)] == list(range(1, 11))
    assert figures(run)[:8] == figures(pretrained)
    assert weights(run) != weights(pretrained)


def test_resume_never_starts_anew(minimind, pretrain_flags, pretrained, tmp_path):
    run = shutil.copytree(pretrained, tmp_path / "run")
    ended = minimind(*pretrain_flags, "--out", run, "--max-steps", "4", "--seed", "7", "--resume", "never")
    assert ended.code == 0, ended.err
    assert "Continuing" not in ended.err
    assert [line["step"] for line in figures(run)] == [1, 2, 3, 4]
    assert figures(run)[0]["loss"] != figures(pretrained)[0]["loss"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000004"], "or it would go on from step 8"


def test_the_same_command_gives_the_same_bytes(minimind, pretrain_flags, pretrained, tmp_path):
    assert minimind(*pretrain_flags, "--out", tmp_path / "run").code == 0
    assert weights(tmp_path / "run") == weights(pretrained)
    assert figures(tmp_path / "run") == figures(pretrained)


def start(flags):
    """A training in a process of its own."""
    command = [sys.executable, "-m", "minimind", *map(str, flags)]
    # with another number of threads than this process, sums would be made in another order: other bits
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(command, env=os.environ | threads, stderr=subprocess.PIPE, text=True, encoding="utf-8")


def wait_for(path, process, seconds=120):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.002)


LONG = ["--max-steps", "120", "--save-every", "5"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, minimind, pretrain_flags):
    run = tmp_path_factory.mktemp("straight") / "run"
    assert minimind(*pretrain_flags, *LONG, "--out", run).code == 0
    return run


@pytest.mark.skipif(sys.platform == "win32", reason="there SIGTERM ends a process at once")
def test_sigterm_saves_and_exits(minimind, pretrain_flags, uninterrupted, tmp_path):
    run = tmp_path / "run"
    flags = [*pretrain_flags, *LONG, "--max-minutes", "60", "--out", run]  # whose end is no interruption
    process = start([*flags, "--save-every", "0"])
    wait_for(run / "metrics.jsonl", process)
    while not metrics.read(run / "metrics.jsonl"):  # the loop has begun
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    assert "run the same command again to continue" in " ".join(err.split())
    assert "Traceback" not in err
    (saved,) = (run / "checkpoints").iterdir()
    assert int(saved.name[-8:]) == figures(run)[-1]["step"] < 120
    ended = minimind(*flags)
    assert ended.code == 0, ended.err
    assert weights(run) == weights(uninterrupted)
    assert figures(run) == figures(uninterrupted)
