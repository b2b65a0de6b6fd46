"""Our training, step by step: the loop's own functions on the stage's own job."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from minimind import runtime
from minimind.compiler import can_compile
from minimind.data.shard_reader import Shards
from minimind.model.qwen3 import Transformer
from minimind.recipe import Recipe, run_config
from minimind.stages import pretrain, setup
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import loop, parallel
from minimind.train.job import Job, Progress, Stream
from minimind.train.precision import Precision


class TimedStream:
    """A stream that counts the seconds spent waiting for it; all else is the stream's own."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.seconds = stream, 0.0

    def next_batch(self, rows: int, rank: int = 0, world: int = 1) -> Any:
        """As the stream's."""
        start = time.perf_counter()
        batch = self.stream.next_batch(rows, rank, world)
        self.seconds += time.perf_counter() - start
        return batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Ours:
    """A run of `recipe`, compiled as a long run would be. `make_job` is the stage's; by default pretraining's."""

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Tokenizer,
        shards: Shards,
        make_job: Callable[[Recipe, Transformer, Tokenizer, Shards], Job] = pretrain.make_job,
    ) -> None:
        self.recipe, self.config = recipe, run_config(recipe)
        self.model = setup.make_model(recipe, tokenizer)
        self.job = make_job(recipe, self.model, tokenizer, shards)
        self.job.stream = self.stream = TimedStream(self.job.stream)
        self.precision = Precision(runtime.device(recipe.train.device), recipe.train.dtype)
        self.compiled = recipe.train.compile == "always" or (
            recipe.train.compile == "auto" and can_compile(self.precision.device.type)
        )
        if self.compiled:
            self.job.compile()
        self.replica = parallel.replicate(self.model)
        self.tokens = self.steps = 0

    @property
    def micro_batch_tokens(self) -> int:
        """Positions that go through the model at once."""
        return loop.rows_of_a_step(self.config)[1] * self.recipe.data.sequence_length

    @property
    def padding(self) -> float:
        """Share of the positions computed so far that held no token."""
        rows = loop.rows_of_a_step(self.config)[0]
        return 1 - self.tokens / (self.steps * rows * self.recipe.data.sequence_length)

    def step(self, lr: float | None = None) -> int:
        """One optimizer step of the loop, at `lr` or else at the recipe's peak; return its real tokens."""
        lr = self.recipe.optim.lr if lr is None else lr
        done = loop.train_step(self.job, self.replica, self.config, lr, self.precision, self.compiled)
        self.tokens += done.tokens
        self.steps += 1
        return done.tokens

    def checkpoint_seconds(self, folder: Path) -> float:
        """How long training stands still for one checkpoint, the better of two."""
        best = float("inf")
        for _ in range(2):
            start = time.perf_counter()
            loop.save(self.job, self.config, Progress(step=self.steps), folder, self.precision)
            best = min(best, time.perf_counter() - start)
        return best
