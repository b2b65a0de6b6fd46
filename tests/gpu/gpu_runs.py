"""Short runs of every stage, for the tests on a GPU: recipes, a few lines of data, and processes that may be killed."""

import importlib
import os
import random
from concurrent.futures import ThreadPoolExecutor

import torch
from gpu_models import REHEARSED
from processes import CONTEXT, die_at
from rows import write_rows

from minimind.config import PRESETS
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.recipe import Recipe, find, load
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import metrics

DEVICE = "cpu" if REHEARSED else "cuda"
STEPS, TOKENS, SAVE = (10, 512, 3) if REHEARSED else (20, 1024, 5)
SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16} if REHEARSED else {}
SHAPE |= {"num_attention_heads": 2, "num_key_value_heads": 1} if REHEARSED else {}
REWARDS = """
from minimind.rl.rewards import reward


@reward
def even(samples):
    return [sum(id % 2 == 0 for id in sample.ids) / len(sample.ids) for sample in samples]
"""
COMMON = {
    **{"data.sequence_length": 128, "data.valid_fraction": 0.0, "train.tokens_per_step": TOKENS, "optim.lr": 3e-3},
    **{"train.micro_batch_tokens": TOKENS // 2, "train.device": DEVICE, "train.compile": "never", "train.log_every": 1},
    **{"train.valid_every": STEPS // 2, "train.sample_every": 0, "train.save_every": SAVE, "train.max_steps": STEPS},
    **{"optim.warmup": 0.1, "train.epochs": 50.0},
}
RL = {
    **{
        "rl.groups": 4,
        "rl.samples": 16,
        "rl.epochs": 2,
        "rl.minibatches": 1,
        "rl.max_new_tokens": 16,
        "rl.max_batch_size": 64,
    },
    **{"rl.kl_coef": 0.01, "rl.filter_groups": "keep", "rl.filter_metric": "", "optim.lr": 5e-3},
    **{"scoring.weights": {"even": 1.0}},
}
STAGES = {
    "pretrain": ("pretrain", {"init": ""}),
    "pretrain moe": ("pretrain", {"init": "", "preset": "tiny-moe"}),
    "sft": ("sft", {}),
    "lora": ("lora", {}),
    "distill": ("distill", {"distill.teacher": "teacher"}),
    "distill on policy": ("distill", {**RL, "distill.teacher": "teacher", "distill.on_policy": True, "optim.lr": 3e-3}),
    "dpo": ("dpo", {"optim.lr": 1e-3}),
    "reward": ("reward", {"optim.lr": 1e-3}),
    "grpo": ("grpo", RL),
    "ppo": ("ppo", {**RL, "ppo.warmup_rollouts": 0, "ppo.critic_lr": 5e-3}),
    "agent": ("agent", RL),
}
FILES = {"pretrain": "text", "sft": "chat", "lora": "chat", "distill": "chat", "dpo": "pair", "reward": "pair"}
REINFORCED = ("grpo", "ppo", "agent")


def write_start(folder):
    """A model to start from, a teacher, rewards, and a few lines for each stage."""
    tokenizer = Tokenizer.load("default")
    for seed, name in enumerate(("model", "teacher")):
        torch.manual_seed(seed)
        model = Transformer(PRESETS["tiny"].with_(vocab_size=tokenizer.vocab_size, **SHAPE))
        with torch.no_grad():  # fresh weights would say every word alike, and repeat their last one
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight *= 115 / model.config.hidden_size**0.5
        save_model(model, folder / name, "float32")
        tokenizer.save(folder / name)
    (folder / "rewards.py").write_text(REWARDS, encoding="utf-8")
    write_rows(folder, 200)


def recipe_of(start, name, **more):
    """The stage's recipe for `tiny`, made short."""
    stage, changes = STAGES[name]
    data = str(start / f"{FILES.get(stage, 'prompt')}.jsonl")
    own = {"init": str(start / "model"), "tokenizer": str(start / "model"), "data.files": [data], "data.valid": [data]}
    own |= COMMON | changes | more
    if not own["init"]:
        own["model"] = SHAPE
    if stage in REINFORCED:
        own["scoring.file"] = str(start / "rewards.py")
    if "distill.teacher" in own:
        own["distill.teacher"] = str(start / "teacher")
    if own.get("distill.on_policy"):
        own |= {"rl.kl_coef": 0.0, "scoring.weights": {"exact": 1.0}}
    return load(Recipe, find("tiny", stage), own)


def run(recipe, out, cache):
    """One whole run in this process; the lines of its log that tell of a step."""
    from minimind import runtime

    runtime.cache_dir = lambda: cache
    runtime.peak_flops = lambda *_: 1e12  # measuring it takes longer than these runs
    importlib.import_module(f"minimind.stages.{recipe.stage}").run(recipe, out)
    return [line for line in metrics.read(out / "metrics.jsonl") if "loss" in line]


def _watched(recipe, out, cache, moment, acts):
    os.environ["OMP_NUM_THREADS"] = "1"
    seen = die_at(moment, [out, cache])
    run(recipe, out, cache)
    if acts is not None:
        acts.put(len(seen))


def in_process(recipe, out, cache, moment=0, acts=None):
    """The same in a process of its own, which kills itself at its `moment`-th act of writing or updating, if given."""
    process = CONTEXT.Process(target=_watched, args=(recipe, out, cache, moment, acts))
    process.start()
    process.join()
    return process.exitcode


def killed_and_resumed(start, name, folder):
    """Run a stage straight, then killed in the middle and resumed, all `deterministic`; how each of them ended."""
    recipe, acts = recipe_of(start, name, **{"train.deterministic": True}), CONTEXT.SimpleQueue()
    codes = [in_process(recipe, folder / "straight", folder / "cache of straight", 0, acts)]
    if codes == [0]:
        moment = int(acts.get() * random.Random(name).uniform(0.5, 0.9))
        codes += [in_process(recipe, folder / "killed", folder / "cache", moment)]
        codes += [in_process(recipe, folder / "killed", folder / "cache")]
    return codes


def all_killed_and_resumed(start, names, folder):
    """Every stage at the same time, as far as there are cores: a small model leaves most of a GPU idle."""
    with ThreadPoolExecutor(max(2, min(len(names), (os.cpu_count() or 1) - 2))) as pool:
        codes = pool.map(lambda name: killed_and_resumed(start, name, folder / name), names)
        return dict(zip(names, codes, strict=True))
