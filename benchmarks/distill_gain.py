"""What a teacher adds: a student after SFT alone and after distillation, on the same conversations.

    python benchmarks/distill_gain.py --teacher demo/sft/model --student demo/pretrain/model --data demo/data

Both take the same steps in the same order from the same weights, on the first conversations of the SFT file; the
teacher has learned from all of them. What differs is the loss alone. Scores are shares of held-out questions that are
answered exactly right; the last line is all of it as JSON.
"""

import json
import statistics
from itertools import islice
from pathlib import Path
from typing import Any

import tyro

from minimind import recipe as recipes
from minimind import runtime
from minimind.api import load
from minimind.console import print_json, say, table
from minimind.data.smallworld import questions
from minimind.eval.abilities import score
from minimind.recipe import Recipe
from minimind.stages import distill, sft

KINDS: dict[str, dict[str, Any]] = {
    "sft": {},
    "distill": {},
    "distill, no text": {"distill.alpha": 0.0},
}


def main(
    teacher: Path,
    student: Path,
    data: Path,
    out: Path = Path("runs/distill_gain"),
    kinds: tuple[str, ...] = ("sft", "distill"),
    conversations: int = 600,
    steps: int = 40,
    seeds: tuple[int, ...] = (0, 1, 2),
) -> None:
    """Train and measure.

    Args:
        teacher: a small-world model after fine-tuning.
        student: the small-world model that both begin with, after pretraining.
        data: the small world's files (`sft.jsonl`).
        out: where runs go.
        kinds: sft, distill, or "distill, no text".
        conversations: how many of the file are learned from.
        steps: optimizer steps of each run.
        seeds: of the order of the conversations.
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"sft-{conversations}.jsonl"
    with (data / "sft.jsonl").open(encoding="utf-8") as lines:
        file.write_text("".join(islice(lines, conversations)), encoding="utf-8", newline="\n")
    settings = {"init": str(student), "data.files": [str(file)], "data.valid_fraction": 0.0, "train.max_steps": steps}
    settings |= {"train.epochs": 1000.0, "train.save_every": steps, "distill.teacher": str(teacher)}
    runs: list[dict[str, Any]] = [{"kind": "teacher", "seed": "", **measure(teacher)}]
    for seed in seeds:
        for kind in kinds:
            stage = kind.split(",")[0]
            recipe = recipes.load(Recipe, recipes.find("tiny", stage), settings | KINDS[kind] | {"train.seed": seed})
            folder = out / f"{kind}-{conversations}-{steps}-{seed}".replace(", ", "-").replace(" ", "-")
            runs.append(
                {"kind": kind, "seed": seed, **measure({"sft": sft, "distill": distill}[stage].run(recipe, folder))}
            )
            say(json.dumps(runs[-1]))
    columns = list(runs[0])
    means = [
        {
            "kind": kind,
            "seed": "mean",
            **{c: statistics.fmean(r[c] for r in runs if r["kind"] == kind) for c in columns[2:]},
        }
        for kind in kinds
    ]
    table(f"{conversations} conversations, {steps} steps", columns, [[row[c] for c in columns] for row in runs + means])
    print_json({"conversations": conversations, "steps": steps, "runs": runs, "means": means})


def measure(model: Path) -> dict[str, float]:
    """Scores of a model by ability."""
    lm = load(model)
    device = lm.model.output_weight.device
    return score(lm.model, lm.tokenizer, questions(), runtime.compute_dtype(device))[0]


if __name__ == "__main__":
    runtime.keep_memory()
    tyro.cli(main)
