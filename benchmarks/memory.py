"""Peak resident memory of training, measured in this process, beside what `minimind plan` predicts.

python benchmarks/memory.py --preset laptop
python benchmarks/memory.py --preset minimind-3 --settings '{"train.activation_checkpointing": true}'
python benchmarks/memory.py --preset minimind-3 --lora 8
"""

import ctypes
import json
import tempfile
from multiprocessing import get_context
from pathlib import Path

import psutil
import tyro

from minimind import recipe as recipes
from minimind import runtime
from minimind.console import print_json

runtime.share_cores()  # as the command line does, before torch is imported

from minimind.bench.memory import peak_memory
from minimind.bench.ours import Ours
from minimind.data.shards import build
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.plan.budget import process_memory, program_memory, training_memory
from minimind.recipe import Recipe
from minimind.tokenizer.bpe import Tokenizer

TEXT = "memory is measured in bytes, and text as well 记忆 " * 200
MMAP_THRESHOLD = -3  # glibc's malloc.h


def main(preset: str = "laptop", settings: str = "{}", steps: int = 2, exact: bool = False, lora: int = 0) -> None:
    """Train a few steps and print bytes: before there was a model, at most, predicted, and the prediction's parts.

    Args:
        preset: which model, with its pretraining recipe.
        settings: JSON of changed recipe fields.
        steps: optimizer steps; the second has everything.
        lora: rank of an adapter to train instead of the model, with AdamW.
        exact: give each tensor's memory back when it is freed (slow): then the prediction has no heap to guess.
    """
    if exact:
        ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, 1 << 18)
    else:
        runtime.keep_memory()
    recipe = recipes.load(Recipe, recipes.find(preset, "pretrain"), json.loads(settings))
    tokenizer = Tokenizer.load(recipe.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        if lora:
            recipe = recipes.override(recipe, {"lora.rank": lora, "optim.matrices": "adamw"})
            recipe.init = str(Path(folder) / "base")
            writer = get_context("spawn").Process(target=write_base, args=(recipe,))  # its memory is not measured
            writer.start()
            writer.join()
        corpus = Path(folder) / "text.jsonl"
        corpus.write_text(json.dumps({"text": TEXT}) + "\n", encoding="utf-8")
        shards = build([corpus], tokenizer, Path(folder) / "shards", workers=0)
        before = psutil.Process().memory_info().rss
        ours = Ours(recipe, tokenizer, shards)
        for _ in range(steps):
            ours.step()
        peak = peak_memory(ours.precision.device)
    assert peak is not None
    config = ours.model.config
    memory = training_memory(config, ours.config, recipe.lora, ours.precision.dtype.itemsize, ours.compiled)
    predicted = program_memory(ours.compiled) + memory.total if exact else process_memory(config, memory, ours.compiled)
    figures = {"preset": preset, "compiled": ours.compiled, "before": before, "peak": peak, "predicted": predicted}
    print_json({**figures, "ratio": round(predicted / peak, 3), "tensors": memory.total, **memory.figures()})


def write_base(recipe: Recipe) -> None:
    """A model as the recipe's, with random weights, as `recipe.init`."""
    tokenizer = Tokenizer.load(recipe.tokenizer)
    save_model(Transformer(recipes.model_config(recipe, tokenizer.vocab_size)), recipe.init)
    tokenizer.save(recipe.init)


if __name__ == "__main__":
    tyro.cli(main)
