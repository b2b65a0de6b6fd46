"""What format should weights be kept in? Bits per byte after equal tokens, float32 against bfloat16.

    python benchmarks/weight_formats.py --data pretrain.jsonl --valid pretrain_valid.jsonl

Matrix products are in the format that is fast here, each time. The weights that the optimizer changes are float32 (as
in `minimind train`), or rounded to bfloat16 after each step: to the nearest, which loses every change below 1/512 of
a weight, or stochastically, which keeps it on average. Moments stay float32. Memory is 2 bytes less for each
parameter and 2 for its gradient; seconds are not compared, since rounding is done apart here. Each run is a
line of `runs.jsonl` in --out; what is there is not run again.
"""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

from minimind import runtime

runtime.share_cores()  # as the command line does, before torch is imported

import torch
import tyro
from torch import Tensor
from training import Corpus, Log, train_ours

from minimind.bench.ours import Ours
from minimind.console import print_json, table
from minimind.data.shard_reader import Shards
from minimind.recipe import Recipe
from minimind.tokenizer.bpe import Tokenizer


def stochastic(weight: Tensor) -> Tensor:
    """Round float32 to one of the two nearest bfloat16 values, the nearer one more often: the mean is the value.

    bfloat16 is the upper half of a float32, so a random number added to the lower half carries into the upper one with
    the right probability.
    """
    bits = weight.view(torch.int32)
    noise = torch.randint_like(bits, 1 << 16)
    return ((bits + noise) & ~0xFFFF).view(torch.float32)


ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "float32": lambda weight: weight,
    "bfloat16, stochastic": stochastic,
    "bfloat16, nearest": lambda weight: weight.bfloat16().float(),
}


class Rounded(Ours):
    """Our training, whose weights are rounded after every step."""

    def __init__(self, rounding: Callable[[Tensor], Tensor], recipe: Recipe, tokenizer: Tokenizer, shards: Shards):
        super().__init__(recipe, tokenizer, shards)
        self.rounding = rounding

    def step(self, lr: float | None = None) -> int:
        """One step, then the rounding."""
        tokens = super().step(lr)
        with torch.no_grad():
            for weight in self.model.parameters():
                weight.copy_(self.rounding(weight))
        return tokens


def main(
    data: Path,
    valid: Path,
    out: Path = Path("runs/weight_formats"),
    preset: str = "laptop",
    tokens: float = 1e6,
    tokens_per_step: int = 4096,
    seeds: int = 2,
    matrices: tuple[str, ...] = ("muon", "adamw"),
    budget_minutes: float = 60,
) -> None:
    """Run what is not there yet, and print the table.

    Args:
        data: training text.
        valid: held-out text.
        out: folder of the runs.
        preset: the model.
        tokens: that each run trains on.
        tokens_per_step: of an optimizer step.
        seeds: runs of each kind.
        matrices: optimizers of the matrices to compare with.
        budget_minutes: no run is begun that would end later.
    """
    corpus = Corpus.read(data, valid, context=512)
    log = Log(out, budget_minutes)
    step = {"train.tokens_per_step": tokens_per_step, "train.micro_batch_tokens": tokens_per_step}
    rows = []
    for optimizer in matrices:
        for kind in ROUND:
            found, make = [], partial(Rounded, ROUND[kind])
            for seed in range(seeds):
                given = step | {"train.seed": seed, "optim.matrices": optimizer}
                given |= {"optim.lr": 3e-3 if optimizer == "muon" else 1e-3}
                name = f"{optimizer}-{kind}-{preset}-{tokens:.0f}-seed{seed}".replace(", ", "-")
                one = log.run(kind, name, tokens, partial(train_ours, preset, corpus, tokens, given, name, make=make))
                found += [one["bpb"]] if one else []
            if found:
                spread = max(found) - min(found)
                rows.append({"matrices": optimizer, "weights": kind, "bpb": statistics.fmean(found), "spread": spread})
    table("formats of weights", list(rows[0]), [list(row.values()) for row in rows])
    print_json({"rows": rows})


if __name__ == "__main__":
    tyro.cli(main)
