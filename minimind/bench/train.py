"""The speed of training, of ours and of the reference in turn, and what it is made of."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from minimind import recipe as recipes
from minimind import runtime
from minimind.bench import gemm
from minimind.bench.memory import peak_memory
from minimind.bench.ours import Ours
from minimind.bench.race import Contestant, Laps, race
from minimind.bench.reference import LENGTH, ROWS, Reference
from minimind.config import ModelConfig
from minimind.console import say
from minimind.data.shard_reader import Shards
from minimind.data.smallworld.generate import generate
from minimind.recipe import Recipe
from minimind.stages import setup
from minimind.tokenizer.bpe import Tokenizer

EXPERTS = 4
WORLD_MB = 4.0
C = TypeVar("C", bound=Contestant)


def measure(
    preset: str,
    files: Sequence[Path],
    seconds: float,
    reference: bool,
    moe: bool,
    device: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Race our training of `preset` against the reference on the same text; figures as JSON can hold them.

    Raises:
        UserError: no such preset, bad data, or transformers is not installed.
    """
    given = {"data.valid_fraction": 0.0, "train.device": device} | settings
    recipe = recipes.load(Recipe, recipes.find(preset, "pretrain"), given)
    on = runtime.device(device)
    tokenizer = setup.load_tokenizer(recipe)
    shards = _shards(recipe, files, tokenizer)

    ours = _warmed_up(Ours(recipe, tokenizer, shards), on)
    ours_peak = peak_memory(on)  # before the others take theirs
    contestants: dict[str, Contestant] = {"ours": ours}
    if reference:
        theirs = Reference(ours.model.config, shards, on)
        contestants["reference"] = _warmed_up(theirs, on)
    if moe:
        contestants["moe"] = _warmed_up(Ours(with_experts_switched(recipe), tokenizer, shards), on)

    config, dtype = ours.model.config, ours.precision.dtype
    rate = gemm.rate(config, ours.micro_batch_tokens, on, dtype)
    ours.stream.seconds = 0.0
    laps = race(contestants, seconds, on)
    rate = max(rate, gemm.rate(config, ours.micro_batch_tokens, on, dtype))
    with tempfile.TemporaryDirectory() as folder:
        saving = ours.checkpoint_seconds(Path(folder))

    speed, step = laps["ours"].tokens_per_second, laps["ours"].step_seconds
    flops, published = speed * ours.job.flops_per_token, gemm.published_rate(on)
    between = recipe.train.save_every * step
    return {
        "preset": preset,
        "parameters": config.parameters(),
        "active_parameters": config.parameters(active=True),
        "device": torch.cuda.get_device_name(on) if on.type == "cuda" else on.type,
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "compiled": ours.compiled,
        "sequence_length": recipe.data.sequence_length,
        "tokens_per_step": recipe.train.tokens_per_step,
        **_speed(laps["ours"]),
        "model_gflops": round(flops / 1e9, 1),
        "gemm_gflops": round(rate / 1e9, 1),
        "mfu": round(flops / rate, 4),
        "mfu_of_data_sheet": round(flops / published, 4) if published else None,
        "padding": round(ours.padding, 4),
        "input_share": round(ours.stream.seconds / sum(turn.seconds for turn in laps["ours"]), 5),
        "checkpoint_seconds": round(saving, 3),
        "checkpoint_share": round(saving / (saving + between), 5) if between else None,
        "peak_memory_bytes": ours_peak,
        "reference": _reference_figures(theirs, laps["reference"]) if reference else None,
        "ratio": round(speed / laps["reference"].tokens_per_second, 3) if reference else None,
        "moe": _moe_figures(laps["moe"], laps["ours"], config) if moe else None,
        "turns": {name: [round(speed, 1) for speed in lap.speeds] for name, lap in laps.items()},
    }


def with_experts_switched(recipe: Recipe) -> Recipe:
    """The same model with experts, or without: equal in the parameters that one token passes through."""
    config = recipes.PRESETS[recipe.preset]
    experts = 0 if recipe.model.get("num_experts", config.num_experts) else EXPERTS
    changes: dict[str, Any] = {"num_experts": experts, "num_experts_per_tok": 1}
    if experts:
        changes["moe_intermediate_size"] = recipe.model.get("intermediate_size", config.intermediate_size)
    return replace(recipe, model=recipe.model | changes)


def _shards(recipe: Recipe, files: Sequence[Path], tokenizer: Tokenizer) -> Shards:
    if files:
        recipe.data.files = [str(file) for file in files]
        return setup.shards(recipe, tokenizer, kind="text")[0]
    with tempfile.TemporaryDirectory() as folder:  # only the shards, in the cache, are read later
        generate(Path(folder), WORLD_MB, seed=0)
        recipe.data.files = [str(Path(folder) / "pretrain.jsonl")]
        return setup.shards(recipe, tokenizer, kind="text")[0]


def _warmed_up(contestant: C, on: torch.device) -> C:
    """Two steps: the first compiles and makes the moments, the second has all memory that training needs."""
    say(f"warming up {type(contestant).__name__.lower()}")
    for _ in range(2):
        contestant.step()
    runtime.synchronize(on)
    return contestant


def _speed(laps: Laps) -> dict[str, Any]:
    return {"tokens_per_second": round(laps.tokens_per_second, 1), "step_seconds": round(laps.step_seconds, 4)}


def _reference_figures(theirs: Reference, laps: Laps) -> dict[str, Any]:
    what = f"transformers, float32, AdamW, one sample a row of {LENGTH}, batch {ROWS}, eager"
    return {"what": what, **_speed(laps), "padding": round(theirs.padding, 4)}


def _moe_figures(laps: Laps, ours: Laps, config: ModelConfig) -> dict[str, Any]:
    """The step with experts over the step without, whichever of them the preset is."""
    ratio = laps.step_seconds / ours.step_seconds
    if config.num_experts:
        return {"experts": 0, **_speed(laps), "step_ratio": round(1 / ratio, 3)}
    return {"experts": EXPERTS, **_speed(laps), "step_ratio": round(ratio, 3)}
