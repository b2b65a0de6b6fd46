"""Answers: tokens a second of prompts and of decoding, beside transformers, and against the speed of the memory.

A decoding step reads all active weights once, and the keys and values of every sequence so far. Whatever it does
besides, it takes no less than the memory needs for that: `share_of_bandwidth` says how near it is.
"""

import gc
from pathlib import Path

import torch

from benchmarks.gpu.machine import bandwidth
from benchmarks.gpu.work import Row, Tell, Work, message
from minimind import runtime
from minimind.bench.generate import Ours
from minimind.bench.rivals import Generator, Transformers
from minimind.config import ModelConfig
from minimind.model.store import load_config, load_model

LEAST_SECONDS = 6


def generation(work: Work, tell: Tell) -> None:
    """Both engines in turn, twice each; the second time counts, when graphs are recorded and programs compiled."""
    sizes, speed = work.sizes, bandwidth(work)
    cases = [(sizes.dense, batch, engine) for batch in sizes.batches for engine in ("minimind", "transformers")]
    cases += [(sizes.moe, batch, "minimind") for batch in sizes.moe_batches]
    for preset, batch, engine in cases:
        row: Row = {"preset": preset, "engine": engine, "batch": batch, "prompt": sizes.prompt, "new": sizes.new}
        if work.left < LEAST_SECONDS:
            tell(row | {"error": "no time left"})
            continue
        try:
            tell(row | measure(work, preset, batch, engine, speed))
        except Exception as error:
            tell(row | {"error": message(error)})
        gc.collect()


def measure(work: Work, preset: str, batch: int, engine: str, speed: float) -> Row:
    """Answer `batch` prompts at once, greedily."""
    directory, on, sizes = Path(work.directory(preset)), work.on, work.sizes
    dtype = runtime.compute_dtype(on)
    config = load_config(directory)
    random = torch.Generator().manual_seed(0)
    prompts = torch.randint(config.vocab_size // 2, config.vocab_size, (batch, sizes.prompt), generator=random).tolist()
    generator: Generator
    name = str(dtype).removeprefix("torch.")
    if engine == "minimind":
        generator = Ours(load_model(directory, device=on), name, sizes.prompt + sizes.new + 1, batch)
    else:
        generator = Transformers(directory, name, on)
    generator.run(prompts, sizes.new)
    found = generator.run(prompts, sizes.new)
    steps = found.decode / batch
    bytes_of_step = step_bytes(config, batch, sizes.prompt + sizes.new // 2, dtype.itemsize)
    return {
        "dtype": name,
        "prefill_tokens_per_second": round(found.prefill, 1),
        "decode_tokens_per_second": round(found.decode, 1),
        "step_ms": round(1000 / steps, 3),
        "share_of_bandwidth": round(steps * bytes_of_step / speed, 4),
    }


def step_bytes(config: ModelConfig, batch: int, length: int, size: int) -> int:
    """Bytes that decoding a token of each sequence has to read: weights (of experts, those chosen), keys and values."""
    chosen = config.num_experts_per_tok * batch
    weights = config.parameters()
    if config.num_experts and chosen < config.num_experts:
        active = config.with_(num_experts_per_tok=chosen).parameters(active=True)
        weights = active
    cache = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * length
    return size * (weights + batch * cache)
