"""`train grpo` and `train ppo`: they learn what is rewarded and nothing else, and can be killed at any instant."""

import json
import random
from dataclasses import replace

import pytest
import torch
from processes import CONTEXT, KILL, die_at, in_ranks
from test_stages import weights

from minimind import recipe as recipes
from minimind import runtime
from minimind.config import PRESETS
from minimind.model.qwen3 import Transformer
from minimind.model.store import load_model, save_model
from minimind.recipe import Recipe
from minimind.stages import ppo, setup, setup_rl
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import metrics

REWARDS = """
from minimind.rl.rewards import reward


@reward
def copies(samples):  # something that a random model does sometimes: it says a token again
    return [sum(a == b for a, b in zip(s.ids, s.ids[1:])) / len(s.ids) for s in samples]


@reward
def constant(samples):
    return [0.7] * len(samples)


@reward
def silent(samples):
    return [None] * len(samples)
"""
FLAGS = [
    *("--device", "cpu", "--set.train.compile", "never", "--set.train.log_every", "1", "--set.train.dtype", "float32"),
    *("--set.train.valid_every", "0", "--set.train.sample_every", "0", "--save-every", "0", "--max-steps", "6"),
    *("--set.data.sequence_length", "64", "--set.train.tokens_per_step", "512", "--set.rl.max_new_tokens", "8"),
    *("--set.train.micro_batch_tokens", "512", "--set.rl.groups", "4", "--set.rl.samples", "4"),
    *("--set.rl.epochs", "2", "--set.rl.minibatches", "1", "--set.rl.kl_coef", "0", "--set.optim.lr", "3e-3"),
    *("--set.scoring.weights", "{ copies = 1.0 }", "--set.optim.warmup", "0.02"),
]


