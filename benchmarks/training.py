"""What the benchmarks that train models share: a corpus, one run with its curve, and runs that are done only once."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from minimind import recipe as recipes
from minimind import runtime

runtime.share_cores()  # as the command line does, before torch is imported
runtime.keep_memory()

import torch

from minimind.bench.ours import Ours
from minimind.bench.reference import ROWS, Reference, as_ours
from minimind.console import progress, say
from minimind.data.corpus import read_documents
from minimind.data.shards import Shards, ensure
from minimind.eval.bpb import Document, bits_per_byte, text_document
from minimind.model.qwen3 import Transformer
from minimind.optim.schedule import learning_rate
from minimind.optim.settings import OptimConfig
from minimind.recipe import Recipe
from minimind.tokenizer.bpe import Tokenizer


@dataclass
class Corpus:
    shards: Shards
    tokenizer: Tokenizer
    valid: list[Document]
    """Scored at the end of a run."""
    glance: list[Document]
    """The first of them, scored on the way."""
    context: int
    """Tokens of a window of the scored text, the same for every model."""

    @classmethod
    def read(cls, data: Path, valid: Path, context: int, glance_bytes: int = 200_000) -> "Corpus":
        tokenizer = Tokenizer.load("default")
        documents = [text_document(str(text), tokenizer) for text in read_documents([str(valid)])]
        glance, size = [], 0
        for document in documents:
            if size < glance_bytes:
                glance.append(document)
                size += document.bytes
        return cls(ensure([data], tokenizer), tokenizer, documents, glance, context)

    def bpb(self, model: Transformer, documents: Sequence[Document]) -> float:
        dtype = runtime.compute_dtype(model.output_weight.device)
        return bits_per_byte(model, documents, self.context, dtype)["bpb"]


class Trainee(Protocol):
    def step(self, lr: float) -> int: ...


def train(
    trainee: Trainee, model: Transformer, corpus: Corpus, steps: int, optim: OptimConfig, points: int, title: str
) -> dict[str, Any]:
    """Train for `steps`, scoring the model `points` times on the way; seconds are those of training alone."""
    tokens, seconds, first = 0, 0.0, 0.0
    curve = []
    due = {round(steps * point / points) for point in range(1, points)}
    with progress(title, steps) as bar:
        for step in range(steps):
            start = time.perf_counter()
            tokens += trainee.step(learning_rate(step, steps, optim))
            seconds += time.perf_counter() - start
            first = first or seconds
            if step + 1 in due:
                curve.append([tokens, round(seconds, 2), corpus.bpb(model, corpus.glance)])
            bar.advance(1, f"{tokens / seconds:,.0f} tokens/s" + (f" · bpb {curve[-1][2]:.3f}" if curve else ""))
    curve.append([tokens, round(seconds, 2), corpus.bpb(model, corpus.glance)])
    return {
        "steps": steps,
        "tokens": tokens,
        "seconds": round(seconds, 2),
        "first_step_seconds": round(first, 2),
        "bpb": corpus.bpb(model, corpus.valid),
        "curve": curve,
    }


def train_ours(
    preset: str,
    corpus: Corpus,
    tokens: float,
    settings: dict[str, Any],
    title: str,
    points: int = 1,
    make: Callable[[Recipe, Tokenizer, Shards], Ours] = Ours,
) -> Any:
    """Pretrain the preset by its recipe, with `settings` changed, on `tokens` tokens with a schedule of that length."""
    torch.compiler.reset()  # or the limit on recompiling one function would turn later runs eager
    recipe = recipes.load(Recipe, recipes.find(preset, "pretrain"), settings)
    ours = make(recipe, corpus.tokenizer, corpus.shards)
    steps = max(1, round(tokens / recipe.train.tokens_per_step))
    figures = train(ours, ours.model, corpus, steps, recipe.optim, points, title)
    config = ours.model.config
    shape = {"parameters": config.parameters(), "flops": figures["tokens"] * ours.job.flops_per_token}
    return shape | figures | {"padding": ours.padding}


def train_reference(
    preset: str, corpus: Corpus, tokens: float, lr: float, seed: int, title: str, points: int = 1
) -> Any:
    """Train the reference on `tokens` real tokens: warm-up, then a cosine to 0."""
    config = recipes.model_config(Recipe(preset=preset), corpus.tokenizer.vocab_size)
    theirs = Reference(config, corpus.shards, runtime.device("auto"), seed=seed)
    steps = max(1, round(tokens / (ROWS * theirs.rows.tokens_per_row)))
    model = as_ours(theirs.model, config)
    optim = OptimConfig(lr=lr, schedule="cosine", warmup=0.02)
    return train(theirs, model, corpus, steps, optim, points, title) | {"padding": theirs.padding}


class Log:
    """Finished runs, a line each of `runs.jsonl`: what is there is not run again, so a killed benchmark goes on.

    A run is not begun when it would not end before the budget is over, by the speed of the runs of its kind so far.
    """

    def __init__(self, folder: Path, budget_minutes: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "runs.jsonl"
        self.ends = time.monotonic() + budget_minutes * 60
        self.speed: dict[str, float] = {}

    def runs(self) -> dict[str, dict[str, Any]]:
        """Name -> figures, in the order in which the runs ended."""
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else ():
            with suppress(json.JSONDecodeError):  # cut by a crash
                found.append(json.loads(line))
        return {one["name"]: one for one in found}

    def run(
        self, kind: str, name: str, tokens: float, make: Callable[[], dict[str, Any]], **about: Any
    ) -> dict[str, Any] | None:
        """The figures of a run with what there is to say `about` it, made if they are not there, or None: no time."""
        found = self.runs().get(name)
        if found is None:
            left, needed = self.ends - time.monotonic(), tokens / self.speed[kind] if kind in self.speed else 0.0
            if needed > left:
                say(f"{name}: needs {needed / 60:.1f} of the {max(0, left) / 60:.1f} minutes left; run again to go on")
                return None
            say(f"{name} ({max(0, left) / 60:.0f} minutes left)")
            start = time.monotonic()
            found = {"name": name, **about} | make() | {"wall_seconds": time.monotonic() - start}
            whole = not self.path.is_file() or self.path.read_bytes().endswith(b"\n")
            with self.path.open("a", encoding="utf-8") as file:
                file.write(("" if whole else "\n") + json.dumps(found) + "\n")
        self.speed[kind] = found["tokens"] / found["wall_seconds"]
        return found
