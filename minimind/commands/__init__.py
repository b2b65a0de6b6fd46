"""One module a command; each has `main(argv) -> exit code`, and is imported only when it is called."""

import importlib
from collections.abc import Callable

COMMANDS = {
    "demo": "the whole pipeline on the embedded small world: train, evaluate, report, talk",
    "data": "make, download, prepare and describe corpora",
    "tokenizer": "train a tokenizer, compare tokenizers",
    "train": "train a model, stage by stage: pretrain, sft, lora, dpo, grpo, agent and others",
    "chat": "talk to a model in the terminal",
    "serve": "OpenAI-compatible server with a chat page",
    "inspect": "look into a model: layers, attention, experts, facts, and how training made them",
    "eval": "measure a model: bits per byte, multiple choice, tool calls, long texts, answers",
    "export": "write a model for other programs: gguf, ollama, hf, merge-lora",
    "import": "read MiniMind's .pth files, or any Qwen3, from disk or a hub",
    "push": "upload a model to Hugging Face or ModelScope",
    "parity": "whether other programs give our numbers: ids, greedy answers, log-probabilities",
    "bench": "speed of training and generation on this machine, beside what people use instead",
    "plan": "parameters, FLOPs, memory, time and money of a recipe before you spend them",
    "completion": "make TAB complete commands, flags and recipes in your shell",
}
HOMES = {name: ("convert", f"{name}_main") for name in ("export", "import", "push")}
"""Module and function of the commands that do not have a module of their own name with a `main`."""


def main_of(command: str) -> Callable[[list[str]], int]:
    """Import a command's module and return its `main`."""
    module, name = HOMES.get(command, (command, "main"))
    return getattr(importlib.import_module(f"minimind.commands.{module}"), name)
