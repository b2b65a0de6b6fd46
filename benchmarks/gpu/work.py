"""What the parts share: what they were asked for, text in tokens, and recipes that are made short."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.sizes import FULL, QUICK, Sizes
from minimind import recipe as recipes
from minimind import runtime
from minimind.bench.generate import random_directory
from minimind.data.shard_reader import Shards
from minimind.data.smallworld.generate import generate
from minimind.recipe import Recipe
from minimind.stages import setup
from minimind.tokenizer.bpe import Tokenizer

Row = dict[str, Any]
Tell = Callable[[Row], None]
"""Takes what a part finds, as it finds it."""
Part = Callable[["Work", Tell], None]


@dataclass(frozen=True)
class Work:
    """What a part is asked to do."""

    out: str
    """Folder of the results."""
    device: str = "cuda"
    quick: bool = False
    data: str = ""
    """JSON Lines to train on; the small world where there is none."""
    tests: str = ""
    """Which tests to run; by default those in `tests/gpu`."""
    seconds: float = 1e9
    """What the part may take."""
    began: float = field(default_factory=time.monotonic)

    @property
    def sizes(self) -> Sizes:
        """How much to do."""
        return QUICK if self.quick else FULL

    @property
    def on(self) -> torch.device:
        """The device."""
        return runtime.device(self.device)

    @property
    def left(self) -> float:
        """Seconds that the part still has."""
        return self.seconds - (time.monotonic() - self.began)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The built-in one."""
        return Tokenizer.load("default")

    def recipe(self, preset: str, stage: str = "pretrain", **changes: Any) -> Recipe:
        """A preset's recipe, made short; fields are changed by their dotted names."""
        sizes = self.sizes
        own = {"data.sequence_length": sizes.sequence_length, "train.tokens_per_step": sizes.tokens_per_step}
        if stage == "sft":
            own = {"data.sequence_length": 512, "train.tokens_per_step": 512} if self.quick else {}
        own |= {"data.files": [str(self.text(stage))], "data.valid_fraction": 0.0, "train.device": self.device}
        own |= {"train.compile": "always" if sizes.compiled else "never", "train.sample_every": 0}
        if self.quick:
            own["train.micro_batch_tokens"] = own["train.tokens_per_step"]
        return recipes.load(Recipe, recipes.find(preset, stage), own | changes)

    def directory(self, preset: str) -> str:
        """A model directory of a preset's shape with random weights."""
        directory = Path(self.out) / "models" / preset
        if not (directory / "tokenizer.json").exists():
            random_directory(preset, directory)
        return str(directory)

    def shards(self, recipe: Recipe) -> Shards:
        """The recipe's text in tokens, made once for all parts."""
        kind = "sft" if recipe.stage == "sft" else "text"
        return setup.shards(recipe, self.tokenizer, kind=kind)[0]

    def text(self, stage: str) -> Path:
        """The file to train on."""
        if self.data and stage == "pretrain":
            return Path(self.data)
        world = Path(self.out) / "world"
        if not (world / "pretrain_valid.jsonl").exists():  # the last that is written
            generate(world, self.sizes.world_mb, seed=0)
        return world / f"{stage}.jsonl"


def timed(function: Callable[[], Any], on: torch.device) -> float:
    """Seconds that a call takes, the device's part included."""
    runtime.synchronize(on)
    start = time.perf_counter()
    function()
    runtime.synchronize(on)
    return time.perf_counter() - start


def message(error: BaseException) -> str:
    """What went wrong, in a line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"
