"""`minimind plan` with data, with a budget, and what it refuses."""

import json
import tomllib

import pytest

from minimind.plan.budget import program_memory
from minimind.plan.scaling import learning_rate, tokens_per_step


@pytest.fixture
def plan(minimind):
    def run(*argv):
        ended = minimind("plan", *argv, "--device", "cpu", "--json")
        assert ended.code == 0, ended.err
        return json.loads(ended.out.splitlines()[-1])

    return run


def test_epochs_of_the_data_become_tokens(plan, minimind, world):
    data = world / "few_pretrain.jsonl"
    epoch = plan("laptop", "--data", data, "--tokens-per-second", "100", "--set.data.valid_fraction", "0")
    assert epoch["epochs"] == 1
    assert epoch["seconds"] == pytest.approx(epoch["tokens"] / 100, abs=0.1)
    shards = json.loads(
        minimind("data", "prepare", "--data", data, "--out", world / "few", "--json").out.splitlines()[-1]
    )
    assert epoch["tokens"] == shards["tokens"]
    three = plan("laptop", "--data", data, "--set.train.epochs", "3", "--set.data.valid_fraction", "0")
    assert three["tokens"] == 3 * epoch["tokens"]
    assert three["flops_per_token"] < plan("laptop", "--tokens", "1e6")["flops_per_token"], (
        "short documents: less to see"
    )


def test_memory_is_told_by_what_needs_it(plan):
    eager, fused = (plan("laptop", "--tokens", "1e6", "--set.train.compile", way) for way in ("never", "auto"))
    for figures in (eager, fused):
        assert figures["memory_bytes"] == figures["memory"]["tensors"] + figures["memory"]["process"]
    assert eager["memory"]["activations"] > eager["memory"]["weights"] == 4 * eager["parameters"]


def test_a_budget_becomes_tokens_of_a_recipe(plan):
    figures = plan("laptop", "--minutes", "2", "--tokens-per-second", "1000", "--price-per-hour", "3")
    assert figures["tokens"] == 120_000
    assert figures["price"] == pytest.approx(0.1)
    assert plan("laptop", "--price", "0.1", "--price-per-hour", "3", "--tokens-per-second", "1000")["tokens"] == 120_000


def test_a_budget_alone_is_told_what_to_train(plan, minimind, world):
    hour, decade = plan("--minutes", "60"), plan("--minutes", "5e6")
    sizes = [row["parameters"] for row in hour["candidates"]]
    assert sizes == sorted(sizes)
    by_name = {row["preset"]: row for row in decade["candidates"]}
    assert by_name[decade["recommended"]]["bpb"] == min(row["bpb"] for row in decade["candidates"])
    chosen = [next(r["parameters"] for r in p["candidates"] if r["preset"] == p["recommended"]) for p in (hour, decade)]
    assert chosen[0] < chosen[1]
    few = plan("--minutes", "60", "--data", world / "few_pretrain.jsonl")
    assert all(row["epochs"] > 1 for row in few["candidates"])
    assert all(a["bpb"] > b["bpb"] for a, b in zip(few["candidates"], hour["candidates"], strict=True)), "little text"
    ended = minimind("plan", "--price", "3", "--price-per-hour", "1", "--device", "cpu")
    assert "minimind train pretrain" in " ".join(ended.err.split())


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--price", "3"], "--price-per-hour"),
        ([], "--minutes"),
        (["laptop"], "--data"),
        (["laptop", "--minutes", "-1"], "-1"),
    ],
)
def test_what_is_missing_is_named(minimind, argv, says):
    ended = minimind("plan", *argv, "--device", "cpu")
    assert ended.code == 2
    assert says in ended.err


def test_lora_trains_a_percent_and_costs_two_thirds(plan):
    whole, change = (plan("minimind-3", "--stage", stage, "--tokens", "1e6") for stage in ("sft", "lora"))
    assert change["parameters"] == whole["parameters"]
    assert change["trained_parameters"] == 8 * 8 * (2 * (768 + 768) + 2 * (768 + 384) + 3 * (768 + 2432))
    assert change["trained_parameters"] < 0.02 * whole["parameters"]
    assert 0.6 < change["flops_per_token"] / whole["flops_per_token"] < 0.75
    same = [f"--set.train.{name}" for name in ("micro_batch_tokens", "activation_checkpointing", "tokens_per_step")]
    same = [part for flag, value in zip(same, ("2048", "true", "16384"), strict=True) for part in (flag, value)]
    same += ["--set.train.dtype", "bfloat16", "--tokens-per-second", "100"]
    whole, change = (plan("minimind-3", "--stage", stage, "--tokens", "1e6", *same) for stage in ("sft", "lora"))
    program = program_memory(compiled=True)  # a torch for CUDA is larger, whatever is trained
    assert change["memory_bytes"] - program <= 0.45 * (whole["memory_bytes"] - program)
    assert change["memory"]["tensors"] <= 0.35 * whole["memory"]["tensors"]


def test_auto_chooses_what_fits_the_time_and_stays_with_it(minimind, world, tmp_path):
    data, run = world / "few_pretrain.jsonl", tmp_path / "run"
    command = ["train", "pretrain", "auto", "--minutes", "0.05", "--data", data, "--device", "cpu", "--out", run]
    settings = ["--set.train.compile", "never", "--set.data.sequence_length", "256"]
    ended = minimind(*command, *settings, "--max-steps", "1")
    assert ended.code == 0, ended.err
    assert "0.05 minutes: tiny" in ended.out + ended.err
    recipe = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))
    assert (recipe["preset"], recipe["train"]["max_steps"]) == ("tiny", 1)
    assert recipe["train"]["tokens_per_step"] == recipe["train"]["micro_batch_tokens"] == 2048
    assert recipe["optim"]["lr"] == pytest.approx(learning_rate(192), abs=1e-6)
    again = minimind(*command, *settings)
    assert again.code == 0, again.err
    assert "minutes:" not in again.out + again.err, "it goes on with what was chosen"


@pytest.mark.parametrize(
    "flags",
    [
        ["pretrain", "auto", "--data", "corpus.jsonl"],
        ["pretrain", "auto", "--minutes", "5"],
        ["pretrain", "auto", "--minutes", "0", "--data", "corpus.jsonl"],
        ["sft", "auto", "--minutes", "5", "--data", "corpus.jsonl"],
        ["pretrain", "laptop", "--minutes", "5", "--data", "corpus.jsonl"],
    ],
)
def test_auto_and_minutes_belong_together(minimind, flags):
    ended = minimind("train", *flags)
    assert ended.code == 2
    assert "--minutes" in ended.err
    assert len(ended.err.strip().splitlines()) == 1


def test_auto_is_for_one_process_and_a_new_model(minimind, monkeypatch):
    command = ["train", "pretrain", "auto", "--minutes", "5", "--data", "corpus.jsonl"]
    assert "one process" in minimind(*command, "--init", "model").err
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = minimind(*command)
    assert (ended.code, "one process" in ended.err) == (2, True)


def test_longer_runs_take_longer_steps_and_wider_models_smaller_rates():
    sizes = [tokens_per_step(tokens) for tokens in (1e4, 1e6, 1e7, 1e8, 1e10, 1e14)]
    assert sizes == [2048, 2048, 4096, 8192, 65536, 524288]
    assert [round(learning_rate(width), 5) for width in (256, 768)] == [0.003, 0.002]
