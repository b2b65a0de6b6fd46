"""The speed and memory of fine-tuning steps, beside the same steps in trl, peft and transformers.

    python benchmarks/stages.py --preset laptop --sft data/sft.jsonl --dpo data/dpo.jsonl

SFT, LoRA, DPO and distillation, each a whole optimizer step (reading the batch, forward, backward, clipping, update),
on the same conversations and from the same weights. Ours runs as the preset's recipe says; what the others are set to
is in `benchmarks/stage_rivals.py`. Tokens are those of the data, without padding; of a pair, the prompt once and both
answers: computing the prompt twice earns nothing. Our DPO asks the reference before the first step: each step carries
its pairs' share of that, as if there were only one epoch. Warm-up steps, in which programs are compiled, are reported
apart. Every engine works in a process of its own, whose peak resident memory stands beside its speed.
"""

import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import tyro

from minimind import recipe as recipes
from minimind import runtime

runtime.share_cores()  # as the command line does, before torch is imported

import torch

from minimind.bench.generate import random_directory
from minimind.bench.memory import peak_memory
from minimind.bench.ours import Ours
from minimind.console import print_json, say, table
from minimind.data.pairs import PairStream
from minimind.data.shard_reader import Shards
from minimind.model.transformer import Transformer
from minimind.recipe import Recipe
from minimind.stages import distill, dpo, setup, sft
from minimind.tokenizer.bpe import Tokenizer
from minimind.train.job import Job

STAGES = ("sft", "lora", "dpo", "distill")
ENGINES = ("minimind", "float32", "bfloat16")
"""Ours, and the others in two number formats."""


@dataclass(frozen=True)
class Turn:
    """What one process does."""

    stage: str
    engine: str
    preset: str
    model: str
    teacher: str
    file: str
    warmup: int
    steps: int
    settings: str


@dataclass(frozen=True)
class Figures:
    """What it found."""

    stage: str
    engine: str
    tokens_per_second: float
    step_seconds: float
    tokens_per_step: float
    padding: float
    warmup_seconds: float
    """Of the steps that are not counted."""
    reference_seconds: float
    """Part of `step_seconds`: DPO's reference, where it is asked before the first step."""
    peak_memory_bytes: int | None
    settings: str


def main(
    sft: Path,
    dpo: Path,
    lora: Path | None = None,
    preset: str = "laptop",
    teacher: str = "minimind-3",
    stages: tuple[str, ...] = STAGES,
    engines: tuple[str, ...] = ENGINES,
    steps: int = 4,
    reference_steps: int = 8,
    warmup: int = 2,
    documents: int = 1000,
    settings: str = "{}",
) -> None:
    """Measure, and print a table with ratios, then everything as JSON.

    Args:
        sft: conversations, for SFT and distillation.
        dpo: pairs.
        lora: conversations for LoRA; by default the same.
        preset: which model, with random weights, and which recipes.
        teacher: preset of the model that distillation learns from.
        stages: what to measure.
        engines: who takes part.
        steps: optimizer steps of ours that are counted.
        reference_steps: of the others, which are smaller.
        warmup: steps before that.
        documents: conversations or pairs that are read from each file.
        settings: JSON of changed recipe fields.
    """
    load, found = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = str(random_directory(preset, folder / "model"))
        taught_by = str(random_directory(teacher, folder / "teacher")) if "distill" in stages else ""
        for stage in stages:
            source = {"lora": lora or sft, "dpo": dpo}.get(stage, sft)
            file = folder / f"{stage}.jsonl"
            with source.open(encoding="utf-8") as lines:
                first = "".join(itertools.islice(lines, documents))
            file.write_text(first, encoding="utf-8", newline="\n")
            for engine in engines:
                count = steps if engine == "minimind" else reference_steps
                turn = Turn(stage, engine, preset, model, taught_by, str(file), warmup, count, settings)
                figures = in_a_process(turn)
                say(f"{stage}, {engine}: {figures.tokens_per_second:,.0f} tokens/s")
                found.append(figures)
    show(preset, found)
    about = {"preset": preset, "teacher": teacher, "threads": torch.get_num_threads(), "load_before": round(load, 2)}
    print_json({**about, "rows": [asdict(figures) for figures in found], "ratios": ratios(found)})


