"""The speed of rollouts: answers a second of our engine, beside `transformers.generate` one by one and as a batch.

Groups of answers to prompts of mixed lengths, each answer of another length, as a policy gives them: drawn so that a
batch that is padded waits for its longest. Everybody samples at temperature 1 and returns log-probabilities.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minimind import runtime
from minimind.bench.generate import DTYPES, in_a_process, random_directory
from minimind.bench.rivals import sampler
from minimind.console import progress
from minimind.engine.sampling import Sampling
from minimind.errors import UsageError, did_you_mean
from minimind.model.store import load_config, load_model
from minimind.rl.rollout import LocalRollout
from minimind.tokenizer.bpe import Tokenizer

ENGINES = ("minimind", "transformers batch", "transformers one by one")


@dataclass(frozen=True)
class Work:
    """What every engine does in a turn."""

    directory: str
    dtype: str
    groups: int
    samples: int
    prompt: int
    """Tokens of the longest prompt; the shortest has a quarter of them."""
    new: int
    """Tokens of the longest answer; lengths are spread evenly between an eighth of it and all of it."""
    device: str

    def lengths(self) -> list[int]:
        """Of each answer."""
        draw = torch.Generator().manual_seed(1)
        return torch.randint(
            max(1, self.new // 8), self.new + 1, (self.groups * self.samples,), generator=draw
        ).tolist()

    def prompts(self, vocabulary: int) -> list[list[int]]:
        """A prompt for each answer; those of a group are the same."""
        draw = torch.Generator().manual_seed(0)
        found = []
        for group in range(self.groups):
            size = self.prompt // 4 + (self.prompt - self.prompt // 4) * group // max(1, self.groups - 1)
            ids = torch.randint(vocabulary // 2, vocabulary, (size,), generator=draw).tolist()
            found += [ids] * self.samples
        return found


def measure(model: str, work: Work, rounds: int, reference: bool) -> dict[str, Any]:
    """Let every engine do the work `rounds` times in turn, each turn a process of its own; the best of each counts.

    Raises:
        UsageError: neither a model directory nor a preset, or an unknown dtype.
        UserError: transformers is not installed, or an engine failed.
    """
    if work.dtype not in DTYPES[:2]:
        raise UsageError(f"--dtype {work.dtype}: no such number format{did_you_mean(work.dtype, DTYPES[:2])}")
    engines = ENGINES if reference else ENGINES[:1]
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, progress("turns", total=rounds * len(engines)) as bar:
        directory = Path(model) if Path(model).is_dir() else random_directory(model, Path(folder) / "model")
        work = replace(work, directory=str(directory))
        for _ in range(rounds):
            for engine in engines:
                best[engine] = min(in_a_process("rollout", engine, work), best.get(engine, float("inf")))
                bar.advance(note=engine)
    count, tokens = work.groups * work.samples, sum(work.lengths())
    rows = [
        {
            "engine": engine,
            "samples_per_second": round(count / seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
        }
        for engine, seconds in best.items()
    ]
    ratios = {engine: round(seconds / best[ENGINES[0]], 2) for engine, seconds in best.items() if engine != ENGINES[0]}
    figures = {"device": runtime.device(work.device).type, "threads": torch.get_num_threads(), "dtype": work.dtype}
    return {**figures, "samples": count, "tokens": tokens, "rows": rows, "ratios": ratios}


def turn(engine: str, work: Work) -> float:
    """Do the work once in this process; return its seconds."""
    directory = Path(work.directory)
    vocabulary = min(load_config(directory).vocab_size, Tokenizer.load(directory).vocab_size)
    prompts, lengths = work.prompts(vocabulary), work.lengths()
    on = runtime.device(work.device)
    run = ours(work) if engine == ENGINES[0] else sampler(directory, work.dtype, on, at_once=engine == ENGINES[1])
    # A compiler runs, memory is touched; on a GPU graphs are recorded, others for more and longer sequences.
    run(*((prompts, lengths) if on.type == "cuda" else (prompts[:2], [4] * len(prompts[:2]))))
    runtime.synchronize(on)
    start = time.perf_counter()
    run(prompts, lengths)
    runtime.synchronize(on)
    return time.perf_counter() - start


def ours(work: Work) -> Callable[[list[list[int]], list[int]], None]:
    """Our engine, as a run of reinforcement learning uses it."""
    model = load_model(work.directory, device=runtime.device(work.device))
    context = work.prompt + work.new + 1
    rollout = LocalRollout(model, work.groups * work.samples, context, getattr(torch, work.dtype))

    def run(prompts: list[list[int]], lengths: list[int]) -> None:
        rollout.update_weights(model)  # as after every optimizer step
        for key, (prompt, length) in enumerate(zip(prompts, lengths, strict=True)):
            rollout.submit(key, prompt, Sampling(max_new_tokens=length, seed=key))
        assert all(len(done.log_probs) == lengths[key] for key, done in rollout.finished())

    return run


if __name__ == "__main__":
    print(turn(sys.argv[1], Work(**json.loads(sys.argv[2]))))
