"""`minimind plan`: what a recipe costs, before it is spent."""

from typing import Annotated

import tyro

from minimind import console
from minimind.commands.arguments import at_least, call, split_settings
from minimind.commands.train import STAGES


def main(argv: list[str]) -> int:
    """Read `--set` flags first, then the others."""
    argv, settings = split_settings(argv)

    def plan(
        recipe: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="RECIPE")]],
        stage: str = "pretrain",
        tokens: float = 0,
        price_per_hour: float = 0,
        tokens_per_second: float = 0,
        device: str = "auto",
        json: bool = False,
    ) -> int:
        """Print parameters, FLOPs, memory, time and money of a recipe.

        Examples:
            minimind plan laptop
            minimind plan minimind-3 --tokens 1.6e9 --price-per-hour 1.3

        Args:
            recipe: name (`laptop`) or path of a recipe.
            stage: which of its recipes: pretrain, sft.
            tokens: training tokens; without it, those of the recipe's `max_steps`.
            price_per_hour: price of the machine, in any currency.
            tokens_per_second: speed, if you have measured it; without it, 35 % of this machine's own speed.
            device: auto, cpu, cuda or mps.
            json: print one line of JSON instead of a table.
        """
        return _plan(recipe, stage, tokens, price_per_hour, tokens_per_second, device, json, settings)

    return call(plan, argv, "minimind plan")


def _plan(
    name: str,
    stage: str,
    tokens: float,
    price_per_hour: float,
    tokens_per_second: float,
    device: str,
    json: bool,
    settings: dict[str, object],
) -> int:
    from minimind import runtime
    from minimind.errors import UsageError, did_you_mean
    from minimind.recipe import Recipe, find, load, model_config
    from minimind.tokenizer.bpe import Tokenizer
    from minimind.train.budget import training_memory, training_seconds

    at_least(0, tokens=tokens, price_per_hour=price_per_hour, tokens_per_second=tokens_per_second)
    if stage not in STAGES:
        raise UsageError(f"--stage {stage}: no such stage{did_you_mean(stage, STAGES)}")
    path = find(name, stage)
    recipe = load(Recipe, path, settings)
    vocabulary = Tokenizer.load(recipe.tokenizer).vocab_size
    config = model_config(recipe, vocabulary)
    tokens = tokens or recipe.train.max_steps * recipe.train.tokens_per_step
    if not tokens:
        raise UsageError(f"{path} trains for epochs of its data, whose size is not known here; give --tokens N")
    context = recipe.data.sequence_length / 2
    if tokens_per_second:
        seconds = tokens / tokens_per_second
    else:
        on = runtime.device(device)
        seconds = training_seconds(config, tokens, context, runtime.peak_flops(on, runtime.compute_dtype(on)))
    figures = {
        "parameters": config.parameters(),
        "active_parameters": config.parameters(active=True),
        "flops_per_token": config.flops_per_token(context),
        "memory_bytes": training_memory(config, recipe),
        "tokens": int(tokens),
        "seconds": round(seconds, 1),
    }
    if price_per_hour:
        figures["price"] = round(seconds / 3600 * price_per_hour, 4)
    if json:
        console.print_json(figures)
    else:
        rows = [(key.replace("_", " "), value) for key, value in figures.items()]
        console.table(f"{path}", ("figure", "value"), rows)
    return 0
