"""`minimind plan` with data, with a budget, and what it refuses."""

import json
import re
import shutil
import tomllib

import pytest
import torch

from minimind import runtime
from minimind.commands import sizing
from minimind.commands import train as train_command
from minimind.commands.sizing import ENOUGH
from minimind.config import PRESETS
from minimind.plan.budget import program_memory
from minimind.plan.scaling import NOISE, SHORTEST_MEMORY, learning_rate, tokens_per_step
from minimind.recipe import Recipe, find, load, model_config
from minimind.train.folder import locked


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
    assert all(row["bpb_error"] >= NOISE for row in decade["candidates"])
    few = plan("--minutes", "60", "--data", world / "few_pretrain.jsonl")
    assert all(row["epochs"] > 1 for row in few["candidates"])
    assert all(a["bpb"] > b["bpb"] for a, b in zip(few["candidates"], hour["candidates"], strict=True)), "little text"
    assert few["recommended"] == "tiny", "others would learn so little text by heart"
    assert all(row["epochs"] <= ENOUGH for row in few["candidates"])
    one = plan("--minutes", "60", "--set.preset", "laptop", "--set.data.sequence_length", "8192")["candidates"]
    assert [(row["preset"], row["tokens_per_step"] % 8192) for row in one] == [("laptop", 0)]
    ended = minimind("plan", "--price", "3", "--price-per-hour", "1", "--device", "cpu")
    assert "minimind train pretrain" in " ".join(ended.err.split())


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--price", "3"], "--price-per-hour"),
        ([], "--minutes"),
        (["laptop"], "--data"),
        (["laptop", "--minutes", "-1"], "-1"),
        (["--minutes", "1e308"], "ten years"),
        (["--price", "1e300", "--price-per-hour", "1e-300"], "ten years"),
        (["--price", "1e-300", "--price-per-hour", "1e300"], "buys no time"),
        (["--minutes", "9", "--price", "3", "--price-per-hour", "1"], "without --minutes"),
        (["--minutes", "9", "--tokens", "7"], "for one RECIPE"),
        (["--minutes", "9", "--set.optim.matrices", "adamw"], "--set.optim.lr"),
        (["minimind-3", "--stage", "dpo", "--tokens", "7"], "plan knows pretrain, sft, lora"),
    ],
)
def test_what_is_missing_is_named(minimind, argv, says):
    ended = minimind("plan", *argv, "--device", "cpu")
    assert ended.code == 2
    assert says in ended.err


@pytest.mark.parametrize("asked", [["laptop", "--tokens", "1e6"], ["--minutes", "9", "--set.preset", "laptop"]])
def test_a_shape_that_could_not_be_read_again_is_refused(minimind, asked):
    ended = minimind("plan", *asked, "--set.model.num_hidden_layers", 10**12)
    assert (ended.code, "num_hidden_layers" in ended.err) == (1, True)


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
    assert re.search(
        r"0.05 minutes: tiny.* reaches \d+\.\d\d ± \d+\.\d\d bits", " ".join((ended.out + ended.err).split())
    )
    recipe = tomllib.loads((run / "recipe.toml").read_text(encoding="utf-8"))
    assert (recipe["preset"], recipe["train"]["max_steps"]) == ("tiny", 1)
    assert recipe["train"]["tokens_per_step"] == recipe["train"]["micro_batch_tokens"] == 2048
    assert recipe["optim"]["lr"] == pytest.approx(learning_rate(192), abs=1e-6)
    again = minimind(*command, *settings)
    assert again.code == 0, again.err
    assert "minutes:" not in again.out + again.err, "it goes on with what was chosen"
    for folder, minutes in ((run, "600"), (tmp_path / "other", "0.05")):
        if folder != run:
            shutil.copytree(run, folder)
            (folder / "auto.json").unlink()
        other = minimind(*command[:4], minutes, "--data", data, "--device", "cpu", "--out", folder)
        assert other.code == 2
        assert "another --out" in other.err


def test_auto_leaves_a_run_alone_that_is_being_written(minimind, world, tmp_path):
    command = ["train", "pretrain", "auto", "--minutes", "0.05", "--data", world / "few_pretrain.jsonl"]
    with locked(tmp_path):
        ended = minimind(*command, "--device", "cpu", "--out", tmp_path)
        assert (ended.code, (tmp_path / "auto.json").exists()) == (1, False)
    assert "another run is writing there" in ended.err


