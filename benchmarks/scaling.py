"""How the cost of training grows: tokens per second and peak memory against parameters, row length and ranks.

    python benchmarks/scaling.py --data pretrain.jsonl
    python benchmarks/scaling.py --data pretrain.jsonl --kinds ranks --ranks 1 2

Each point is a command of its own (`minimind bench train`; for ranks `torchrun ... -m minimind train`), so that no
memory of another is counted, and one JSON file in --out: what is there is not measured again. Ends with a table and two
plots for each kind, and the points as JSON.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import tyro
from scaling_law import shape

from minimind.console import print_json, say, table
from minimind.report.figure import save
from minimind.report.plots import Series
from minimind.train.metrics import read

SIZES = {  # about so many parameters -> hidden size, layers
    "1M": (96, 4),
    "3M": (192, 4),
    "6M": (256, 6),
    "12M": (384, 6),
    "25M": (512, 8),
    "50M": (704, 8),
    "100M": (896, 10),
    "200M": (1152, 12),
}
Kind = Literal["parameters", "length", "ranks"]
UNITS = {"parameters": "million parameters", "length": "tokens of a row", "ranks": "processes"}


def bench(data: Path, preset: str, seconds: float, settings: dict[str, Any]) -> dict[str, Any]:
    """One `minimind bench train` without the reference."""
    argv = ["bench", "train", "--preset", preset, "--data", str(data), "--no-reference", "--seconds", str(seconds)]
    argv += [f"--set.{name}={json.dumps(value)}" for name, value in settings.items()]
    ended = subprocess.run([sys.executable, "-m", "minimind", *argv, "--json"], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return {name: found[name] for name in ("parameters", "tokens_per_second", "mfu", "peak_memory_bytes")}


def train_on_ranks(data: Path, preset: str, ranks: int, steps: int, settings: dict[str, Any]) -> dict[str, Any]:
    """`minimind train` on several processes: the median of its logged speeds but the first, and the largest process."""
    with tempfile.TemporaryDirectory() as folder:
        argv = ["train", "pretrain", preset, "--data", str(data), "--max-steps", str(steps), "--out", folder]
        argv += [f"--set.{name}={json.dumps(value)}" for name, value in settings.items()]
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
        command = [sys.executable, *torchrun, "-m", "minimind", *argv]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)  # what this command used, not all commands so far
        if status:
            raise SystemExit(f"a run on {ranks} ranks failed")
        lines = [line for line in read(Path(folder) / "metrics.jsonl") if "tokens_per_second" in line]
    peak = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "tokens_per_second": statistics.median(line["tokens_per_second"] for line in lines[1:]),
        "peak_memory_bytes": peak,
    }


def main(
    data: Path,
    out: Path = Path("runs/scaling"),
    preset: str = "laptop",
    kinds: tuple[Kind, ...] = ("parameters", "length", "ranks"),
    sizes: tuple[str, ...] = tuple(SIZES),
    lengths: tuple[int, ...] = (512, 1024, 2048, 4096, 8192),
    ranks: tuple[int, ...] = (1, 2),
    tokens_per_step: int = 8192,
    micro_batch_tokens: int = 4096,
    seconds: float = 10,
) -> None:
    """Measure what is not there yet, and print everything.

    Args:
        data: training text, or a folder of `minimind data prepare`.
        out: folder of the points.
        preset: for row lengths and ranks.
        kinds: what to vary.
        sizes: names of the sizes to measure.
        lengths: tokens of a row.
        ranks: numbers of processes, on this machine; they share its cores.
        tokens_per_step: of an optimizer step, over all ranks.
        micro_batch_tokens: of which at a time (a whole row at least).
        seconds: to measure a point, warm-up and compiling not counted.
    """
    out.mkdir(parents=True, exist_ok=True)
    batch = {"train.tokens_per_step": tokens_per_step, "train.micro_batch_tokens": micro_batch_tokens}

    def point(kind: Kind, value: int | str) -> dict[str, Any]:
        if kind == "parameters":
            return bench(data, "laptop", seconds, batch | shape(*SIZES[str(value)]))
        if kind == "length":
            length = int(value)
            rows = {"data.sequence_length": length, "train.micro_batch_tokens": max(length, micro_batch_tokens)}
            return bench(data, preset, seconds, batch | rows)
        steps = {"train.log_every": 2, "train.valid_every": 0, "train.save_every": 0, "train.compile": "always"}
        return train_on_ranks(data, preset, int(value), 12, batch | steps)

    values: dict[Kind, tuple[int | str, ...]] = {"parameters": sizes, "length": lengths, "ranks": ranks}
    everything: dict[str, list[dict[str, Any]]] = {}
    for kind in kinds:
        points = []
        for value in values[kind]:
            path = out / f"{kind}-{value}.json"
            if not path.is_file():
                say(f"{kind}: {value}")
                path.write_text(json.dumps({kind: value} | point(kind, value)), encoding="utf-8")
            points.append(json.loads(path.read_text(encoding="utf-8")))
        everything[kind] = points
        table(kind, [name.replace("_", " ") for name in points[0]], [list(found.values()) for found in points])
        across = [float(found["parameters"] / 1e6 if kind == "parameters" else found[kind]) for found in points]
        for name, unit, down in (
            ("time", "microseconds a token", [1e6 / found["tokens_per_second"] for found in points]),
            ("memory", "GB", [found["peak_memory_bytes"] / 1e9 for found in points]),
        ):
            line = Series(preset, list(zip(across, down, strict=True)))
            save(out / f"{kind}-{name}.svg", [line], UNITS[kind], unit, zero=True)
    print_json(everything)


if __name__ == "__main__":
    tyro.cli(main)
