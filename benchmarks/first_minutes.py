"""A newcomer's first minutes: `minimind demo` until its model talks, minute by minute.

    python benchmarks/first_minutes.py                            # this machine as it is
    python benchmarks/first_minutes.py --avx2 --beside-busy       # as if it had AVX2 only, beside a process that spins

The clock starts when the command does, so the installation is not in it; programs that the compiler has made before
are not used.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import tyro

from minimind.commands.pipeline import STAGES
from minimind.console import print_json, table
from minimind.files import read_json
from minimind.train.metrics import read

AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": "AVX512F",
}
"""What keeps the libraries from using more of the processor than AVX2."""


def watch(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[list[tuple[object, ...]], float]:
    """Run a demo in `folder`; return what had come about at the end of each minute, and the seconds until it ended."""
    rows: list[tuple[object, ...]] = []
    start = time.monotonic()
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
        while process.poll() is None:
            time.sleep(0.2)
            if time.monotonic() - start > 60 * (len(rows) + 1):
                rows.append((len(rows) + 1, *state(folder)))
    seconds = time.monotonic() - start
    if process.returncode:
        raise SystemExit((folder / "output.txt").read_text(errors="replace")[-2000:])
    return rows, seconds


def state(folder: Path) -> tuple[object, ...]:
    """Stage, step, loss and tokens a second of a demo that is running."""
    begun = [stage for stage in STAGES if (folder / stage).exists()]
    if not begun:
        return ("data", "", "", "")
    lines = [line for line in read(folder / begun[-1] / "metrics.jsonl") if "tokens_per_second" in line]
    last = lines[-1] if lines else {}
    return (begun[-1], last.get("step", ""), last.get("loss", ""), last.get("tokens_per_second", ""))


def main(until: str = "sft", avx2: bool = False, beside_busy: bool = False, json: bool = False) -> None:
    """Print what there was at the end of each minute, and what came out.

    Args:
        until: last stage.
        avx2: use no instructions beyond AVX2, as most laptops have.
        beside_busy: let another process spin all the time.
        json: print everything as one JSON object.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        environment = {"TORCHINDUCTOR_CACHE_DIR": str(folder / "kernels"), **(AVX2 if avx2 else {})}
        command = [sys.executable, "-m", "minimind", "demo", "--until", until, "--out", str(folder / "demo")]
        (folder / "demo").mkdir()
        spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if beside_busy else None
        try:
            rows, seconds = watch(command, folder / "demo", environment)
        finally:
            if spinning:
                spinning.kill()
        stages = read_json(folder / "demo" / "report.json")["stages"]
    if json:
        print_json({"seconds": seconds, "minutes": rows, "stages": stages})
        return
    table("Minute by minute", ("minute", "stage", "step", "loss", "tokens/s"), rows)
    scores = stages[until]["scores"]
    table(
        f"{until} after {seconds:.0f} s",
        ("", "seconds", *scores),
        [
            (name, stage["seconds"], *(f"{stage['scores'][one]:.0%}" for one in scores))
            for name, stage in stages.items()
        ],
    )


if __name__ == "__main__":
    tyro.cli(main)
