"""Which model to train in a given time, in which steps and at which rate: for `plan` and the recipe `auto`."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from minimind.recipe import Recipe, find, load, model_config

RECIPE = "laptop"
"""Whose recipe it is but for what is chosen here: short runs on real text."""
MICRO_BATCH_TOKENS = {"cuda": 32768}
"""More on a GPU than there are on a CPU, whose caches they must fit."""


class Choice(NamedTuple):
    """One preset, trained for the time that there is."""

    preset: str
    parameters: int
    tokens: int
    epochs: float | None
    """How often that is the corpus; None if that is not known."""
    steps: int
    tokens_per_step: int
    micro_batch_tokens: int
    lr: float
    bpb: float
    """Bits per byte by the scaling law: a guess."""

    def figures(self) -> dict[str, Any]:
        """What is known, as JSON can hold it."""
        return {name: value for name, value in self._asdict().items() if value is not None}

    def settings(self) -> dict[str, Any]:
        """What these choices change in `RECIPE`."""
        return {
            "preset": self.preset,
            "train.max_steps": self.steps,
            "train.tokens_per_step": self.tokens_per_step,
            "train.micro_batch_tokens": self.micro_batch_tokens,
            "optim.lr": self.lr,
        }


def choices(minutes: float, settings: dict[str, Any], data: Sequence[str], device: str) -> list[Choice]:
    """What each dense preset would do in the time on this machine, the smallest first.

    Raises:
        UserError: bad data.
    """
    from minimind import runtime
    from minimind.config import PRESETS
    from minimind.plan import scaling
    from minimind.plan.budget import tokens_per_second
    from minimind.tokenizer.bpe import Tokenizer

    on = runtime.device(device)
    peak = runtime.peak_flops(on, runtime.compute_dtype(on))
    tokenizer = Tokenizer.load("default")
    epoch = 0
    found: list[Choice] = []
    for preset in (name for name, config in PRESETS.items() if not config.num_experts):
        recipe = load(Recipe, find(RECIPE, "pretrain"), settings | {"preset": preset})
        epoch = epoch or count(data, "pretrain", recipe, tokenizer)[0]
        config = model_config(recipe, tokenizer.vocab_size)
        speed = tokens_per_second(config, recipe.data.sequence_length / 2, peak, on.type)
        tokens = speed * minutes * 60
        bpb = scaling.LAW.bpb(config.parameters(), scaling.effective_tokens(tokens, epoch or tokens))
        per_step = scaling.tokens_per_step(tokens)
        steps = max(1, round(tokens / per_step))
        lr = scaling.learning_rate(config.hidden_size)
        epochs = round(tokens / epoch, 2) if epoch else None
        together = min(per_step, MICRO_BATCH_TOKENS.get(on.type, 4096))
        sizes = (int(tokens), epochs, steps, per_step, together)
        found.append(Choice(preset, config.parameters(), *sizes, round(lr, 6), round(bpb, 3)))
    return sorted(found, key=lambda one: one.parameters)


def count(data: Sequence[str], stage: str, recipe: Recipe, tokenizer: Any) -> tuple[int, float]:
    """Tokens of one epoch of `data`, and of the document that a token is in on average; without any 0 and infinity."""
    if not data:
        return 0, math.inf
    from minimind.stages.setup import shards

    recipe.data.files = list(data)
    training, _ = shards(recipe, tokenizer, kind="sft" if stage in ("sft", "lora") else "text")
    return training.tokens, training.mean_length
