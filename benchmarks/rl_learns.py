"""Does reinforcement learning learn, and from nothing but its signal? Held-out sums of the small world, several seeds.

    python benchmarks/rl_learns.py --init MODEL_DIR --seeds 0 1 2 --methods grpo cispo ppo --json

Starts from a small-world model that has been fine-tuned only a little (`train sft tiny --max-steps 30`: a quarter of
the sums right at temperature 1) and lets it practise sums; a sum that is asked in the end was in no training file. The
controls must not learn: the same rewards given to the wrong answers, all alike, or at a learning rate of 0.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from minimind import recipe as recipes
from minimind.console import say, table
from minimind.data.smallworld import arithmetic
from minimind.data.smallworld.arithmetic import Sums
from minimind.data.smallworld.preferences import verifiable
from minimind.recipe import Recipe
from minimind.stages import grpo, ppo
from minimind.train import metrics

CONTROLS = """
import random
from minimind.rl.rewards import numeric, reward

CHANCE = random.Random(0)

@reward
def shuffled(samples):
    values = numeric(samples)
    CHANCE.shuffle(values)
    return values

@reward
def constant(samples):
    return [1.0] * len(samples)
"""
METHODS = {
    "grpo": ("grpo", {"rl.algorithm": "grpo"}),
    "dr_grpo": ("grpo", {"rl.algorithm": "dr_grpo"}),
    "dapo": ("grpo", {"rl.algorithm": "dapo"}),
    "gspo": ("grpo", {"rl.algorithm": "gspo"}),
    "cispo": ("grpo", {"rl.algorithm": "cispo"}),
    "ppo": ("ppo", {}),
    "shuffled rewards": ("grpo", {"scoring.weights": {"shuffled": 1.0}}),
    "constant rewards": ("grpo", {"scoring.weights": {"constant": 1.0}, "rl.spread": "keep"}),
    "rate of 0": ("grpo", {"optim.lr": 1e-30}),
}


def sums(folder: Path) -> tuple[Path, Path]:
    """Prompts of the training sums, and of the held-out ones in all wordings of both languages."""
    world, rng = Sums(0), random.Random("rl_learns")
    train = [verifiable(one, one.result, ("en", "zh")[i % 2], rng) for i, one in enumerate(world.train * 2)]
    valid = [
        {
            "messages": [{"role": "user", "content": wording.format(e=one)}],
            "gt": [str(one.result)],
        }
        for wordings in arithmetic.QUESTIONS.values()
        for wording in wordings
        for one in world.held_out
    ]
    files = []
    for name, rows in (("train", train), ("valid", valid)):
        files.append(folder / f"{name}.jsonl")
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files[-1].write_text(text, encoding="utf-8", newline="\n")
    return files[0], files[1]


def run(method: str, seed: int, init: str, steps: int, files: tuple[Path, Path], folder: Path) -> dict:
    """One training; accuracy on held-out sums before and after, by chance at temperature 1 and greedily."""
    stage, changes = METHODS[method]
    (folder / "controls.py").write_text(CONTROLS, encoding="utf-8")
    settings = {
        "init": init,
        "data.files": [str(files[0])],
        "data.valid": [str(files[1])],
        "scoring.file": str(folder / "controls.py"),
        "train.max_steps": steps,
        "train.seed": seed,
        "train.valid_every": max(1, steps // 3),
        "train.save_every": 0,
        "train.sample_every": 0,
    }
    name = "numeric"
    if "scoring.weights" in changes:  # what is asked in the end is always whether the sum is right
        changes = {**changes, "scoring.weights": {**changes["scoring.weights"], name: 1e-9}}
    path = recipes.find("tiny", stage)
    out = folder / f"{method}-{seed}".replace(" ", "-")
    began = time.monotonic()
    module = {"grpo": grpo, "ppo": ppo}[stage]
    module.run(recipes.load(Recipe, path, settings | changes), out)
    lines = [line for line in metrics.read(out / "metrics.jsonl") if f"valid_{name}" in line]
    curve = [(line["step"], line[f"valid_{name}"]) for line in lines]
    return {
        "method": method,
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "curve": curve,
        "sampled": curve[-1][1],
        "greedy": lines[-1][f"valid_greedy_{name}"],
    }


def before(init: str, files: tuple[Path, Path]) -> dict[str, float]:
    """Accuracy of the model that all runs start from."""
    from minimind.model.store import load_model
    from minimind.rl.session import Session
    from minimind.tokenizer.bpe import Tokenizer

    settings = {"init": init, "data.files": [str(files[0])], "data.valid": [str(files[1])]}
    recipe = recipes.load(Recipe, recipes.find("tiny", "grpo"), settings)
    return Session(recipe, load_model(init), Tokenizer.load(init)).validate()


def main() -> None:
    """Run all, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", required=True)
    parser.add_argument("--methods", nargs="+", default=["grpo", "cispo", "ppo"], choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = sums(folder)
        start = before(args.init, files)
        say(f"before: {start['numeric']:.1%} at temperature 1, {start['greedy_numeric']:.1%} greedily")
        rows = []
        for method in args.methods:
            for seed in args.seeds:
                rows.append(run(method, seed, args.init, args.steps, files, folder))
                say(json.dumps(rows[-1]))
    if args.json:
        sys.stdout.write(json.dumps({"before": start, "runs": rows}) + "\n")
    else:
        columns = ("method", "seed", "seconds", "sampled", "greedy")
        table("held-out sums", columns, [[row[c] for c in columns] for row in rows])


if __name__ == "__main__":
    main()
