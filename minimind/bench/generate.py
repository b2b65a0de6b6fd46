"""The speed of generation: our engine beside `transformers.generate` and llama.cpp, same weights, in turn.

Each turn of an engine is a process of its own: threads of one that still wait for work would slow the next.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minimind import runtime
from minimind.bench.rivals import Generator, LlamaCpp, Prompts, Speed, Transformers
from minimind.config import PRESETS
from minimind.console import progress
from minimind.engine.engine import Engine
from minimind.engine.sampling import GREEDY
from minimind.errors import UsageError, UserError, did_you_mean
from minimind.model.qwen3 import Transformer
from minimind.model.store import load_config, load_model, save_model
from minimind.tokenizer.bpe import Tokenizer

DTYPES = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class Work:
    """What every engine does in a turn."""

    directory: str
    dtypes: tuple[str, ...]
    """Some of DTYPES; int8 is compared with llama.cpp's Q8_0."""
    batches: tuple[int, ...]
    """How many prompts at once."""
    prompt: int
    """Tokens of a prompt."""
    new: int
    """Tokens generated for each."""
    device: str


class Ours:
    """The engine, without text."""

    def __init__(self, model: Transformer, dtype: str, context: int, max_batch_size: int) -> None:
        precision: dict[str, Any] = {"int8": True} if dtype == "int8" else {"dtype": getattr(torch, dtype)}
        self._engine = Engine(model, max_batch_size=max_batch_size, context=context, **precision)

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


def measure(model: str, work: Work, rounds: int, reference: bool) -> dict[str, Any]:
    """Let every engine do the work `rounds` times in turn, and take the best of each.

    The best, because whatever else a machine does can only slow a turn down.

    Args:
        model: model directory, or the name of a preset: random weights are as fast as any.
        work: its `directory` is filled in here.
        rounds: turns.
        reference: whether to measure transformers, and on a CPU llama.cpp, too.

    Raises:
        UsageError: neither a directory nor a preset, or an unknown dtype.
        UserError: a reference is not installed, or an engine failed.
    """
    for dtype in work.dtypes:
        if dtype not in DTYPES:
            raise UsageError(f"--dtypes {dtype}: no such number format{did_you_mean(dtype, DTYPES)}")
    on = runtime.device(work.device)
    engines = ["minimind"]
    if reference:
        engines += ["transformers"] + (["llama.cpp"] if on.type == "cpu" else [])
    best: dict[tuple[str, str, int], Speed] = {}
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(model) if Path(model).is_dir() else random_directory(model, Path(folder) / "model")
        work = replace(work, directory=str(directory))
        with progress("turns", total=rounds * len(engines)) as bar:
            for _ in range(rounds):
                for engine in engines:
                    for dtype, batch, *speed in in_a_process("generate", engine, work, folder):
                        old = best.get((engine, dtype, batch), Speed(0, 0))
                        best[engine, dtype, batch] = Speed(*map(max, zip(old, speed, strict=True)))
                    bar.advance(note=engine)
    rows = [
        {
            "engine": engine,
            "dtype": dtype,
            "batch": batch,
            "prompt": work.prompt,
            "prefill_tokens_per_second": round(speed.prefill, 1),
            "decode_tokens_per_second": round(speed.decode, 1),
        }
        for (engine, dtype, batch), speed in sorted(best.items(), key=lambda item: item[0][1:])
    ]
    return {"device": on.type, "threads": torch.get_num_threads(), "rows": rows, "ratios": _ratios(rows)}


def in_a_process(module: str, engine: str, work: Any, *more: str) -> Any:
    """Let a process of its own do a turn of `minimind.bench.MODULE`, and return what that gives.

    Raises:
        UserError: it failed.
    """
    command = [sys.executable, "-m", f"minimind.bench.{module}", engine, json.dumps(asdict(work)), *more]
    ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", errors="replace")
    if ended.returncode:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(re.sub(r"^minimind\.[\w.]+: ", "", last))  # of which class it was is nothing to a reader
    return json.loads(ended.stdout.splitlines()[-1])


def turn(engine: str, work: Work, folder: Path) -> list[tuple[str, int, float, float]]:
    """Do the work once, in this process: `(dtype, batch, prefill, decode)` of each combination that the engine has."""
    directory, on, context = Path(work.directory), runtime.device(work.device), work.prompt + work.new + 1
    vocabulary = min(load_config(directory).vocab_size, Tokenizer.load(directory).vocab_size)
    random = torch.Generator().manual_seed(0)
    done = []
    for dtype in work.dtypes:
        for batch in work.batches:
            prompts = torch.randint(vocabulary // 2, vocabulary, (batch, work.prompt), generator=random).tolist()
            generator: Generator
            if engine == "minimind":
                generator = Ours(load_model(directory, device=on), dtype, context, batch)
            elif engine == "llama.cpp":
                generator = LlamaCpp(directory, dtype, batch, context, folder)
            elif dtype != "int8":
                generator = Transformers(directory, dtype, on)
            else:
                continue
            # A compiler runs, memory is touched; on a GPU graphs are recorded, others for longer sequences.
            generator.run(prompts, work.new if on.type == "cuda" else 4)
            done.append((dtype, batch, *generator.run(prompts, work.new)))
            del generator
    return done


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


def random_directory(preset: str, directory: Path) -> Path:
    """Write a model of a preset's shape with random weights, which are as fast as any.

    Raises:
        UsageError: no such preset.
    """
    if preset not in PRESETS:
        raise UsageError(f"bench {preset}: no such model directory, and no such preset")
    tokenizer = Tokenizer.load("default")
    runtime.seed_everything(0)
    save_model(Transformer(PRESETS[preset].with_(vocab_size=tokenizer.vocab_size)), directory)
    tokenizer.save(directory)
    return directory


if __name__ == "__main__":
    engine_name, work_json, workplace = sys.argv[1:]
    print(json.dumps(turn(engine_name, Work(**json.loads(work_json)), Path(workplace))))
