"""Set up `.venv`: `python install.py demo` installs what `minimind demo` needs, `python install.py` everything.

`make setup-demo` and `make setup` call it. It needs nothing but Python 3.11 or newer, with or without `make`, on
Linux, macOS and Windows. constraints.txt names every version, so nothing is left for pip to resolve.
"""

from __future__ import annotations  # an old Python gets as far as being told that it is one

import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PIP = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "install", "--no-compile"]
"""Python compiles a file when it is first imported; compiling all of them here takes longer than the rest."""
PINNED = ["-c", "constraints.txt"]


def main(argv: list[str]) -> int:
    """Install what `argv` names, a line for each step, and mark in `.venv` that it is there.

    Returns:
        0, or the exit code of the step that failed.
    """
    if argv not in ([], ["demo"]):
        print("usage: python install.py [demo]", file=sys.stderr)
        return 2
    if sys.version_info < (3, 11):  # noqa: UP036
        found = ".".join(map(str, sys.version_info[:3]))
        print(f"MiniMind needs Python 3.11 or newer, this is {found}; try: make PYTHON=python3.12", file=sys.stderr)
        return 1
    os.chdir(ROOT)
    core = demo_packages()
    try:
        say(1, ".venv")
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        install_torch(next(pin for pin in core if pin.startswith("torch==")))
        say(3, f"{len(core) - 1} small packages, 50 MB")
        counted([*PIP, "--no-deps", *core])
        if argv:
            say(4, "MiniMind itself")
            counted([*PIP, "--no-deps", "-e", "."])
        else:
            say(4, "MiniMind itself, and what its extras and tests need: 100 packages, 500 MB")
            counted([*PIP, *PINNED, "-e", ".[data,serve,dev]"])
    except subprocess.CalledProcessError as error:
        print("This step failed; run the same command again to continue with it.", file=sys.stderr)
        return error.returncode
    except KeyboardInterrupt:
        print("Interrupted; run the same command again to continue.", file=sys.stderr)
        return 130
    (VENV / "installed-demo").touch()
    if not argv:
        (VENV / "installed").touch()
    return 0


def demo_packages() -> list[str]:
    """The pins of the first paragraph of constraints.txt; a test compares it with pyproject.toml."""
    paragraph = (ROOT / "constraints.txt").read_text(encoding="utf-8").split("\n\n")[0]
    return [line for line in paragraph.splitlines() if not line.startswith("#")]


def install_torch(pin: str) -> None:
    """Install torch, under pip's own progress bars: it is larger than everything else together.

    On Linux the package index has the build for NVIDIA GPUs, which brings the CUDA libraries along, 3 GB in all;
    PyTorch's own index has one of 190 MB for CPUs.
    """
    if sys.platform != "linux":
        say(2, f"{pin}, 100 MB")
        options = ["--no-deps"]
    elif shutil.which("nvidia-smi"):
        say(2, f"{pin} for NVIDIA GPUs, 3 GB")
        options = PINNED
    elif reachable(f"{CPU_INDEX}/torch/"):
        say(2, f"{pin} for CPUs, 190 MB")
        options = ["--no-deps", "--extra-index-url", CPU_INDEX]
    else:
        say(2, f"{pin} as your package index has it (PyTorch's own, with a small build for CPUs, cannot be reached)")
        options = PINNED
    subprocess.run([*PIP, *options, pin], check=True)


def reachable(url: str) -> bool:
    """Whether a page can be read within five seconds; pip would try for minutes, and complain."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def counted(command: list[str]) -> None:
    """Run pip and show how many packages it has fetched, on a terminal; what it says is shown only if it fails."""
    lines = []
    collected = 0
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    ) as pip:
        assert pip.stdout
        for line in pip.stdout:
            lines.append(line)
            collected += line.startswith("Collecting ")
            if sys.stdout.isatty():
                doing = "installing them" if line.startswith("Installing ") else f"{collected} fetched"
                print(f"\r      {doing:<20}", end="\r", flush=True)
    if pip.returncode:
        print("".join(lines), file=sys.stderr)
        raise subprocess.CalledProcessError(pip.returncode, command)


def say(number: int, what: str) -> None:
    """Announce one of the four steps."""
    print(f"[{number}/4] {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
