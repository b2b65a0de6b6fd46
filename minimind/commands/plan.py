"""`minimind plan`: what a recipe costs, before it is spent; and which size to train for what you can spend."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from minimind import console
from minimind.commands.arguments import Device, Json, Number, OnBadLine, call, split_settings
from minimind.commands.sizing import LONGEST, best, choices, count
from minimind.errors import UsageError, did_you_mean
from minimind.recipe import Recipe, find, load, model_config, run_config

STAGES = ("pretrain", "sft", "lora")
"""Stages whose work follows from their text alone."""
Corpus = Callable[[Recipe, Any], tuple[int, float]]
"""What `sizing.count` says of a recipe and its tokenizer."""


def main(argv: list[str]) -> int:
    """Read `--set` flags first, then the others."""
    argv, settings = split_settings(argv)

    def plan(
        recipe: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="RECIPE")]] = "",
        stage: str = "pretrain",
        data: tuple[str, ...] = (),
        on_bad_line: OnBadLine = "stop",
        tokens: Number = None,
        minutes: Number = None,
        price: Number = None,
        price_per_hour: Number = None,
        tokens_per_second: Number = None,
        device: Device = "auto",
        json: Json = False,
    ) -> None:
        """Print parameters, FLOPs, memory, time and money of a recipe; or which size to train for a budget.

        Examples:
            minimind plan laptop --data corpus.jsonl
            minimind plan minimind-3 --tokens 1.6e9 --price-per-hour 1.3
            minimind plan --minutes 60
            minimind plan --price 5 --price-per-hour 1.3 --data corpus.jsonl

        Args:
            recipe: name (`laptop`) or path of a recipe; leave it out to be told which size to train.
            stage: which of its recipes: pretrain, sft, lora.
            data: the training text, to count tokens by (prepared as training prepares it, once).
            tokens: training tokens; without it, those of the recipe's `max_steps`, or of its epochs of --data.
            minutes: what you can spend; without --tokens, as many tokens as fit.
            price: the same in money, with --price-per-hour.
            price_per_hour: price of the machine, in any currency.
            tokens_per_second: speed of RECIPE, if you have measured it; else what this machine usually reaches.
        """
        amounts = {"tokens": tokens, "minutes": minutes, "price": price, "price_per_hour": price_per_hour}
        for name, value in {**amounts, "tokens_per_second": tokens_per_second}.items():
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"--{name.replace('_', '-')} {value:g}: must be above 0")
        if stage not in STAGES:
            raise UsageError(
                f"--stage {stage}: plan knows {', '.join(STAGES)}{did_you_mean(stage, STAGES)}; what the others cost "
                f"depends on what the model says"
            )
        if price is not None:
            if price_per_hour is None or minutes is not None:
                raise UsageError("--price goes with --price-per-hour, what the machine costs, and without --minutes")
            minutes = 60 * price / price_per_hour
            if not minutes:
                raise UsageError(f"--price {price:g} buys no time at --price-per-hour {price_per_hour:g}; spend more")
        if minutes is not None and minutes > LONGEST:
            raise UsageError(f"{minutes:g} minutes are more than ten years; spend at most {LONGEST}")
        if not recipe and (stage != "pretrain" or tokens or tokens_per_second):
            raise UsageError("plan: --stage, --tokens and --tokens-per-second are for one RECIPE; name it")
        if on_bad_line == "skip":  # a recipe may say so, too
            settings["data.on_bad_line"] = "skip"
        corpus = partial(count, data, stage)
        if recipe:
            path = find(recipe, stage)
            figures = _cost(
                path, load(Recipe, path, settings), corpus, tokens, minutes, price_per_hour, tokens_per_second, device
            )
            if json:
                console.print_json(figures)
                return
            parts, figures["time"] = figures.pop("memory"), console.duration(figures.pop("seconds"))
            rows = [(key.replace("_", " "), value) for key, value in figures.items()]
            rows += [(f"memory: {key}", value) for key, value in parts.items()]
            console.table(f"{path}", ("figure", "value"), rows)
        elif minutes is None:
            raise UsageError(
                "plan: name a recipe, or what you can spend with --minutes, or --price and --price-per-hour"
            )
        else:
            _recommend(minutes, settings, data, device, json)

    return call(plan, argv, "minimind plan")


def _cost(
    path: Path,
    recipe: Recipe,
    corpus: Corpus,
    tokens: float | None,
    minutes: float | None,
    price_per_hour: float | None,
    speed: float | None,
    device: str,
) -> dict[str, Any]:
    """What one recipe costs."""
    from minimind import runtime
    from minimind.compiler import can_compile
    from minimind.model import lora
    from minimind.model.hf_config import readable
    from minimind.plan.budget import adapted, process_memory, tokens_per_second, training_memory
    from minimind.tokenizer.bpe import Tokenizer
    from minimind.train.precision import Precision

    tokenizer = Tokenizer.load(recipe.tokenizer)
    config = readable(model_config(recipe, tokenizer.vocab_size))
    epoch, length = corpus(recipe, tokenizer)
    context = min(recipe.data.sequence_length, length) / 2
    on = runtime.device(device)
    dtype = Precision(on, recipe.train.dtype).dtype
    model = adapted(config, recipe.lora)
    flops = lora.flops_per_token(model, context)
    speed = speed or tokens_per_second(config, flops, runtime.peak_flops(on, dtype), on.type)
    if minutes is not None and tokens is None:
        tokens = speed * minutes * 60
    tokens = tokens or recipe.train.max_steps * recipe.train.tokens_per_step or recipe.train.epochs * epoch
    if not tokens:
        raise UsageError(
            f"{path} trains for epochs of its data, whose size is not known here; name it with --data FILE, or give "
            f"--tokens N or --minutes M"
        )

    compiled = recipe.train.compile != "never" and can_compile(on.type)
    branches, run = recipe.stage in ("dpo", "reward") or recipe.rl.share_prompts, run_config(recipe)
    memory = training_memory(config, run, recipe.lora, dtype.itemsize, compiled, on.type == "cpu", branches)
    resident = process_memory(config, memory, compiled) if on.type == "cpu" else memory.total
    figures: dict[str, Any] = {
        "parameters": config.parameters(),
        "active_parameters": config.parameters(active=True),
        **({"trained_parameters": lora.trained_parameters(model)} if recipe.lora.rank else {}),
        "flops_per_token": flops,
        "memory_bytes": resident,
        "memory": {**memory.figures(), "tensors": memory.total, "process": resident - memory.total},
        "tokens": int(tokens),
        **({"epochs": round(tokens / epoch, 3)} if epoch else {}),
        "tokens_per_second": round(speed, 1),
        "seconds": round(tokens / speed, 1),
    }
    if price_per_hour:
        figures["price"] = round(tokens / speed / 3600 * price_per_hour, 4)
    return figures


def _recommend(minutes: float, settings: dict[str, Any], data: Sequence[str], device: str, json: bool) -> None:
    """What each dense preset would reach in the time, by the scaling law, and the best of them."""
    from minimind import runtime

    found = choices(minutes, settings, data, device)
    chosen, rows = best(found), [one.figures() for one in found]
    if json:
        console.print_json({"recommended": chosen.preset, "minutes": round(minutes, 2), "candidates": rows})
    else:
        kind = runtime.device(device).type
        console.table(f"{minutes:,.0f} minutes on {kind}", list(rows[0]), [list(row.values()) for row in rows])
        console.say(
            "Train ",
            console.bold(chosen.preset),
            f":  minimind train pretrain auto --minutes {minutes:g} --data {' '.join(data) or 'FILE'}\n"
            f"Bits per byte (bpb) are those of mixed web text, ± bpb_error. {chosen.repeats(minutes)}",
        )