def in_a_process(turn: Turn) -> Figures:
    """Take the turn in a fresh process: its memory is its own, and no thread of another waits beside it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(take, turn).result()


def take(turn: Turn) -> Figures:
    """Take the turn in this process."""
    if turn.engine == "minimind":
        return train_ours(turn)
    from stage_rivals import train_theirs

    recipe, tokenizer, shards = prepared(turn)
    theirs = train_theirs(recipe, tokenizer, shards, turn.engine, turn.warmup, turn.steps)
    seconds, tokens = theirs.seconds / turn.steps, theirs.tokens / turn.steps
    return figures_of(turn, seconds, tokens, theirs.padding, theirs.warmup_seconds, 0.0, theirs.settings)


def train_ours(turn: Turn) -> Figures:
    """Run the stage's own job, step by step."""
    runtime.keep_memory()  # as the command line does
    recipe, tokenizer, shards = prepared(turn)
    asking = 0.0  # seconds for a pair

    def make_job(recipe: Recipe, model: Transformer, tokenizer: Tokenizer, shards: Shards) -> Job:
        nonlocal asking
        if turn.stage == "distill":
            return distill.make_job(recipe, model, distill.load_teacher(recipe, tokenizer), tokenizer, shards)
        if turn.stage != "dpo":
            return sft.make_job(recipe, model, tokenizer, shards)
        stream = PairStream(shards, recipe.data.sequence_length, seed=recipe.train.seed)
        seconds, stream.reference = timed(lambda: dpo.score_all(recipe, model, stream))
        asking = seconds / shards.documents
        return dpo.make_job(recipe, model, tokenizer, shards, stream)

    ours = Ours(recipe, tokenizer, shards, make_job)
    warmup_seconds, _ = timed(lambda: [ours.step() for _ in range(turn.warmup)])
    seconds, tokens = timed(lambda: sum(ours.step() for _ in range(turn.steps)))
    pairs = tokens / (shards.tokens / shards.documents)
    share = asking * pairs / turn.steps
    how = f"{ours.precision.dtype}, {recipe.optim.matrices}, rows of {recipe.data.sequence_length}"
    how = f"{how.removeprefix('torch.')}, {'compiled' if ours.compiled else 'eager'}"
    return figures_of(turn, seconds / turn.steps + share, tokens / turn.steps, ours.padding, warmup_seconds, share, how)


def prepared(turn: Turn) -> tuple[Recipe, Tokenizer, Shards]:
    """The stage's recipe for this turn, and its data in tokens."""
    changes = {"init": turn.model, "data.files": [turn.file], "data.valid_fraction": 0.0, "train.device": "cpu"}
    changes |= {"distill.teacher": turn.teacher} if turn.stage == "distill" else {}
    recipe = recipes.load(Recipe, recipes.find(turn.preset, turn.stage), changes | json.loads(turn.settings))
    tokenizer = setup.load_tokenizer(recipe)
    return recipe, tokenizer, setup.shards(recipe, tokenizer, "dpo" if turn.stage == "dpo" else "sft")[0]


def figures_of(
    turn: Turn, seconds: float, tokens: float, padding: float, warmup: float, reference: float, settings: str
) -> Figures:
    rounded = [round(x, 4) for x in (tokens / seconds, seconds, tokens, padding, warmup, reference)]
    return Figures(turn.stage, turn.engine, *rounded, peak_memory(torch.device("cpu")), settings)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def ratios(found: list[Figures]) -> list[dict[str, Any]]:
    """Our speed over each other engine's, and our memory over its."""
    ours = {figures.stage: figures for figures in found if figures.engine == "minimind"}
    rows = []
    for theirs in found:
        if theirs.engine != "minimind" and (mine := ours.get(theirs.stage)):
            row: dict[str, Any] = {"stage": theirs.stage, "engine": theirs.engine}
            row["speed"] = round(mine.tokens_per_second / theirs.tokens_per_second, 2)
            if mine.peak_memory_bytes and theirs.peak_memory_bytes:
                row["memory"] = round(mine.peak_memory_bytes / theirs.peak_memory_bytes, 2)
            rows.append(row)
    return rows


def show(preset: str, found: list[Figures]) -> None:
    by = {(row["stage"], row["engine"]): row["speed"] for row in ratios(found)}
    rows = []
    for figures in found:
        memory = f"{figures.peak_memory_bytes / 1e6:,.0f}" if figures.peak_memory_bytes else ""
        ratio = f"{by[figures.stage, figures.engine]:.2f}" if (figures.stage, figures.engine) in by else ""
        speed, step = f"{figures.tokens_per_second:,.0f}", f"{figures.step_seconds:.2f}"
        rows.append([figures.stage, figures.engine, speed, ratio, memory, step, f"{figures.padding:.0%}"])
    columns = ["stage", "engine", "tokens/s", "ours is × faster", "peak MB", "s/step", "padding"]
    table(f"fine-tuning steps, {preset}", columns, rows)


if __name__ == "__main__":
    tyro.cli(main)
