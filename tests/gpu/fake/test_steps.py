"""A step of every stage on a GPU that is not there: its arguments are right, and nothing in it waits for the device.

What does wait in a real step is left out here: reading the next rollout, the norm of the gradient (a number that
decides whether the step is taken) and the logged figures.
"""

import importlib

import pytest
from fake_cuda import DEVICE, Synchronisation, fake_cuda
from rows import write_rows

from minimind.config import PRESETS
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.recipe import Recipe, find, load, run_config
from minimind.stages import setup
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import loop, parallel
from minimind.train.metrics import Window
from minimind.train.precision import Precision

RULES = """
from minimind.rl.rewards import reward

@reward
def turns(samples):
    return [float(number % 2) for number, _ in enumerate(samples)]
"""
CHANGES = {
    **{"data.sequence_length": 128, "data.valid_fraction": 0.0, "train.tokens_per_step": 1024, "train.max_steps": 2},
    **{"train.micro_batch_tokens": 512, "train.compile": "never", "train.dtype": "bfloat16", "optim.clip": 1.0},
}
RL = {
    **{
        "rl.groups": 2,
        "rl.samples": 4,
        "rl.max_new_tokens": 8,
        "rl.max_batch_size": 8,
        "rl.kl_coef": 0.1,
        "rl.filter_groups": "keep",
    },
    **{"rl.filter_metric": "", "rl.minibatches": 2, "rl.entropy_coef": 0.01, "scoring.weights": {"turns": 1.0}},
}
STAGES = {
    "pretrain": ("pretrain", {"init": ""}),
    "sft": ("sft", {"train.activation_checkpointing": True}),
    "lora": ("lora", {"lora.rank": 8}),
    "distill": ("distill", {"distill.divergence": "js"}),
    "distill, on policy": ("distill", {**RL, "distill.on_policy": True, "rl.kl_coef": 0.0}),
    "dpo": ("dpo", {}),
    "reward": ("reward", {}),
    "grpo": ("grpo", RL),
    "gspo, shared prompts": ("grpo", {**RL, "rl.algorithm": "gspo", "rl.share_prompts": True}),
    "cispo, corrected": ("grpo", {**RL, "rl.algorithm": "cispo", "rl.importance_limit": 2.0, "rl.top_p": 0.9}),
    "ppo": ("ppo", {**RL, "ppo.warmup_rollouts": 0, "ppo.whiten": True}),
    "agent": ("agent", RL),
}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Small models, and a few lines for each stage."""
    folder, tokenizer = tmp_path_factory.mktemp("start"), Tokenizer.load("default")
    for name, preset in (("dense", "tiny"), ("moe", "tiny-moe")):
        model = Transformer(PRESETS[preset].with_(num_hidden_layers=2, vocab_size=tokenizer.vocab_size))
        save_model(model, folder / name, "float32")
        tokenizer.save(folder / name)
    (folder / "rules.py").write_text(RULES, encoding="utf-8")
    write_rows(folder, 99)
    return folder


def job_of(case, shape, start, out, monkeypatch):
    """What the stage hands to the training loop, and its recipe."""
    stage, changes = STAGES[case]
    on_prompts = "rl.groups" in changes and stage != "distill"
    data = {"pretrain": "text", "dpo": "pair", "reward": "pair"}.get(stage, "prompt" if on_prompts else "chat")
    own = {"init": str(start / shape), "data.files": [str(start / f"{data}.jsonl")]} | changes
    own |= {"preset": "tiny-moe" if shape == "moe" else "tiny", "tokenizer": str(start / "dense")}
    if "scoring.weights" in own:
        own["scoring.file"] = str(start / "rules.py")
    if stage == "distill":
        own["distill.teacher"] = str(start / "dense")
    recipe = load(Recipe, find("tiny", stage), CHANGES | own)
    jobs = []
    monkeypatch.setattr(setup, "train", lambda job, *_: jobs.append(job))
    importlib.import_module(f"minimind.stages.{stage}").run(recipe, out)
    return jobs[0], recipe


def step(mode, job, recipe):
    """One step as in `loop.train_step`; nothing that is measured may wait for the device."""
    precision = Precision(DEVICE, recipe.train.dtype)
    replica = parallel.replicate(job.model)
    rows, micro_rows = loop.rows_of_a_step(run_config(recipe))
    batch = job.stream.next_batch(rows)
    tokens, weight = loop.count(batch)
    assert weight > 0
    with mode.measured():
        figures = loop._backward(replica, job.loss, batch, micro_rows, 1 / weight, precision)
        assert all(parameter.grad is not None for parameter in job.model.parameters() if parameter.requires_grad)
        norm = parallel.clip(job.model, recipe.optim.clip)
        loop._update(job.optimizers, recipe.optim.lr)
        loop._forget_gradients(job)
        Window().add(figures, tokens, weight)
    with pytest.raises(Synchronisation), mode.measured():
        norm.cpu()


@pytest.mark.parametrize("shape", ["dense", "moe"])
@pytest.mark.parametrize("case", STAGES)
def test_a_step_waits_for_nothing(case, shape, start, tmp_path, monkeypatch):
    with fake_cuda() as mode:
        job, recipe = job_of(case, shape, start, tmp_path, monkeypatch)
        assert job.model is not None
        step(mode, job, recipe)
        step(mode, job, recipe)  # momentum is there already