@pytest.fixture(autouse=True)
def _no_measurement(monkeypatch):
    monkeypatch.setattr(runtime, "peak_flops", lambda *_: 1e11)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A random toy, some prompts, and rewards of its own."""
    folder, tokenizer = tmp_path_factory.mktemp("rl"), Tokenizer.load("default")
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256}
    model = Transformer(PRESETS["tiny"].with_(vocab_size=tokenizer.vocab_size, **shape))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight *= 12 if "embed" in name else 3
    save_model(model, folder / "model", "float32")
    tokenizer.save(folder / "model")
    (folder / "rewards.py").write_text(REWARDS, encoding="utf-8")
    rows = [{"messages": [{"role": "user", "content": f"{n} + 1?"}], "gt": [str(n + 1)]} for n in range(12)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "prompts.jsonl").write_text(text, encoding="utf-8", newline="\n")
    return folder


def flags(start, stage, *more):
    given = ["--data", start / "prompts.jsonl", "--init", start / "model", "--set.scoring.file", start / "rewards.py"]
    return ["train", stage, "tiny", *map(str, given), *FLAGS, *more]


def figures(run):
    lines = metrics.read(run / "metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.endswith("per_second") and k != "mfu"} for line in lines]


MANY = ("--set.rl.groups", "16")
"""For methods whose gradient is noisier."""
LEARNING = {
    "grpo": ("grpo", []),
    "cispo": ("grpo", ["--set.rl.algorithm", "cispo"]),
    "gspo": ("grpo", ["--set.rl.algorithm", "gspo", "--set.rl.clip_low", "0.1", "--set.rl.clip_high", "0.1"]),
    "reference": ("grpo", ["--set.rl.kl_coef", "0.01", "--set.rl.epochs", "1"]),
    "adapter": (
        "grpo",
        [
            *("--set.lora.rank", "16", "--set.lora.alpha", "64", "--set.rl.kl_coef", "0.01", "--set.optim.lr", "5e-3"),
            *MANY,
            "--seed",
            "1",
        ],
    ),
    # at half this rate the reward of some seeds has just begun to rise when the run ends
    "ppo": ("ppo", ["--set.ppo.critic_lr", "1e-2", "--set.ppo.warmup_rollouts", "1", "--set.optim.lr", "6e-3", *MANY]),
}


@pytest.mark.parametrize("name", LEARNING)
def test_what_is_rewarded_becomes_more_frequent(minimind, start, tmp_path, name):
    stage, more = LEARNING[name]
    more = [*more, "--max-steps", "40", "--set.rl.samples", "8", "--set.train.log_every", "4"]
    more += ["--set.train.micro_batch_tokens", "4096", "--set.train.tokens_per_step", "4096"]
    ended = minimind(*flags(start, stage, *more), "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    lines = figures(tmp_path / "run")
    first, last = lines[0]["reward_copies"], lines[-1]["reward_copies"]
    assert last > first + 0.15, [line["reward"] for line in lines]
    assert lines[0]["mismatch_kl"] < 1e-6
    wanted = {
        "entropy",
        "kl",
        "clipped",
        "ratio_max",
        "answer_tokens",
        "truncated",
        "zero_std_groups",
        "reward_histogram",
    }
    assert wanted <= set(lines[-1])
    if name in ("reference", "adapter"):
        assert lines[0]["reference_kl"] < 1e-6 < lines[-1]["reference_kl"]
    if name == "ppo":
        assert {"value", "value_loss", "returns", "value_clipped"} <= set(lines[-1])


@pytest.mark.parametrize("control", ["constant rewards", "a rate of 0"])
def test_without_a_signal_nothing_moves(minimind, start, tmp_path, control):
    more = ["--set.scoring.weights", "{ constant = 1.0 }", "--set.rl.filter_groups", "keep"]
    more = more if control == "constant rewards" else ["--set.optim.lr", "1e-30"]
    assert minimind(*flags(start, "grpo", *more), "--out", tmp_path / "run").code == 0
    lines = figures(tmp_path / "run")
    if control == "constant rewards":
        assert [line["grad_norm"] for line in lines] == [0] * len(lines)
        assert [line["zero_std_groups"] for line in lines if "zero_std_groups" in line] == [1] * (len(lines) // 2)
    before, after = (dict(load_model(f).named_parameters()) for f in (start / "model", tmp_path / "run" / "model"))
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=0)


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_a_run_in_which_nothing_can_be_judged_fails(minimind, start, tmp_path, stage):
    more = ["--set.scoring.weights", "{ silent = 1.0 }", "--set.rl.attempts", "2"]
    ended = minimind(*flags(start, stage, *more), "--out", tmp_path / "run")
    assert ended.code == 1
    assert "no answer of this rollout could be judged: of the rewards silent one gave no value" in ended.err
    assert "Saved at step 0" in ended.err


def test_nothing_to_learn_is_said_and_saved(minimind, start, tmp_path):
    more = ["--set.scoring.weights", "{ constant = 1.0 }", "--set.rl.attempts", "2"]
    ended = minimind(*flags(start, "grpo", *more), "--out", tmp_path / "run")
    assert ended.code == 1
    said = " ".join(ended.err.split())
    assert "there is nothing to learn" in said
    assert "Saved at step 0" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("guard", "reason"),
    [("stop_kl", "1e-9"), ("stop_entropy", "100"), ("stop_length", "3")],
)
def test_a_collapse_is_noticed(minimind, start, tmp_path, guard, reason):
    ended = minimind(*flags(start, "grpo", f"--set.rl.{guard}", reason), "--out", tmp_path / "run")
    assert ended.code == 1
    assert f"rl.{guard}" in ended.err
    assert list((tmp_path / "run" / "checkpoints").iterdir()), "what was learned is saved"


def test_resampling_fills_the_groups_and_validation_asks_twice(minimind, start, tmp_path):
    more = [
        "--set.rl.filter_groups",
        "resample",
        "--valid",
        str(start / "prompts.jsonl"),
        "--set.train.valid_every",
        "3",
    ]
    more += ["--set.train.sample_every", "3", "--set.scoring.weights", "{ copies = 1.0, numeric = 0.5 }"]
    more += ["--set.rl.filter_metric", "copies", "--set.rl.thinking_ratio", "0.5"]
    ended = minimind(*flags(start, "grpo", *more), "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    valid = [line for line in figures(tmp_path / "run") if "valid_copies" in line]
    assert [line["step"] for line in valid] == [3, 6]
    assert {"valid_numeric", "valid_greedy_copies"} <= set(valid[0])
    assert "+ 1? →" in ended.err, "samples are shown"


def test_weights_keep_their_own_rate_beside_the_others():
    one, other, critic = (torch.nn.Parameter(torch.zeros(1)) for _ in range(3))
    actor = torch.optim.SGD([{"params": [one], "lr_scale": 4.0}, {"params": [other]}], lr=1.0)
    optimizers = [[actor], [torch.optim.SGD([critic], lr=1.0)]]
    own, recipe = ppo.rates(optimizers), Recipe()

    def rates(actor_learns):
        ppo.set_rates(optimizers, own, recipe, actor_learns)
        return ppo.rates(optimizers)

    assert rates(False) == [[0, 0], [1]]
    assert rates(True) == [[4, 1], [1]]


def test_the_critic_learns_first_and_the_rest_of_a_rollout_can_be_left(minimind, start, tmp_path):
    more = [
        "--set.ppo.warmup_rollouts",
        "10",
        "--set.ppo.critic_lr",
        "1e-2",
        "--set.optim.weight_decay",
        "0.1",
        "--set.optim.matrices",
        "adamw",
    ]
    assert minimind(*flags(start, "ppo", *more), "--out", tmp_path / "warm").code == 0
    before, after = (dict(load_model(f).named_parameters()) for f in (start / "model", tmp_path / "warm" / "model"))
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    lines = figures(tmp_path / "warm")
    assert lines[0]["value"] == 0
    assert abs(lines[-1]["value"] - lines[-1]["returns"]) < abs(lines[0]["returns"])

    more = ["--set.ppo.target_kl", "1e-12", "--set.rl.epochs", "4", "--set.ppo.warmup_rollouts", "0"]
    assert minimind(*flags(start, "ppo", *more), "--out", tmp_path / "early").code == 0
    rollouts = [line["step"] for line in figures(tmp_path / "early") if "reward" in line]
    assert rollouts == [1, 3, 5], "the first step of a rollout has moved nothing yet, the second says so"


def test_a_server_that_is_gone_is_said_and_what_was_learned_is_saved(minimind, start, tmp_path, monkeypatch):
    from minimind.rl import rollout_http

    monkeypatch.setattr(rollout_http, "TRIES", 2)
    more = ["--set.rl.server", "http://127.0.0.1:9", "--set.rl.server_folder", str(tmp_path / "weights")]
    ended = minimind(*flags(start, "grpo", *more), "--out", tmp_path / "run")
    assert ended.code == 1
    said = " ".join(ended.err.split())
    assert "could not be used in 2 tries" in said
    assert "Saved at step 0; the same command continues it" in said
    assert "Traceback" not in said
    assert minimind(*flags(start, "grpo"), "--out", tmp_path / "run").code == 0, "here with the engine in the process"


class Nobody:
    def __init__(self, *_):
        raise AssertionError("an engine was asked for")


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_a_run_is_repeated_from_what_it_kept(minimind, start, tmp_path, stage, monkeypatch):
    """Without an engine, and to the bit; killed and continued too."""
    more = ["--set.rl.filter_groups", "resample", "--set.rl.thinking_ratio", "0.5", "--set.rl.kl_coef", "0.01"]
    more += ["--set.scoring.weights", "{ copies = 1.0, numeric = 0.5 }", "--save-every", "3"]
    more += ["--set.ppo.warmup_rollouts", "0"] if stage == "ppo" else []
    arguments = flags(start, stage, *more)
    ended = minimind(*arguments, "--out", tmp_path / "run", "--set.rl.dump", tmp_path / "kept")
    assert ended.code == 0, ended.err
    monkeypatch.setattr(setup_rl, "LocalRollout", Nobody)
    monkeypatch.setattr(setup_rl, "Rewards", Nobody)
    again = [*arguments, "--replay", str(tmp_path / "kept"), "--valid", str(start / "prompts.jsonl")]
    assert minimind(*again, "--out", tmp_path / "again", "--max-steps", "3").code == 0
    ended = minimind(*again, "--out", tmp_path / "again")
    assert ended.code == 0, ended.err
    assert weights(tmp_path / "again") == weights(tmp_path / "run")
    assert figures(tmp_path / "again") == figures(tmp_path / "run")
    other = minimind(*again, "--out", tmp_path / "other", "--set.scoring.weights", "{ copies = -1.0, numeric = 1.0 }")
    assert other.code == 0, other.err
    assert weights(tmp_path / "other") != weights(tmp_path / "run")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seed", "3"], "the answers kept for place 0 of the run are to another prompt"),
        (["--set.rl.samples", "3"], "are to another prompt, or not 3"),
        (["--max-steps", "60"], "were not kept: it was longer here"),
        (["--set.scoring.weights", "{ exact = 1.0 }"], "no answer was judged by 'exact'"),
        (["--replay", "nowhere"], "nowhere: no rollout lies here"),
        (["--set.rl.filter_metric", "copy"], "did you mean 'copies'"),
    ],
)
def test_what_cannot_be_repeated(minimind, start, tmp_path, kept, more, said):
    ended = minimind(*flags(start, "grpo", "--replay", str(kept), *more), "--out", tmp_path / "run")
    assert ended.code in (1, 2)
    assert said in " ".join(ended.err.split())
    assert "Traceback" not in ended.err


@pytest.fixture(scope="module")
def kept(minimind, start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    assert minimind(*flags(start, "grpo"), "--out", folder / "run", "--set.rl.dump", folder / "kept").code == 0
    return folder / "kept"


def test_a_stage_without_rollouts_has_none_to_repeat(minimind, start):
    ended = minimind(*flags(start, "sft", "--replay", "somewhere"))
    assert ended.code == 2
    assert "--replay has no effect here; it is for ppo, grpo, agent" in ended.err


def run_until(moment, arguments, out):
    from minimind.cli import main

    runtime.peak_flops = lambda *_: 1e11
    die_at(moment, [out])
    raise SystemExit(main([*arguments, "--out", str(out)]))


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_killed_at_any_instant(minimind, start, tmp_path, stage):
    """Between the steps of one rollout too: what is left of it is in the checkpoint."""
    more = ["--save-every", "1", "--set.rl.epochs", "3", "--max-steps", "8", "--set.rl.filter_groups", "resample"]
    arguments = flags(start, stage, *more)
    assert minimind(*arguments, "--out", tmp_path / "straight").code == 0
    chance, codes = random.Random(stage), []
    for _ in range(3):
        process = CONTEXT.Process(target=run_until, args=(chance.randrange(20, 90), arguments, tmp_path / "run"))
        process.start()
        process.join()
        codes.append(process.exitcode)
        if process.exitcode == 0:
            break
    assert -KILL in codes
    assert minimind(*arguments, "--out", tmp_path / "run").code == 0
    assert weights(tmp_path / "run") == weights(tmp_path / "straight")
    assert figures(tmp_path / "run") == figures(tmp_path / "straight")


def on_a_rank(path, start, out):
    """Train, and return what this rank's own weights are then."""
    from minimind.stages import grpo, ppo
    from minimind.train.parallel import whole

    made, make_model = [], setup.make_model
    setup.make_model = lambda *args: made.append(make_model(*args)) or made[0]
    recipe = recipes.load(Recipe, path, {"init": str(start / "model"), "data.files": [str(start / "prompts.jsonl")]})
    {"grpo": grpo, "ppo": ppo}[recipe.stage].run(recipe, out)
    return torch.cat([whole(weight.detach()).flatten() for weight in made[0].parameters()])


