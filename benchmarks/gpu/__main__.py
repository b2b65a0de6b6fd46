"""`python -m benchmarks.gpu`: every part in turn, each in a process of its own and within its time."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.gpu.report import Report
from benchmarks.gpu.work import Work

LIMITS = {
    "machine": 30,
    "correctness": 190,
    "training": 130,
    "rival": 45,
    "where": 30,
    "generation": 45,
    "rollouts": 25,
    "pretraining": 250,
}
"""Seconds that each part may take, in the order they come."""
KEPT = 60
"""Seconds that the parts before it leave for the run at the end."""
ROOT = Path(__file__).parents[2]


def main(argv: list[str] | None = None) -> int:
    """Run the parts; 0 if every one of them ended well."""
    asked = arguments(argv)
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    work = Work(str(out), asked.device, asked.quick, str(asked.data.resolve()) if asked.data else "", asked.tests)
    about = {"device": asked.device, "quick": asked.quick, "minutes": asked.minutes}
    report, ends = Report(out, work.sizes, about), time.monotonic() + asked.minutes * 60
    for name, limit in LIMITS.items():
        if asked.only and name not in asked.only:
            continue
        left = ends - time.monotonic() - (KEPT if name != "pretraining" else 0)
        start = time.monotonic()
        error = run(name, replace(work, seconds=max(1.0, min(limit, left) if not asked.quick else left)))
        report.add(name, error, time.monotonic() - start)
    report.conclude()
    return int(any(not part["ok"] for part in report.parts.values()))


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line, without what the package itself needs for its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: with --quick, a rehearsal")
    parser.add_argument("--quick", action="store_true", help="next to nothing of everything")
    parser.add_argument("--data", type=Path, help="JSON Lines to train on; by default the small world")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--only", nargs="+", choices=list(LIMITS), help="some of the parts")
    parser.add_argument("--tests", default="", help="which tests to run, by default those in tests/gpu")
    return parser.parse_args(argv)


def run(name: str, work: Work) -> str | None:
    """Run one part; what went wrong, or None. What it started ends with it."""
    log = Path(work.out) / f"{name}.log"
    (Path(work.out) / f"{name}.jsonl").unlink(missing_ok=True)
    asked = {key: value for key, value in asdict(work).items() if key != "began"}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    if work.quick:  # so little work is not worth sharing, and threads that wait for each other take most of the time
        environment["OMP_NUM_THREADS"] = "1"
    command = [sys.executable, "-m", "benchmarks.gpu.part", name, json.dumps(asked)]
    with log.open("wb") as output:
        part = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            code = part.wait(work.seconds)
        except subprocess.TimeoutExpired:
            return f"stopped after {work.seconds:.0f} s"
        finally:
            end_session(part)
    if code == 0:
        return None
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return (lines[-1] if lines else f"ended with code {code}")[:300]


def end_session(part: subprocess.Popen[bytes]) -> None:
    """Kill whatever of a part still runs: the workers of a compiler, the processes of a test."""
    with suppress(ProcessLookupError):
        os.killpg(part.pid, signal.SIGKILL)
    part.wait()


if __name__ == "__main__":
    sys.exit(main())
