"""Prompts for reinforcement learning: a conversation up to where the assistant is to speak, and what is expected of it.

A line is an SFT line whose last assistant turn is ignored, with `"gt": ["expected", ...]` where the answer can be
checked, and `"open_thinking": true` or `false` where it matters whether the answer begins with thinking.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minimind.console import warn
from minimind.data.conversations import read_conversation
from minimind.data.corpus import read_lines, read_object
from minimind.errors import UserError
from minimind.tokenizer.bpe import Tokenizer
from minimind.tokenizer.chat import render


@dataclass(frozen=True)
class Prompt:
    """What the policy is asked, and how its answer is judged."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    gt: list[str] = field(default_factory=list)
    open_thinking: bool | None = None
    """Whether the answer begins with thinking; None leaves it to the recipe."""

    @property
    def question(self) -> str:
        """The last thing that the user said."""
        said = [turn["content"] for turn in self.messages if turn["role"] == "user"]
        return said[-1] if said else ""


def read_prompts(files: Sequence[str | Path], on_bad_line: Literal["stop", "skip"] = "stop") -> list[Prompt]:
    """All prompts of some files.

    Raises:
        UserError: a file is missing or empty, or a line is wrong (with its number), unless those are skipped.
    """
    prompts = list(read_lines(files, lambda line: read_prompt(read_object(line)), on_bad_line))
    if not prompts:
        raise UserError(f"{', '.join(map(str, files))}: there is no prompt to learn from")
    return prompts


def read_prompt(row: dict[str, Any]) -> Prompt:
    """One line as a prompt.

    Raises:
        UserError: what is wrong with it.
    """
    name = "messages" if "messages" in row else "conversations"
    turns = row.get(name)
    if isinstance(turns, list) and turns and isinstance(turns[-1], dict) and turns[-1].get("role") != "assistant":
        row = row | {name: [*turns, {"role": "assistant", "content": ""}]}
    conversation = read_conversation(row)
    gt = [] if row.get("gt") is None else row["gt"]  # null in tables, where other rows have it
    gt = [gt] if isinstance(gt, str | int | float) else gt
    if not isinstance(gt, list) or not all(isinstance(one, str | int | float) for one in gt):
        raise UserError("'gt' must be a list of strings: what a right answer holds")
    messages = conversation.messages[:-1] if conversation.messages[-1]["role"] == "assistant" else conversation.messages
    if not messages:
        raise UserError("it has nothing but an assistant turn: there is no prompt")
    thinking = row.get("open_thinking")
    if not isinstance(thinking, bool | None):
        raise UserError("'open_thinking' must be true or false: does the answer begin with thinking?")
    gt = [one if isinstance(one, str) else json.dumps(one) for one in gt]
    return Prompt(messages, conversation.tools, gt, thinking)


def fitting(prompts: Sequence[Prompt], tokenizer: Tokenizer, length: int, max_new_tokens: int) -> list[Prompt]:
    """The prompts that leave room for an answer in a row of `length` tokens.

    Raises:
        UserError: none does.
    """
    room = length - max_new_tokens
    kept = [prompt for prompt in prompts if len(prompt_ids(prompt, tokenizer, False)) <= room]
    if not kept:
        raise UserError(
            f"no prompt leaves room for an answer of rl.max_new_tokens = {max_new_tokens} in a row of "
            f"data.sequence_length = {length}; raise the one or lower the other"
        )
    if len(kept) < len(prompts):
        warn(f"{len(prompts) - len(kept):,} of {len(prompts):,} prompts are too long for a row and left out")
    return kept


def prompt_ids(prompt: Prompt, tokenizer: Tokenizer, thinking: bool) -> list[int]:
    """What the policy reads before it speaks."""
    return render(prompt.messages, tokenizer, prompt.tools or None, thinking, add_generation_prompt=True)[0]


class PromptStream:
    """Endless prompts, in a new order each epoch; its place is one number."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed, self.position = count, seed, 0

    def index(self, place: int) -> int:
        """Index of the prompt at a place."""
        epoch, nth = divmod(place, self.count)
        return int(np.random.default_rng([self.seed, epoch]).permutation(self.count)[nth])
