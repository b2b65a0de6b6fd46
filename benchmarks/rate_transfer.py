"""Which learning rate is best at which width and depth, and what `plan` would have chosen.

    python benchmarks/rate_transfer.py --data pretrain.jsonl --valid pretrain_valid.jsonl --budget-minutes 90

Each shape trains by the recipe of `laptop` at each rate, each run with a schedule of its length. The best rate of a
shape is where a parabola over log(rate) through its best run and that one's neighbours is lowest. Each run is a line
of `runs.jsonl` in --out; what is there is not run again.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from scaling_law import shape
from training import Corpus, Log, train_ours

from minimind.console import table
from minimind.plan.scaling import learning_rate
from minimind.report.figure import save
from minimind.report.plots import Series

SHAPES = {
    f"{hidden} x {layers}": (hidden, layers)
    for hidden, layers in ((64, 4), (128, 4), (256, 4), (512, 4), (256, 2), (256, 8))
}


def main(
    data: Path,
    valid: Path,
    out: Path = Path("runs/rate_transfer"),
    shapes: tuple[str, ...] = tuple(SHAPES),
    rates: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3),
    tokens: float = 4e5,
    tokens_per_step: int = 2048,
    seed: int = 0,
    budget_minutes: float = 90,
) -> None:
    """Run what is not there yet, and show what is there.

    Args:
        data: training text.
        valid: held-out text.
        out: folder of the runs.
        shapes: width x layers, some of those of this file.
        rates: peak learning rates of Muon, ascending.
        tokens: that each model trains on.
        tokens_per_step: of an optimizer step.
        seed: of weights and data order.
        budget_minutes: no run is begun that would end later.
    """
    corpus = Corpus.read(data, valid, context=512)
    log = Log(out, budget_minutes)
    step = {"train.tokens_per_step": tokens_per_step, "train.micro_batch_tokens": tokens_per_step, "train.seed": seed}
    rows: list[tuple[Any, ...]] = []
    curves = []
    for name in shapes:
        given = shape(*SHAPES[name]) | step
        found = {}
        for lr in rates:
            title = f"{name}-{tokens:.0f}-lr{lr:g}-step{tokens_per_step}-seed{seed}"
            make = partial(train_ours, "laptop", corpus, tokens, given | {"optim.lr": lr}, title)
            if run := log.run(name, title, tokens, make):
                found[lr] = run["bpb"]
        width = SHAPES[name][0]
        rows.append((name, *(found.get(lr) for lr in rates), best(found), learning_rate(width)))
        if found:
            lowest = min(found.values())
            curves.append(Series(name, [(1000 * lr, bpb - lowest) for lr, bpb in found.items()]))
    table("bits per byte at each rate", ("width x layers", *(f"{lr:g}" for lr in rates), "best rate", "planned"), rows)
    if curves:
        save(out / "rate_transfer.svg", curves, "learning rate, thousandths", "bits per byte above the best", zero=True)


def best(found: dict[float, float]) -> float | None:
    """The rate at the lowest point of the curve; None while that would lie outside the rates that were tried."""
    rates = sorted(found)
    at = min(range(len(rates)), key=lambda i: found[rates[i]], default=0)
    if not 0 < at < len(rates) - 1:
        return None
    near = rates[at - 1 : at + 2]
    curvature, slope, _ = np.polyfit(np.log(near), [found[rate] for rate in near], 2)
    return float(np.exp(-slope / (2 * curvature)))


if __name__ == "__main__":
    tyro.cli(main)
