"""Depth against width: models of equal parameters and different shapes, trained on the same tokens.

    python benchmarks/depth_width.py --data pretrain.jsonl --valid pretrain_valid.jsonl --budget-minutes 30

For each depth hidden size and feed-forward are chosen so that the parameters outside the embedding match. Each run is
a line of `runs.jsonl` in --out; what is there is not run again.
"""

import statistics
from pathlib import Path
from typing import Any

import tyro
from scaling_law import shape
from training import Corpus, Log, train_ours

from minimind.config import PRESETS
from minimind.console import print_json, table


def main(
    data: Path,
    valid: Path,
    out: Path = Path("runs/depth_width"),
    parameters: float = 4.4e6,
    depths: tuple[int, ...] = (2, 4, 8, 16),
    tokens: float = 1.5e6,
    tokens_per_step: int = 4096,
    lr: float = 3e-3,
    seeds: int = 2,
    budget_minutes: float = 30,
) -> None:
    """Run what is not there yet, and print the table.

    Args:
        data: training text.
        valid: held-out text.
        out: folder of the runs.
        parameters: outside the embedding, of every shape.
        depths: layers.
        tokens: that each model trains on.
        tokens_per_step: of an optimizer step.
        lr: peak learning rate of all shapes.
        seeds: runs of each shape.
        budget_minutes: no run is begun that would end later.
    """
    corpus = Corpus.read(data, valid, context=512)
    log = Log(out, budget_minutes)
    step = {"train.tokens_per_step": tokens_per_step, "train.micro_batch_tokens": tokens_per_step, "optim.lr": lr}
    runs: dict[int, list[dict[str, Any]]] = {depth: [] for depth in depths}
    for seed in range(seeds):
        for depth in depths:
            given = equal_shape(depth, parameters) | step | {"train.seed": seed}
            name = f"layers{depth}-{parameters:.0f}-{tokens:.0f}-lr{lr:g}-seed{seed}"
            found = log.run(f"{depth}", name, tokens, lambda: train_ours("laptop", corpus, tokens, given, name))  # noqa: B023
            runs[depth] += [found] if found else []

    rows = []
    for depth, made in runs.items():
        if made:
            bpb, speed = [run["bpb"] for run in made], [run["tokens"] / run["seconds"] for run in made]
            rows.append(
                {
                    "layers": depth,
                    "hidden": equal_shape(depth, parameters)["model.hidden_size"],
                    "parameters": made[0]["parameters"],
                    "bpb": statistics.fmean(bpb),
                    "spread": max(bpb) - min(bpb),
                    "tokens_per_second": max(speed),
                    "runs": len(made),
                }
            )
    table("depth against width", [name.replace("_", " ") for name in rows[0]], [list(row.values()) for row in rows])
    print_json({"rows": rows})


def equal_shape(depth: int, parameters: float) -> dict[str, Any]:
    """Fields of a model of `depth` layers whose blocks have `parameters`: first the nearest width, then its FFN."""

    def blocks(fields: dict[str, Any]) -> int:
        config = PRESETS["laptop"].with_(**{name.removeprefix("model."): value for name, value in fields.items()})
        return config.parameters() - config.vocab_size * config.hidden_size

    shapes = [shape(hidden, depth) for hidden in range(64, 2048, 32)]
    fields = min(shapes, key=lambda fields: abs(blocks(fields) - parameters))
    missing = (parameters - blocks(fields)) / (3 * depth * fields["model.hidden_size"])
    return fields | {"model.intermediate_size": fields["model.intermediate_size"] + round(missing / 8) * 8}


if __name__ == "__main__":
    tyro.cli(main)
