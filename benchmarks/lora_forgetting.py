"""What a model learns from 100 conversations about a character, and what it forgets, by LoRA and by full fine-tuning.

    python benchmarks/lora_forgetting.py --base runs/demo/sft/model --data runs/demo/data

Both train on the same conversations in the same order for the same number of steps, and rehearse those of SFT. Scores
are shares of held-out questions that are answered exactly right: `persona` is new, the others are what the base could
do. The learning rate of each side is tried over a range, with several seeds; the last line is all of it as JSON.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import tyro

from minimind import recipe as recipes
from minimind import runtime
from minimind.api import load
from minimind.console import print_json, say, table
from minimind.data.smallworld import persona_questions, questions
from minimind.eval.abilities import score
from minimind.eval.bpb import bits_per_byte, text_document
from minimind.recipe import Recipe
from minimind.stages import lora, sft


def main(
    base: Path,
    data: Path,
    out: Path = Path("runs/lora_forgetting"),
    steps: int = 160,
    lora_lrs: tuple[float, ...] = (3e-3,),
    sft_lrs: tuple[float, ...] = (3e-4,),
    seeds: tuple[int, ...] = (1, 2),
    rank: int = 8,
) -> None:
    """Train and measure.

    Args:
        base: a small-world model after fine-tuning.
        data: the small world's files (`lora.jsonl`, `sft.jsonl`, `pretrain_valid.jsonl`).
        out: where runs go.
        steps: optimizer steps of each run.
        lora_lrs: learning rates to try with LoRA.
        sft_lrs: the same with full fine-tuning.
        seeds: of each run.
        rank: of LoRA's change.
    """
    texts = [line["text"] for line in _rows(data / "pretrain_valid.jsonl")][:200]
    before = measure(base, texts)
    runs: list[dict[str, Any]] = []
    for kind, rates in (("lora", lora_lrs), ("sft", sft_lrs)):
        for lr in rates:
            found = [measure(train(kind, base, data, out, lr, seed, steps, rank), texts) for seed in seeds]
            mean = {name: statistics.fmean(one[name] for one in found) for name in before}
            lost = max(before[name] - mean[name] for name in before if name not in ("persona", "bpb"))
            runs.append({"kind": kind, "lr": lr, **mean, "most_lost": lost, "seeds": len(seeds)})
            say(f"{kind} at {lr:g}: persona {mean['persona']:.0%}, at most {100 * lost:.1f} points lost elsewhere")
    columns = ["kind", "lr", *before, "most_lost"]
    rows = [["base", "", *before.values(), ""], *([run[name] for name in columns] for run in runs)]
    table("a character from 100 conversations", columns, rows)
    print_json({"base": before, "runs": runs})


def train(kind: str, base: Path, data: Path, out: Path, lr: float, seed: int, steps: int, rank: int) -> Path:
    """One run; a finished one is not run again."""
    changes: dict[str, Any] = {"init": str(base), "data.files": [str(data / "lora.jsonl")], "data.valid_fraction": 0.0}
    changes |= {"optim.lr": lr, "train.seed": seed, "train.max_steps": steps, "train.save_every": steps}
    changes |= {"train.tokens_per_step": 1024, "train.micro_batch_tokens": 1024, "train.device": "cpu"}
    changes |= {"train.epochs": 100.0, "rehearsal.files": [str(data / "sft.jsonl")], "rehearsal.tokens": 3072}
    changes |= {"lora.rank": rank} if kind == "lora" else {}
    recipe = recipes.load(Recipe, recipes.find("tiny", kind), changes)
    return {"lora": lora.run, "sft": sft.run}[kind](recipe, out / f"{kind}-{lr:g}-{seed}-{steps}-{rank}")


def measure(model: Path, texts: list[str]) -> dict[str, float]:
    """Scores of a model by ability, and its bits per byte of pretraining text."""
    lm = load(model, "cpu")
    dtype = runtime.compute_dtype(lm.model.output_weight.device)
    scores, _ = score(lm.model, lm.tokenizer, persona_questions() | questions(), dtype)
    documents = (text_document(text, lm.tokenizer) for text in texts)
    return scores | {"bpb": bits_per_byte(lm.model, documents, 2048, dtype)["bpb"]}


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    runtime.keep_memory()
    tyro.cli(main)
