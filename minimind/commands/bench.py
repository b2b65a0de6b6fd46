"""`minimind bench train`: how fast this machine does the work, beside what people use instead."""

from pathlib import Path

from minimind import console
from minimind.commands.arguments import at_least, call_one_of, split_settings


def main(argv: list[str]) -> int:
    """Run one of the measurements."""
    argv, settings = split_settings(argv)

    def train(
        preset: str = "minimind-3",
        data: tuple[str, ...] = (),
        seconds: float = 60.0,
        reference: bool = True,
        moe: bool = False,
        device: str = "auto",
        json: bool = False,
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
            device: auto, cpu, cuda or mps.
            json: print one line of JSON instead of a table.
        """
        from minimind.bench.train import measure

        at_least(1, seconds=seconds)
        figures = measure(preset, [Path(name) for name in data], seconds, reference, moe, device, settings)
        if json:
            console.print_json(figures)
        else:
            console.table(f"bench train {preset}", ("figure", "value"), rows(figures))
        return 0

    return call_one_of({"train": train}, argv, "minimind bench")


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