@pytest.mark.parametrize(("stage", "parallel"), [("grpo", "ddp"), ("grpo", "fsdp"), ("ppo", "ddp")])
def test_two_processes_make_the_step_of_one(start, tmp_path, stage, parallel):
    """Half of the groups each, one global number to divide by: after three steps the same weights."""
    recipe = Recipe(stage=stage, init=str(start / "model"))
    recipe.data.files = [str(start / "prompts.jsonl")]
    recipe.data.sequence_length, recipe.data.valid_fraction = 64, 0.0
    recipe.train = replace(recipe.train, tokens_per_step=512, micro_batch_tokens=512, max_steps=3, device="cpu")
    recipe.train = replace(recipe.train, compile="never", dtype="float32", valid_every=0, save_every=0)
    recipe.train.parallel = parallel
    recipe.optim = replace(recipe.optim, matrices="adamw", lr=1e-3)
    recipe.rl = replace(recipe.rl, groups=4, samples=4, max_new_tokens=8, epochs=3, filter_groups="keep")
    recipe.scoring = replace(recipe.scoring, weights={"copies": 1.0}, file=str(start / "rewards.py"))
    path = tmp_path / "recipe.toml"
    path.write_text(recipes.dump(recipe), encoding="utf-8")
    (alone,) = in_ranks(1, on_a_rank, path, start, tmp_path / "one")
    first, second = in_ranks(2, on_a_rank, path, start, tmp_path / "two")
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone, rtol=0.02, atol=2e-5)
    before = torch.cat([weight.detach().flatten() for weight in load_model(start / "model").parameters()])
    assert (alone - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("setting", "value", "what"),
    [
        ("rl.samples", "1", "nothing to compare"),
        ("rl.temperature", "0", "rl.temperature"),
        ("rl.algorithm", "gripo", "rl.algorithm"),
        ("rl.kl", "k1", None),
        ("rl.filter_metric", "copy", "did you mean 'copies'"),
        ("rl.max_new_tokens", "60", "no prompt leaves room"),
        ("scoring.weights", "{ exactt = 1.0 }", "did you mean 'exact'"),
        ("scoring.weights", "{}", "scoring.weights is empty"),
        ("rl.server", "http://127.0.0.1:9", "rl.server_folder"),
    ],
)
def test_mistakes_are_said_in_a_sentence(minimind, start, tmp_path, setting, value, what):
    ended = minimind(*flags(start, "grpo", f"--set.{setting}", value, "--max-steps", "1"), "--out", tmp_path / "run")
    if what is None:
        assert ended.code == 0, ended.err
        return
    assert ended.code in (1, 2)
    assert what in " ".join(ended.err.split())
    assert "Traceback" not in ended.err


def test_the_rollout_in_the_header_of_grpo_is_that_of_its_recipe():
    recipe = recipes.load(Recipe, recipes.find("minimind-3", "grpo"))
    rl, algorithm = recipe.rl, setup_rl.algorithm(recipe.rl)
    assert (rl.groups, rl.samples, rl.epochs * rl.minibatches, rl.attempts) == (32, 8, 2, 10)
    assert (rl.temperature, rl.top_k, rl.top_p, rl.min_p, rl.thinking_ratio) == (1.0, 0, 1.0, 0.0, 0.5)
    assert (next(iter(recipe.scoring.weights)), len(recipe.scoring.weights)) == ("numeric", 4)
    assert (rl.filter_groups, rl.filter_metric, rl.share_prompts) == ("resample", "", False)
    assert (algorithm.loss, algorithm.normalise, algorithm.divide_by_sigma) == ("cispo", "token", False)
    assert (algorithm.ratio_max, algorithm.importance_limit) == (5.0, 2.0)
    assert (rl.kl_coef, algorithm.entropy_coef, recipe.optim.matrices, recipe.optim.clip) == (0.0, 0.0, "adamw", 1.0)
    assert recipe.data.sequence_length == 1024
