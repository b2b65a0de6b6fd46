"""The speed of generation: our engine beside `transformers.generate` and llama.cpp, same weights, in turn."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from minimind import runtime
from minimind.config import PRESETS
from minimind.console import progress
from minimind.engine.engine import Engine
from minimind.engine.sampling import GREEDY
from minimind.errors import UsageError, did_you_mean
from minimind.model.store import load_model, save_model
from minimind.model.transformer import Transformer
from minimind.tokenizer.bpe import Tokenizer

Prompts = list[list[int]]
DTYPES = ("float32", "bfloat16", "int8")


class Speed(NamedTuple):
    """Tokens per second of all rows together."""

    prefill: float
    decode: float


class Generator(Protocol):
    """Something that continues prompts of equal length greedily, each by exactly `new` tokens."""

    def run(self, prompts: Prompts, new: int) -> Speed:
        """Generate once, nothing cached from before."""


class Ours:
    """The engine, without text."""

    def __init__(self, model: Transformer, dtype: str, context: int, rows: int) -> None:
        precision: dict[str, Any] = {"int8": True} if dtype == "int8" else {"dtype": getattr(torch, dtype)}
        self._engine = Engine(model, rows=rows, context=context, **precision)

    def run(self, prompts: Prompts, new: int) -> Speed:
        """Prefill ends when the last row has its first token."""
        self._engine.flush_cache()
        requests = [self._engine.submit(prompt, replace(GREEDY, max_new_tokens=new)) for prompt in prompts]
        start = time.perf_counter()
        while not all(request.tokens for request in requests):
            self._engine.step()
        first = time.perf_counter()
        before = sum(len(request.tokens) for request in requests)
        while self._engine.has_work:
            self._engine.step()
        end = time.perf_counter()
        tokens = sum(map(len, prompts))
        return Speed(tokens / (first - start), (new * len(prompts) - before) / (end - first))


def measure(
    model: str,
    dtypes: Sequence[str],
    batches: Sequence[int],
    prompt: int,
    new: int,
    rounds: int,
    reference: bool,
    device: str,
) -> dict[str, Any]:
    """Let every engine generate `rounds` times in turn, and take the best of each.

    The best, because whatever else a machine does can only slow a turn down.

    Args:
        model: model directory, or the name of a preset: random weights are as fast as any.
        dtypes: some of DTYPES; int8 is compared with llama.cpp's Q8_0.
        batches: how many prompts at once.
        prompt: tokens of a prompt.
        new: tokens generated for each.
        rounds: turns.
        reference: whether to measure transformers and llama.cpp too.
        device: of ours and transformers'; llama.cpp runs on the CPU and is left out elsewhere.

    Raises:
        UsageError: neither a directory nor a preset, or an unknown dtype.
        UserError: a reference is not installed.
    """
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise UsageError(f"--dtypes {dtype}: no such number format{did_you_mean(dtype, DTYPES)}")
    on = runtime.device(device)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(model) if Path(model).is_dir() else _random(model, Path(folder) / "model")
        weights = load_model(directory, device=on)
        generator = torch.Generator().manual_seed(0)
        vocabulary = min(weights.config.vocab_size, Tokenizer.load(directory).vocab_size)
        rows: list[dict[str, Any]] = []
        for dtype in dtypes:
            for batch in batches:
                prompts = torch.randint(vocabulary // 2, vocabulary, (batch, prompt), generator=generator).tolist()
                generators: dict[str, Generator] = {"minimind": Ours(weights, dtype, prompt + new + 1, batch)}
                if reference:
                    generators |= _references(directory, dtype, batch, prompt + new, on, Path(folder))
                for name, speed in _race(generators, prompts, new, rounds, f"{dtype}, batch {batch}").items():
                    rows.append(
                        {
                            "engine": name,
                            "dtype": dtype,
                            "batch": batch,
                            "prompt": prompt,
                            "prefill_tokens_per_second": round(speed.prefill, 1),
                            "decode_tokens_per_second": round(speed.decode, 1),
                        }
                    )
    return {"device": on.type, "threads": torch.get_num_threads(), "rows": rows, "ratios": _ratios(rows)}


def _race(generators: dict[str, Generator], prompts: Prompts, new: int, rounds: int, what: str) -> dict[str, Speed]:
    for generator in generators.values():
        generator.run(prompts, 4)  # a compiler runs, memory is touched
    turns: dict[str, list[Speed]] = {name: [] for name in generators}
    with progress(what, total=rounds * len(generators)) as bar:
        for _ in range(rounds):
            for name, generator in generators.items():
                turns[name].append(generator.run(prompts, new))
                bar.advance(note=name)
    return {n: Speed(max(s.prefill for s in got), max(s.decode for s in got)) for n, got in turns.items()}


def _references(
    directory: Path, dtype: str, batch: int, context: int, on: torch.device, folder: Path
) -> dict[str, Generator]:
    from minimind.bench.rivals import LlamaCpp, Transformers

    found: dict[str, Generator] = {}
    if dtype != "int8":
        found["transformers"] = Transformers(directory, dtype, on)
    if on.type == "cpu":
        found["llama.cpp"] = LlamaCpp(directory, dtype, batch, context, folder)
    return found


def _ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Our speed over each other engine's, same dtype and batch."""
    ours = {(row["dtype"], row["batch"]): row for row in rows if row["engine"] == "minimind"}
    ratios = []
    for row in rows:
        if row["engine"] != "minimind":
            mine = ours[row["dtype"], row["batch"]]
            kinds = ("prefill", "decode")
            ratio = {k: round(mine[f"{k}_tokens_per_second"] / row[f"{k}_tokens_per_second"], 2) for k in kinds}
            ratios.append({key: row[key] for key in ("engine", "dtype", "batch")} | ratio)
    return ratios


def _random(preset: str, directory: Path) -> Path:
    if preset not in PRESETS:
        raise UsageError(f"bench generate {preset}: no such model directory, and no such preset")
    tokenizer = Tokenizer.load("default")
    runtime.seed_everything(0)
    save_model(Transformer(PRESETS[preset].with_(vocab_size=tokenizer.vocab_size)), directory)
    tokenizer.save(directory)
    return directory