def test_what_is_given_is_not_chosen(monkeypatch):
    monkeypatch.setattr(sizing, "peak_flops", lambda device: 1e11)
    plain = sizing.best(sizing.choices(60, {}, (), "cpu"))
    for changes in ({"preset": "minimind-3"}, {"train.tokens_per_step": 65536}, {"train.micro_batch_tokens": 1024}):
        chosen = sizing.best(sizing.choices(60, changes, (), "cpu"))
        settings = chosen.settings()
        assert all(settings[name] == value for name, value in changes.items())
        assert chosen.steps * chosen.tokens_per_step == pytest.approx(60 * 60 * chosen.tokens_per_second, rel=0.05)
    assert plain.lr == pytest.approx(learning_rate(PRESETS[plain.preset].hidden_size), abs=1e-6)
    assert sizing.best(sizing.choices(60, {"optim.lr": 0.007}, (), "cpu")).lr == 0.007


def test_text_that_is_read_again_is_trained_with_heavy_decay(monkeypatch):
    monkeypatch.setattr(sizing, "peak_flops", lambda device: 1e11)
    tokens = {"few": 400_000, "some": 10_000_000, "hardly any": 5_000, "many": 400_000_000}

    def chosen(files, **settings):
        monkeypatch.setattr(sizing, "count", lambda *_: (tokens[files], 300.0))
        return sizing.best(sizing.choices(60, settings, (files,), "cpu"))

    often, once = chosen("few"), chosen("some")
    assert often.epochs > sizing.READ_AGAIN > once.epochs
    steps_per_epoch = often.steps / often.epochs
    assert 1 / (often.lr * often.weight_decay) == pytest.approx(steps_per_epoch, rel=0.05), "an epoch is remembered"
    recipe = load(Recipe, find("laptop", "pretrain"), often.settings())
    assert recipe.optim.embedding_decay == often.embedding_decay
    memory = 1 / (recipe.optim.lr * recipe.optim.embedding_lr * recipe.optim.embedding_decay)
    assert memory == pytest.approx(steps_per_epoch, rel=0.1), "by the embedding, at its own rate, too"
    least = chosen("hardly any")
    assert 1 / (least.lr * least.weight_decay) == pytest.approx(SHORTEST_MEMORY, rel=0.05), "or nothing is remembered"
    usual = load(Recipe, find("laptop", "pretrain")).optim.weight_decay
    assert (once.weight_decay, once.embedding_decay) == (usual, 0.0)
    monkeypatch.setattr(sizing, "peak_flops", lambda device: 1e16)
    often = chosen("many", **{"train.tokens_per_step": 2048})
    assert often.epochs > sizing.READ_AGAIN
    assert 1 / (often.lr * usual) < often.steps / often.epochs, "an epoch's memory would need less than the recipe's"
    assert often.weight_decay == usual
    for few in tokens:
        for decay in ("optim.weight_decay", "optim.embedding_decay"):
            assert chosen(few, **{decay: 0.0}).settings()[decay] == 0.0


def test_what_goes_through_a_gpu_at_once_fits_its_memory(monkeypatch):
    monkeypatch.setattr(runtime, "free_memory", lambda on: 8 * 2**30)
    monkeypatch.setitem(sizing.MICRO_BATCH_TOKENS, "cpu", 32768)
    recipe = load(Recipe, find("laptop", "pretrain"), {"preset": "minimind2"})
    config = model_config(recipe, 6400)
    small = sizing._at_once(recipe, config, 65536, torch.device("cpu"))
    monkeypatch.setattr(runtime, "free_memory", lambda on: 80 * 2**30)
    assert recipe.data.sequence_length <= small < sizing._at_once(recipe, config, 65536, torch.device("cpu")) == 32768


def test_the_speed_of_a_longer_run_is_tried(minimind, world, tmp_path, monkeypatch):
    """A machine that is a thousand times slower than its products say is given a thousandth of the steps."""
    tried = []
    monkeypatch.setattr(train_command, "trial", lambda choice, settings: tried.append(choice) or 1000.0)
    run = tmp_path / "run"
    command = ["train", "pretrain", "auto", "--minutes", "3", "--data", world / "few_pretrain.jsonl", "--out", run]
    assert minimind(*command, "--set.train.compile", "never", "--max-steps", "1", "--device", "cpu").code == 0
    assert len(tried) == 1
    tokens = sizing.trial(tried[0], {"data.files": [str(world / "few_pretrain.jsonl")], "train.compile": "never"})
    assert tokens > 100


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
