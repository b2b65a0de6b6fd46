"""Does reinforcement learning learn, and from nothing but its signal? Held-out tasks of the small world, several seeds.

    python benchmarks/rl_learns.py --init MODEL_DIR --seeds 0 1 2 --methods grpo cispo ppo --json
    python benchmarks/rl_learns.py --init MODEL_DIR --task tools --methods cispo "masked calls"

Sums: in two steps, thinking first, by each method's own recipe, from a small-world model that gets some of them right
(the demo's after DPO). Tools: arithmetic too large to guess, with a calculator, by the agent's recipe (from the demo's
after SFT). What is asked in the end was in no training file. The controls must not learn: the same rewards given to the
wrong answers, all alike, or at a learning rate of 0; with calls masked out of the loss, the answers may become better,
the calls may not.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

from minimind import recipe as recipes
from minimind import runtime
from minimind.api import load
from minimind.console import say, table
from minimind.data.smallworld import arithmetic, preferences, questions, tooltasks
from minimind.data.smallworld.arithmetic import Sums
from minimind.data.smallworld.preferences import verifiable
from minimind.eval.abilities import score
from minimind.recipe import Recipe
from minimind.rl import environment
from minimind.rl.rollout import Episode, Sample
from minimind.stages import agent, grpo, ppo
from minimind.train import metrics

REWARDS = """
import random
from minimind.rl.environment import outcome
from minimind.rl.rewards import numeric, reward
from minimind.tools.answers import hits

CHANCE = random.Random(0)

@reward
def shuffled(samples):
    values = {right}(samples)
    CHANCE.shuffle(values)
    return values

@reward
def constant(samples):
    return [1.0] * len(samples)

@reward
def called(samples):
    calls = [[call.result for call in sample.info.get("calls", []) if call.ok] for sample in samples]
    return [float(any(all(hits(s.prompt.gt, one)) for one in made)) for s, made in zip(samples, calls)]
