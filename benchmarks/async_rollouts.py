"""Rollouts that take turns with training against rollouts ahead of it: throughput, waiting, and reward by the clock.

    python benchmarks/async_rollouts.py --plot reward.svg --json
    python benchmarks/async_rollouts.py --staleness 0 2 --steps 20 --latency 2

Two processes, as with an engine on a device of its own: this one trains, `minimind serve --rollout` answers. The policy
is a random model of the preset `tiny`, and what is rewarded is the share of tokens with small ids, so that nothing has
to be downloaded or trained before. Each value of `rl.staleness` starts from the same weights and makes as many steps;
all answers have the same length. The clock is that of the training steps: what is written to the disk at the end, and
the start of the processes, are left out. On a machine with few cores the two share them, and little can be gained;
`--latency` makes every answer come so much later, as from an engine that is slow, but on a device of its own.
"""

import argparse
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.request import urlopen

import torch

from minimind import recipe as recipes
from minimind import runtime
from minimind.config import PRESETS
from minimind.console import say, table
from minimind.model.qwen3 import Transformer
from minimind.model.store import save_model
from minimind.recipe import Recipe
from minimind.report import figure
from minimind.report.plots import Series
from minimind.rl.rollout_http import HttpRollout
from minimind.stages import grpo
from minimind.tokenizer.bpe import Tokenizer
from minimind.train import metrics

REWARD = """
from minimind.rl.rewards import reward

@reward
def small(samples):
    return [sum(id < 1000 for id in s.ids) / max(1, len(s.ids)) for s in samples]
"""
SETTINGS: dict[str, Any] = {
    **{"data.sequence_length": 64, "train.device": "cpu", "train.compile": "never", "train.log_every": 1},
    **{"train.tokens_per_step": 4096, "train.micro_batch_tokens": 4096, "train.valid_every": 0, "train.save_every": 0},
    **{"train.sample_every": 0, "rl.groups": 8, "rl.samples": 4, "rl.max_new_tokens": 32},
    **{"rl.epochs": 1, "rl.minibatches": 1, "rl.kl_coef": 0.0, "rl.filter_groups": "keep", "rl.server_timeout": 60.0},
    **{"scoring.weights": {"small": 1.0}, "optim.matrices": "adamw", "optim.lr": 3e-3, "optim.warmup": 0.02},
}


def prepare(folder: Path) -> None:
    """A model, prompts, and the reward."""
    tokenizer = Tokenizer.load("default")
    torch.manual_seed(0)
    model = Transformer(PRESETS["tiny"].with_(vocab_size=tokenizer.vocab_size))
    save_model(model, folder / "model", "float32")
    tokenizer.save(folder / "model")
    (folder / "reward.py").write_text(REWARD, encoding="utf-8")
    rows = [{"messages": [{"role": "user", "content": f"{n} + 1?"}]} for n in range(200)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def serve(folder: Path, threads: int) -> tuple[subprocess.Popen[bytes], str]:
    """The engine, in a process of its own; returns it when it answers, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["serve", str(folder / "model"), "--port", str(port), "--rollout", "--rollout-root", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "minimind", *command, "--parallel", "64"],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    while True:
        try:
            urlopen(f"{url}/health", timeout=1).read()
            return process, url
        except OSError:
            if process.poll() is not None:
                raise SystemExit("minimind serve has ended; run it by hand to see why") from None
            time.sleep(0.2)


def later(seconds: float) -> Callable[..., dict[str, Any]]:
    """`HttpRollout._ask`, so many seconds later."""
    ask = HttpRollout._ask

    def asked(*args: Any) -> dict[str, Any]:
        time.sleep(seconds)
        return ask(*args)

    return asked


def run(staleness: int, seed: int, steps: int, url: str, folder: Path) -> dict[str, Any]:
    """One training; seconds, answers, waiting, and the reward at each second."""
    out = folder / f"run-{staleness}-{seed}"
    changes = {
        **{"init": str(folder / "model"), "data.files": [str(folder / "prompts.jsonl")], "train.seed": seed},
        **{"scoring.file": str(folder / "reward.py"), "train.max_steps": steps, "rl.staleness": staleness},
        **{"rl.server": url, "rl.server_folder": str(folder / "weights")},
    }
    grpo.run(recipes.load(Recipe, recipes.find("tiny", "grpo"), SETTINGS | changes), out, resume=False)
    return measured(staleness, seed, metrics.read(out / "metrics.jsonl"))


def measured(staleness: int, seed: int, lines: list[dict[str, Any]]) -> dict[str, Any]:
    """What a run's log says of it; the first rollout, before which nothing can be ahead, is left out of the means."""
    seconds, before, curve, lasted = 0.0, 0, [], []
    answers = SETTINGS["rl.groups"] * SETTINGS["rl.samples"]
    for line in lines:
        lasted.append((line["tokens"] - before) / line["tokens_per_second"])
        before, seconds = line["tokens"], seconds + lasted[-1]
        curve.append((round(seconds, 2), line["reward_small"]))
    answered = [answers * line["answer_tokens"] / line["rollout_tokens_per_second"] for line in lines]
    turns = [(wait, step - wait) for wait, step in zip(answered, lasted, strict=True)]  # they take turns
    if staleness:
        turns = [(line["trainer_wait_seconds"], line["engine_wait_seconds"]) for line in lines]
    count = len(lines) - 1
    return {
        "staleness": staleness,
        "seed": seed,
        "seconds a rollout": round(sum(lasted[1:]) / count, 2),
        "answers a second": round(answers * count / sum(lasted[1:]), 1),
        "trainer waited": round(sum(trainer for trainer, _ in turns[1:]) / count, 2),
        "engine waited": round(sum(engine for _, engine in turns[1:]) / count, 2),
        "versions old": round(sum(line.get("staleness", 0.0) for line in lines[1:]) / count, 2),
        "stale groups": round(sum(line.get("stale_groups", 0.0) for line in lines[1:]) / count, 3),
        "mismatch KL": round(sum(line["mismatch_kl"] for line in lines[1:]) / count, 5),
        "reward": round(sum(reward for _, reward in curve[-5:]) / len(curve[-5:]), 3),
        "curve": curve,
    }


def main() -> None:
    """Run all, print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--staleness", nargs="+", type=int, default=[0, 1, 2, 4])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds by which every answer comes later")
    parser.add_argument("--plot", help="picture of the reward by the clock, .svg or .png")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), []
        prepare(folder)
        process, url = serve(folder, args.threads)
        try:
            for seed, staleness in itertools.product(args.seeds, args.staleness):
                with mock.patch.object(HttpRollout, "_ask", later(args.latency)):
                    rows.append(run(staleness, seed, args.steps, url, folder))
                say(json.dumps(rows[-1]))
        finally:
            process.kill()
            process.wait()
    if args.plot:
        first = [row for row in rows if row["seed"] == args.seeds[0]]
        figure.save(args.plot, [Series(f"N = {row['staleness']}", row["curve"]) for row in first], "seconds", "reward")
    if args.json:
        sys.stdout.write(json.dumps({"runs": rows}) + "\n")
    else:
        columns = [column for column in rows[0] if column != "curve"]
        table("rollouts ahead of the trainer", columns, [[row[column] for column in columns] for row in rows])


if __name__ == "__main__":
    runtime.keep_memory()
    main()
