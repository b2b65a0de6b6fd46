"""How long a user waits: for `import minimind`, for `minimind --help`, and from a training command to its first step.

    python benchmarks/startup.py --data pretrain.jsonl

The very first training on a machine compiles its kernels (`cold`); any other of this shape finds them.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from minimind.console import print_json
from minimind.data.smallworld.generate import generate

GOALS = {"import": 0.3, "help": 0.6, "first_step": 10.0}


def seconds(*argv: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *argv], check=True, capture_output=True)
    return time.perf_counter() - start


def first_step(argv: list[str], run: Path, kernels: Path) -> float:
    """Seconds from starting the command to its first line in metrics.jsonl, which it writes after its first step.

    `kernels` is the folder of what the compiler has made.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "minimind", *argv, "--out", str(run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(kernels)},
    )
    try:
        while not (run / "metrics.jsonl").is_file() or not (run / "metrics.jsonl").stat().st_size:
            if process.poll() is not None:
                raise SystemExit(f"the command ended early: {process.stderr.read().decode()}")
            time.sleep(0.01)
        return time.perf_counter() - start
    finally:
        process.terminate()
        process.communicate()


def main(data: Path | None = None, preset: str = "laptop", tries: int = 5) -> None:
    """Print the best of several tries of each (the interpreter's own start is in all of them), and the goals.

    Args:
        data: training text; without it, the small world. It is prepared before the clock starts.
        preset: what to train.
        tries: of import and help; a third of it of training, after the first one.
    """
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            generate(Path(folder), 1.0, seed=0)
            data = Path(folder) / "pretrain.jsonl"
        prepared = str(Path(folder) / "prepared")
        seconds("-m", "minimind", "data", "prepare", "--data", str(data), "--out", prepared)
        train = ["train", "pretrain", preset, "--data", prepared, "--max-steps", "100000"]
        train += ["--set.data.valid_fraction", "0"]
        runs = [Path(folder) / f"run{number}" for number in range(1 + max(1, tries // 3))]
        first, *later = [first_step(train, run, Path(folder) / "kernels") for run in runs]
        found = {
            "interpreter": min(seconds("-c", "pass") for _ in range(tries)),
            "import": min(seconds("-c", "import minimind") for _ in range(tries)),
            "help": min(seconds("-m", "minimind", "--help") for _ in range(tries)),
            "first_step": min(later),
            "first_step_cold": first,
        }
    reached = {name: found[name] < goal for name, goal in GOALS.items()}
    print_json({**{name: round(value, 3) for name, value in found.items()}, "goals": GOALS, "reached": reached})


if __name__ == "__main__":
    tyro.cli(main)
