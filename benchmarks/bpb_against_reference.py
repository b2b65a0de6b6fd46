"""After what share of the reference's tokens, and of its time, our training has reached its bits per byte.

    python benchmarks/bpb_against_reference.py --data pretrain.jsonl --valid pretrain_valid.jsonl --budget-minutes 60

Reference: transformers' Qwen3 in float32, AdamW, one sample a padded row of 340, batch 8, warm-up and cosine to 0. The
learning rate of both sides is chosen by runs on a quarter of the tokens; ours also by the size of a step. Then both
train on all tokens with several seeds, and ours also on fractions of them, each with a schedule of that length: where
their final BPB crosses the reference's final BPB is the answer. All models are scored in windows of the reference's 340
tokens: longer ones would favour ours. Seconds are of training alone, compiling included.

Each run is a line of `runs.jsonl` in --out; what is there is not run again. The last line is the result as JSON.
"""

import math
import statistics
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import tyro
from training import Corpus, Log, train_ours, train_reference

from minimind.bench.reference import LENGTH
from minimind.console import print_json, say
from minimind.report.figure import save
from minimind.report.plots import Series

Run = dict[str, Any]
T = TypeVar("T")


def main(
    data: Path,
    valid: Path,
    out: Path = Path("runs/bpb_against_reference"),
    preset: str = "laptop",
    tokens: float = 3e6,
    reference_lrs: tuple[float, ...] = (1e-3, 2e-3, 4e-3),
    our_lrs: tuple[float, ...] = (3e-3, 6e-3),
    our_steps: tuple[int, ...] = (4096, 8192),
    fractions: tuple[float, ...] = (0.35, 0.5, 0.65, 1.0),
    seeds: int = 2,
    points: int = 8,
    budget_minutes: float = 60,
) -> None:
    """Run what is not there yet, and print the result.

    Args:
        data: training text.
        valid: held-out text.
        out: folder of the runs.
        preset: the model.
        tokens: real tokens of the reference's runs.
        reference_lrs: learning rates to try; while the best is the first or last, another beyond it is tried.
        our_lrs: learning rates of ours to try, with each of `our_steps`.
        our_steps: tokens of an optimizer step.
        fractions: of the tokens, for ours.
        seeds: runs of each.
        points: BPB values along each run, for the plot.
        budget_minutes: no run is begun that would end later.
    """
    corpus = Corpus.read(data, valid, context=LENGTH)
    log = Log(out, budget_minutes)

    def reference(lr: float, seed: int, amount: float, curve: int = 1) -> Run | None:
        name = f"reference-{amount:.0f}-lr{lr:g}-seed{seed}"
        return log.run(
            "reference", name, amount, lambda: train_reference(preset, corpus, amount, lr, seed, name, curve)
        )

    def ours(choice: tuple[float, int], seed: int, amount: float, curve: int = 1) -> Run | None:
        lr, step = choice
        name = f"ours-{amount:.0f}-lr{lr:g}-step{step}-seed{seed}"
        given = {"optim.lr": lr, "train.tokens_per_step": step, "train.micro_batch_tokens": step, "train.seed": seed}
        return log.run("ours", name, amount, lambda: train_ours(preset, corpus, amount, given, name, curve))

    lr = best_rate(list(reference_lrs), lambda lr: reference(lr, 0, tokens / 4))
    choices = [(rate, step) for rate in our_lrs for step in our_steps]
    choice = best(choices, lambda choice: ours(choice, 0, tokens / 4))
    say(f"reference: learning rate {lr:g}; ours: {choice[0]:g}, steps of {choice[1]:,} tokens")

    theirs: list[Run] = []
    mine: dict[float, list[Run]] = {fraction: [] for fraction in sorted(fractions)}
    for seed in range(seeds):
        theirs += filter(None, [reference(lr, seed, tokens, points)])
        for fraction in mine:
            mine[fraction] += filter(None, [ours(choice, seed, tokens * fraction, points)])
    if not theirs or not all(mine.values()):
        return say("not all kinds of runs are there yet; run again to go on")
    print_json(compare(theirs, mine) | {"reference_lr": lr, "our_lr": choice[0], "our_tokens_per_step": choice[1]})
    curves = [Series("reference", points_of(theirs[0]))]
    curves += [Series(f"ours, {fraction:.0%}", points_of(runs[0])) for fraction, runs in mine.items()]
    save(out / "bpb.svg", curves, "tokens", "bits per byte")


def compare(theirs: list[Run], mine: dict[float, list[Run]]) -> dict[str, Any]:
    """Where our final BPB over the share of tokens crosses the reference's: straight lines over log(share)."""
    target, seconds = mean(theirs, "bpb"), mean(theirs, "seconds")
    shares = [(mean(runs, "tokens") / mean(theirs, "tokens"), mean(runs, "bpb")) for runs in mine.values()]
    times = [(mean(runs, "seconds") / seconds, mean(runs, "bpb")) for runs in mine.values()]
    return {
        "reference": {"bpb": target, "spread": spread(theirs), "seconds": seconds, "runs": len(theirs)},
        "ours": [
            {"share": share, "bpb": bpb, "spread": spread(runs), "seconds": mean(runs, "seconds"), "runs": len(runs)}
            for (share, bpb), runs in zip(shares, mine.values(), strict=True)
        ],
        "token_share": crossing(shares, target),
        "time_share": crossing(times, target),
        "bpb_at_equal_tokens": shares[-1][1] - target,
    }


def crossing(points: list[tuple[float, float]], target: float) -> float | None:
    """The share at which falling `points` (share, BPB) reach `target`; the first's share when that is below already."""
    if points[0][1] <= target:
        return points[0][0]
    for (x0, y0), (x1, y1) in pairwise(points):
        if y1 <= target:
            return math.exp(math.log(x0) + (y0 - target) / (y0 - y1) * (math.log(x1) - math.log(x0)))
    return None


def best_rate(rates: list[float], run: Callable[[float], Run | None]) -> float:
    """The learning rate with the lowest BPB; the sweep goes on beyond its ends as long as the best is one of them."""
    while True:
        found = best(rates, run)
        if found not in (min(rates), max(rates)) or len(rates) >= 7:
            return found
        rates.append(found * 2 if found == max(rates) else found / 2)


def best(choices: list[T], run: Callable[[T], Run | None]) -> T:
    """The choice whose run has the lowest BPB."""
    runs = [(choice, run(choice)) for choice in choices]
    finished = [(figures["bpb"], index) for index, (_, figures) in enumerate(runs) if figures]
    return choices[min(finished)[1]]


def mean(runs: list[Run], name: str) -> float:
    return statistics.fmean(run[name] for run in runs)


def spread(runs: list[Run]) -> float:
    return max(run["bpb"] for run in runs) - min(run["bpb"] for run in runs)


def points_of(run: Run) -> list[tuple[float, float]]:
    return [(tokens, bpb) for tokens, _, bpb in run["curve"]]


if __name__ == "__main__":
    tyro.cli(main)
