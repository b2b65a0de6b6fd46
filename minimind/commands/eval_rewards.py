"""`minimind eval rewards DIR`: the rollouts that a run kept, judged by other rewards."""

from pathlib import Path
from typing import Annotated

import tyro

from minimind import console
from minimind.commands.arguments import Json, Text
from minimind.errors import UsageError


def rewards(
    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR")],
    weights: Text = None,
    file: Text = None,
    model: Text = None,
    json: Json = False,
) -> None:
    """Judge kept rollouts (--set.rl.dump DIR in training) by other rewards, or by other weights of the same.

    Examples:
        minimind eval rewards runs/grpo/rollouts
        minimind eval rewards runs/grpo/rollouts --weights numeric=1,closed=0.5
        minimind eval rewards runs/grpo/rollouts --weights numeric=1,repetition=0.2 --model runs/grpo/model

    Args:
        folder: folder of the rollouts.
        weights: rewards and what each counts, with commas between them; without them, what was given then.
        file: Python file of rewards of one's own (scoring.file).
        model: the run's model directory; its tokenizer is needed for rewards that were not given then.
    """
    from minimind.rl.rescore import rescore
    from minimind.rl.settings import ScoringConfig
    from minimind.tokenizer.bpe import Tokenizer

    scoring = ScoringConfig(weights=_weights(weights or ""), file=file or "")
    figures = rescore(Path(folder), scoring, None if model is None else Tokenizer.load(model))
    if json:
        console.print_json(figures)
        return
    shown = [(name, _figure(value), scoring.weights.get(name, "")) for name, value in figures["rewards"].items()]
    console.table(
        f"{figures['answers']} answers of {figures['rollouts']} rollouts", ("reward", "mean", "weight"), shown
    )
    then, now = figures["then"], figures["now"]
    lines = [
        ("mean reward", _figure(then["reward"]), _figure(now["reward"])),
        ("groups with something to compare", f"{then['differ']:.0%}", f"{now['differ']:.0%}"),
        ("answers pushed another way", "", f"{figures['turned']:.0%}"),
    ]
    console.table("all rewards together", ("", "then", "now"), lines)


def _weights(text: str) -> dict[str, float]:
    found = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError:
            raise UsageError(f"--weights {part}: write it as NAME=NUMBER, as in exact=1,closed=0.5") from None
    return found


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
