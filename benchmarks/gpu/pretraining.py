"""A real run: `minimind-3` pretrained for what time is left, by the stage itself; its loss curve and how it ends."""

import json
import math
from pathlib import Path

from benchmarks.gpu.work import Tell, Work
from minimind import recipe as recipes
from minimind.report import figure
from minimind.report.plots import Series, smooth
from minimind.stages import pretrain
from minimind.train import metrics

STARTING, ENDING = 25, 15
"""Seconds for text, compiler and first step, and for the last validation and checkpoint."""

UNMEASURED = {"cuda": 2e5, "cpu": 1e2}
"""Tokens a second where the part that measures them has failed."""


def pretraining(work: Work, tell: Tell) -> None:
    """Train for as many steps as fit, so that the schedule comes to its end."""
    seconds = min(work.sizes.run_seconds, work.left - STARTING - ENDING)
    speed = measured_speed(work) or UNMEASURED[work.on.type]
    recipe = work.recipe(work.sizes.dense, **{"train.micro_batch_tokens": work.sizes.micro_batches[0]})
    steps = max(2, math.floor(0.95 * seconds * speed / recipe.train.tokens_per_step))
    tell({"figure": "steps", "value": steps})
    changes = {"train.max_steps": steps, "train.max_minutes": (seconds + STARTING) / 60, "train.valid_every": steps}
    changes |= {"train.log_every": max(1, steps // 200), "train.save_every": 0}
    if not work.data:
        changes["data.valid"] = [str(work.text("pretrain_valid"))]
    else:
        changes["data.valid_fraction"] = 0.002
    run = Path(work.out) / "run"
    pretrain.run(recipes.override(recipe, changes), run, resume=False)
    lines = metrics.read(run / "metrics.jsonl")
    logged = [line for line in lines if "loss" in line]
    curve = [(float(line["tokens"]), float(line["loss"])) for line in logged]
    with (Path(work.out) / "loss.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps({"tokens": tokens, "loss": loss}) + "\n" for tokens, loss in curve)
    figure.save(Path(work.out) / "loss.svg", [Series("loss", smooth(curve))], "tokens", "loss (nats a token)")
    settled = [line["tokens_per_second"] for line in logged[1:]] or [logged[0]["tokens_per_second"]]
    found = {"tokens": logged[-1]["tokens"], "first_loss": curve[0][1], "last_loss": curve[-1][1]}
    found |= {"tokens_per_second": sorted(settled)[len(settled) // 2], "steps_done": logged[-1]["step"]}
    found |= {name: line[name] for line in lines for name in line if name.startswith("valid")}
    for name, value in found.items():
        tell({"figure": name, "value": value})


def measured_speed(work: Work) -> float | None:
    """Tokens a second of the same job, as the part before found."""
    file = Path(work.out) / "training.jsonl"
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    return next((row["tokens_per_second"] for row in rows if row.get("tokens_per_second")), None)
