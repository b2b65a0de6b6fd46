"""A run of every stage that takes a second: models of two layers, a few lines of data, two steps."""

import torch
from rows import write_rows

from minimind.config import PRESETS
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.recipe import Recipe, find, load
from minimind.tokenizer.bpe import Tokenizer

REWARDS = """
from minimind.rl.rewards import reward


@reward
def copies(samples):
    return [sum(a == b for a, b in zip(s.ids, s.ids[1:])) / len(s.ids) + len(s.ids) % 3 for s in samples]
"""
CHANGES = {
    **{"data.sequence_length": 128, "data.valid_fraction": 0.0, "train.tokens_per_step": 1024, "train.max_steps": 2},
    **{"train.micro_batch_tokens": 256, "train.compile": "never", "train.dtype": "float32", "train.device": "cpu"},
    **{"train.log_every": 1, "train.valid_every": 1, "train.sample_every": 1, "train.save_every": 1, "train.keep": 1},
    **{"train.activation_checkpointing": True, "optim.clip": 1.0, "optim.lr": 0.3, "optim.weight_decay": 0.0},
    **{"optim.schedule": "wsd", "optim.warmup": 0.0, "optim.decay": 0.0, "prompts": ["Once", "从前"]},
}
RL = {
    **{
        "rl.groups": 4,
        "rl.samples": 4,
        "rl.epochs": 1,
        "rl.minibatches": 2,
        "rl.max_new_tokens": 8,
        "rl.max_batch_size": 8,
    },
    **{"rl.kl_coef": 0.1, "rl.filter_groups": "keep", "rl.filter_metric": "", "scoring.weights": {"copies": 1.0}},
}
STAGES = {
    "pretrain": ("pretrain", {"init": ""}),
    "sft": ("sft", {}),
    "lora": ("lora", {"lora.rank": 4}),
    "distill": ("distill", {"distill.teacher": "teacher"}),
    "distill on policy": (
        "distill",
        {**RL, "distill.teacher": "teacher", "distill.on_policy": True, "rl.kl_coef": 0.0},
    ),
    "dpo": ("dpo", {}),
    "reward": ("reward", {"optim.lr": 0.01}),
    "grpo": ("grpo", RL),
    "ppo": ("ppo", {**RL, "ppo.warmup_rollouts": 0, "ppo.critic_lr": 0.01}),
    "agent": ("agent", RL),
}


def prepare(folder):
    """Write a model of each shape, a teacher, and a few lines for each stage."""
    tokenizer = Tokenizer.load("default")
    for name, seed, experts in (("dense", 0, 0), ("moe", 1, 4), ("teacher", 2, 0)):
        torch.manual_seed(seed)
        shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
        shape |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256}
        shape |= {"num_experts": experts, "moe_intermediate_size": 32, "vocab_size": tokenizer.vocab_size}
        model = Transformer(PRESETS["tiny"].with_(**shape))
        with torch.no_grad():
            for weight_name, weight in model.named_parameters():
                if weight.dim() > 1 and "gate.weight" not in weight_name:
                    weight *= 5 if "embed" not in weight_name else 3
        save_model(model, folder / name, "float32")
        tokenizer.save(folder / name)
    (folder / "rewards.py").write_text(REWARDS, encoding="utf-8")
    write_rows(folder, 40)
    return folder


def recipe_of(start, case, kind, **more):
    stage, changes = STAGES[case[0]]
    data = {"pretrain": "text", "dpo": "pair", "reward": "pair"}.get(stage, "chat")
    data = "prompt" if changes.keys() >= RL.keys() and not changes.get("distill.on_policy") else data
    own = {"init": str(start / case[1]), "train.parallel": kind, "lora.rank": case[2]} | changes
    own |= {"data.files": [str(start / f"{data}.jsonl")], "data.valid": [str(start / f"{data}.jsonl")]}
    own |= {"tokenizer": str(start / "dense"), "preset": "tiny-moe" if case[1] == "moe" else "tiny"}
    if stage == "pretrain":
        own["model"] = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 32}
    if "scoring.weights" in own:
        own["scoring.file"] = str(start / "rewards.py")
    if "distill.teacher" in own:
        own["distill.teacher"] = str(start / "teacher")
    return load(Recipe, find("tiny", stage), CHANGES | own | more)