"""
RIGHT = {"sums": "numeric", "tools": "outcome"}
"""The reward that says whether an answer to a task is right."""
WATCHED = 1e-9
"""Weight of a reward that is only to be reported."""
METHODS = {
    "grpo": ("grpo", {"rl.algorithm": "grpo"}),
    "dr_grpo": ("grpo", {"rl.algorithm": "dr_grpo"}),
    "dapo": ("grpo", {"rl.algorithm": "dapo"}),
    "gspo": ("grpo", {"rl.algorithm": "gspo"}),
    "cispo": ("grpo", {"rl.algorithm": "cispo"}),
    "ppo": ("ppo", {}),
    "shuffled rewards": ("grpo", {"scoring.weights": {"shuffled": 1.0}}),
    "constant rewards": ("grpo", {"scoring.weights": {"constant": 1.0}, "rl.filter_groups": "keep"}),
    "rate of 0": ("grpo", {"optim.lr": 1e-30}),
    "masked calls": ("grpo", {}),
}


def sums(folder: Path) -> tuple[Path, Path]:
    """Prompts of sums in two steps, some in one, for training; of held-out ones in all wordings of both languages."""
    world, rng = Sums(0), random.Random("rl_learns")
    practised = world.chains[:750] + world.train[:250]
    train = [verifiable(one, ("en", "zh")[i % 2], rng) for i, one in enumerate(practised)]
    valid = [
        {
            "messages": [{"role": "user", "content": wording.format(e=one)}],
            "gt": [str(one.result)],
            "open_thinking": True,
        }
        for wordings in arithmetic.QUESTIONS.values()
        for wording in wordings
        for one in world.held_out_chains
    ]
    files = []
    for name, rows in (("train", train), ("valid", valid)):
        files.append(folder / f"{name}.jsonl")
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        files[-1].write_text(text, encoding="utf-8", newline="\n")
    return files[0], files[1]


def tools(folder: Path) -> tuple[Path, Path]:
    """Prompts of tasks for the calculator: for training, and held out."""
    rng = random.Random("rl_learns")
    train = list(tooltasks.by_turns(tooltasks.training(0), 1000, rng))
    files = []
    for name, tasks in (("train", train), ("valid", tooltasks.held_out(0))):
        files.append(folder / f"{name}.jsonl")
        text = "".join(json.dumps(preferences.task(one, rng), ensure_ascii=False) + "\n" for one in tasks)
        files[-1].write_text(text, encoding="utf-8", newline="\n")
    return files[0], files[1]


def play_with_masked_calls(sample: Sample, **options: Any) -> Episode:
    """An episode in which nothing but the final answer is trained on."""
    yield from environment.multi_turn(sample, **options)
    after = len(sample.trainable) - sample.trainable[::-1].index(False) if False in sample.trainable else 0
    if sample.message.get("tool_calls"):
        after = len(sample.ids)  # it ends with a call
    sample.trainable[:after] = [False] * after
    sample.log_probs[:after] = [0.0] * after
    sample.versions[:after] = [-1] * after


def run(method: str, seed: int, init: str, steps: int, files: tuple[Path, Path], folder: Path, task: str) -> dict:
    """One training; accuracy on held-out tasks at temperature 1 on the way, and in the end, also greedily."""
    stage, changes = METHODS[method]
    stage = "agent" if task == "tools" else stage
    recipe = settings(stage, init, files, folder, task, changes.get("scoring.weights"))
    recipe |= {"train.max_steps": steps, "train.seed": seed, "train.valid_every": max(1, steps // 3)}
    recipe |= {"train.save_every": 0, "train.sample_every": 0}
    recipe |= {name: value for name, value in changes.items() if name != "scoring.weights"}
    out = folder / f"{task}-{method}-{seed}".replace(" ", "-")
    began = time.monotonic()
    with ExitStack() as stack:
        if method == "masked calls":
            stack.enter_context(mock.patch.object(agent, "multi_turn", play_with_masked_calls))
        module = {"grpo": grpo, "ppo": ppo, "agent": agent}[stage]
        model = module.run(recipes.load(Recipe, recipes.find("tiny", stage), recipe), out)
    seconds, name = round(time.monotonic() - began, 1), f"valid_{RIGHT[task]}"
    lines = [line for line in metrics.read(out / "metrics.jsonl") if name in line]
    curve = [(line["step"], line[name]) for line in lines]
    found = {"method": method, "seed": seed, "seconds": seconds, "curve": curve, "sampled": curve[-1][1]}
    found["greedy"] = lines[-1][f"valid_greedy_{RIGHT[task]}"]
    if task == "tools":
        found["called"] = lines[-1]["valid_called"]
    return found | facts(model)


def settings(
    stage: str, init: str, files: tuple[Path, Path], folder: Path, task: str, weights: dict[str, float] | None = None
) -> dict[str, Any]:
    """Changes of the recipe that say what is practised and reported; `weights` are a control's rewards."""
    folder.mkdir(exist_ok=True)
    path, right = folder / "rewards.py", RIGHT[task]
    path.write_text(REWARDS.replace("{right}", right), encoding="utf-8")
    watched = {"called": WATCHED} if task == "tools" else {}
    own = recipes.load(Recipe, recipes.find("tiny", stage)).scoring.weights
    return {
        "init": init,
        "data.files": [str(files[0])],
        "data.valid": [str(files[1])],
        "scoring.file": str(path),
        "scoring.weights": {**({right: WATCHED, **weights} if weights else own), **watched},
    }


def facts(model: Path) -> dict[str, float]:
    """Shares of the held-out facts that the model still knows."""
    lm = load(model, "cpu")
    asked = {name: items for name, items in questions().items() if name.startswith("facts")}
    return score(lm.model, lm.tokenizer, asked, runtime.compute_dtype(lm.model.output_weight.device))[0]


def main() -> None:
    """Run all, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", required=True)
    parser.add_argument("--task", default="sums", choices=list(RIGHT))
    parser.add_argument("--methods", nargs="+", default=["grpo", "cispo", "ppo"], choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if wrong := set(args.methods) & ({"ppo"} if args.task == "tools" else {"masked calls"}):
        parser.error(f"--task {args.task} knows no {' and no '.join(sorted(wrong))}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"sums": sums, "tools": tools}[args.task](folder)
        start = run("rate of 0", 0, args.init, 1, files, folder / "before", args.task) | {"method": "before"}
        say(json.dumps(start))
        rows = []
        for method in args.methods:
            for seed in args.seeds:
                rows.append(run(method, seed, args.init, args.steps, files, folder, args.task))
                say(json.dumps(rows[-1]))
    if args.json:
        sys.stdout.write(json.dumps({"before": start, "runs": rows}) + "\n")
    else:
        columns = [name for name in start if name != "curve"]
        table(f"held-out {args.task}", columns, [[row[c] for c in columns] for row in [start, *rows]])


if __name__ == "__main__":
    runtime.keep_memory()
    main()
