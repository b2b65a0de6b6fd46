"""Bits per byte against parameters and tokens, and a scaling law fitted to them.

    python benchmarks/scaling_law.py --data pretrain.jsonl --valid pretrain_valid.jsonl --budget-minutes 60

Each size trains on each amount of text with a schedule of that length, so that all are compared at their best. The law
is fitted to all runs that are there; to plan by them, give them to `RUNS` in `minimind/plan/scaling.py`. Each run is a
line of `runs.jsonl` in --out; what is there is not run again.
"""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from training import Corpus, Log, train_ours

from minimind.console import print_json, say, table
from minimind.plan.scaling import fit
from minimind.report.figure import save
from minimind.report.plots import Series

SIZES = {  # name -> hidden size, layers; feed-forward 8/3 of it, heads of 64
    "2M": (192, 2),
    "6M": (256, 6),
    "12M": (384, 6),
}


def shape(hidden: int, layers: int) -> dict[str, Any]:
    """Fields of a model of this width and depth; heads share keys and values in pairs."""
    heads = max(2, hidden // 64 // 2 * 2)
    fields = {"hidden_size": hidden, "num_hidden_layers": layers, "head_dim": 64, "num_attention_heads": heads}
    fields |= {"num_key_value_heads": heads // 2, "intermediate_size": round(hidden * 8 / 3 / 64) * 64}
    return {f"model.{name}": value for name, value in fields.items()}


def main(
    data: Path,
    valid: Path,
    out: Path = Path("runs/scaling_law"),
    tokens: tuple[float, ...] = (5e5, 1e6, 2e6, 4e6),
    tokens_per_step: int = 4096,
    lr: float = 3e-3,
    seed: int = 0,
    budget_minutes: float = 60,
) -> None:
    """Run what is not there yet, shortest first, and fit.

    Args:
        data: training text.
        valid: held-out text.
        out: folder of the runs.
        tokens: amounts of text.
        tokens_per_step: of an optimizer step.
        lr: peak learning rate of all sizes.
        seed: of weights and data order.
        budget_minutes: no run is begun that would end later.
    """
    corpus = Corpus.read(data, valid, context=512)
    log = Log(out, budget_minutes)
    step = {"train.tokens_per_step": tokens_per_step, "train.micro_batch_tokens": tokens_per_step}
    runs: dict[str, list[dict[str, Any]]] = {size: [] for size in SIZES}
    for amount in sorted(tokens):
        for size, (hidden, layers) in SIZES.items():
            name = f"{size}-{amount:.0f}-lr{lr:g}-step{tokens_per_step}-seed{seed}"
            given = shape(hidden, layers) | step | {"optim.lr": lr, "train.seed": seed}
            found = log.run(size, name, amount, lambda: train_ours("laptop", corpus, amount, given, name))  # noqa: B023
            runs[size] += [found] if found else []

    everything = [run for size in runs.values() for run in size]
    columns = ("size", "parameters", "tokens", "FLOPs", "bpb", "seconds")
    names = ("parameters", "tokens", "flops", "bpb", "seconds")
    table("scaling", columns, [(size, *(run[n] for n in names)) for size, made in runs.items() for run in made])
    save(
        out / "scaling_law.svg",
        [Series(size, [(run["flops"] / 1e12, run["bpb"]) for run in made]) for size, made in runs.items() if made],
        "TFLOPs",
        "bits per byte",
    )
    enough = all(len(made) >= 2 for made in runs.values())
    if not enough:
        return say("two amounts of text of each size are needed for a fit; run again to go on")
    law = fit((run["parameters"], run["tokens"], run["bpb"]) for run in everything)
    errors = [abs(law.bpb(run["parameters"], run["tokens"]) - run["bpb"]) for run in everything]
    print_json({"law": law._asdict(), "largest_error": max(errors), "runs": len(everything), "crossings": cross(runs)})


def cross(runs: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """From how many FLOPs on a size is better than the next smaller one after as many (None: never yet).

    Between its runs the smaller one lies on straight lines over log(FLOPs); beyond them nothing is known of it.
    """
    found = []
    for small, large in pairwise(runs):
        curve = sorted((run["flops"], run["bpb"]) for run in runs[small])
        flops, bpb = zip(*curve, strict=True)
        better = [
            run["flops"]
            for run in runs[large]
            if run["flops"] <= flops[-1] and run["bpb"] < np.interp(math.log(run["flops"]), np.log(flops), bpb)
        ]
        found.append({"from": small, "to": large, "flops": min(better, default=None)})
    return found


if __name__ == "__main__":
    tyro.cli(main)
