"""`minimind bench train|generate|rollout`: how fast this machine does the work, beside what people use instead."""

from pathlib import Path
from typing import Annotated

import tyro

from minimind import console, runtime
from minimind.commands.arguments import Device, Json, at_least, call_one_of, split_settings
from minimind.errors import UsageError


def main(argv: list[str]) -> int:
    """Run one of the measurements."""
    argv, settings = split_settings(argv) if argv[:1] == ["train"] else (argv, {})

    def train(
        preset: str = "minimind-3",
        data: tuple[str, ...] = (),
        seconds: float = 60.0,
        reference: bool = True,
        moe: bool = False,
        device: Device = "auto",
        json: Json = False,
    ) -> int:
        """Training tokens per second, beside plain transformers training on the same text.

        Ours and the reference (transformers, float32, AdamW, one sample a padded row of 340 tokens, batch 8) take turns
        of a few seconds, so that what else the machine does hits both. Any field of the preset's pretraining recipe
        is changed by --set.SECTION.FIELD VALUE.

        Examples:
            minimind bench train --preset laptop
            minimind bench train --preset minimind-3 --data corpus.jsonl --seconds 120 --json
            minimind bench train --preset tiny --moe --no-reference

        Args:
            preset: which model, with its pretraining recipe.
            data: JSON Lines files to train on; without them, the embedded small world.
            seconds: how long to measure, warm-up and compiling not counted.
            reference: whether to run the reference too (needs transformers).
            moe: run the same model with experts too (or without, if it has them) and compare their steps.
        """
        from minimind.bench.train import measure

        at_least(1, seconds=seconds)
        if runtime.world_size() > 1:
            raise UsageError("minimind bench train measures one process; torchrun is for minimind train")
        figures = measure(preset, [Path(name) for name in data], seconds, reference, moe, device, settings)
        if json:
            console.print_json(figures)
        else:
            console.table(f"bench train {preset}", ("figure", "value"), rows(figures))
        return 0

    return call_one_of((train, generate, rollout), argv, "minimind bench")


def generate(
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]] = "minimind-3",
    dtypes: tuple[str, ...] = ("auto", "int8"),
    batches: tuple[int, ...] = (1, 8),
    prompt: int = 128,
    new: int = 64,
    rounds: int = 3,
    reference: bool = True,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Generated tokens per second, beside transformers and llama.cpp with the same weights.

    The engines take turns, each in a process of its own, and the best turn of each counts.

    Examples:
        minimind bench generate minimind-3
        minimind bench generate runs/laptop/model --batches 1 16 --prompt 512 --json

    Args:
        model: model directory, or a preset's name for random weights.
        dtypes: number formats: float32, bfloat16, int8 (beside llama.cpp's Q8_0), or auto, what the device is fast at.
        batches: how many prompts at once.
        prompt: tokens of a prompt.
        new: tokens to generate for each.
        rounds: turns of each engine.
        reference: whether to measure transformers and llama.cpp too (needs `minimind[bench]`).
    """
    from minimind.bench.generate import Work, measure

    at_least(1, prompt=prompt, rounds=rounds, batches=min(batches))
    at_least(2, new=new)
    formats = tuple(_format(dtype, device) for dtype in dtypes)
    figures = measure(model, Work("", formats, batches, prompt, new, device), rounds, reference)
    if json:
        console.print_json(figures)
        return
    columns = ("engine", "dtype", "batch", "prompt", "prefill tokens/s", "decode tokens/s")
    console.table(f"bench generate {model}", columns, [tuple(row.values()) for row in figures["rows"]])
    if figures["ratios"]:
        console.table(
            "ours over",
            ("engine", "dtype", "batch", "prefill", "decode"),
            [tuple(r.values()) for r in figures["ratios"]],
        )


def rollout(
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]] = "minimind-3",
    dtype: str = "auto",
    groups: int = 8,
    samples: int = 8,
    prompt: int = 128,
    new: int = 128,
    rounds: int = 1,
    reference: bool = True,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Answers a second for reinforcement learning, beside transformers one by one and as one padded batch.

    Prompts and answers are of mixed lengths. The engines take turns, each in a process of its own, and the best turn
    of each counts.

    Examples:
        minimind bench rollout laptop
        minimind bench rollout minimind-3 --groups 8 --samples 8 --json

    Args:
        model: model directory, or a preset's name for random weights.
        dtype: number format: float32, bfloat16, or auto, what the device is fast at.
        groups: different prompts.
        samples: answers to each.
        prompt: tokens of the longest prompt; the shortest has a quarter of them.
        new: tokens of the longest answer; the shortest has an eighth of them.
        rounds: turns of each engine.
        reference: whether to measure transformers too (needs `minimind[bench]`).
    """
    from minimind.bench.rollout import Work, measure

    at_least(1, groups=groups, samples=samples, rounds=rounds, new=new)
    at_least(4, prompt=prompt)
    work = Work("", _format(dtype, device), groups, samples, prompt, new, device)
    figures = measure(model, work, rounds, reference)
    if json:
        console.print_json(figures)
        return
    columns = ("engine", "samples/s", "tokens/s", "ours over it")
    table = [(*row.values(), figures["ratios"].get(row["engine"])) for row in figures["rows"]]
    console.table(f"bench rollout {model}, {groups} × {samples} answers", columns, table)


def _format(dtype: str, device: str) -> str:
    """The number format that is meant by `auto`: a processor that emulates bfloat16 would not come to an end."""
    if dtype != "auto":
        return dtype
    fast = str(runtime.decoding_dtype(runtime.device(device))).removeprefix("torch.")
    return "bfloat16" if fast == "bfloat16" else "float32"


def rows(figures: dict[str, object], prefix: str = "") -> list[tuple[str, object]]:
    """Nested figures as lines of a table: `reference tokens per second`."""
    found: list[tuple[str, object]] = []
    for name, value in figures.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            found += rows(value, f"{label} ")
        elif not isinstance(value, list):
            found.append((label, value))
    return found
