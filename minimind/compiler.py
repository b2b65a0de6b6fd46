"""Whether programs can be compiled here, found out by compiling one.

A compiler that is there may still not work: Python's headers are missing, the disk is full, its folder may not hold
programs. `torch.compile` would say so in thousands of lines, in the middle of a run.
"""

import hashlib
import re
import sys
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from minimind import runtime
from minimind.console import dim, hushed, say, warn

if TYPE_CHECKING:
    import torch

HINTS = {
    "Python.h": "Python's headers are missing (Debian, Ubuntu: apt install python3-dev)",
    "omp.h": "OpenMP's headers are missing (Debian, Ubuntu: apt install libomp-dev)",
    "-lgomp": "the OpenMP library is missing (Debian, Ubuntu: apt install libgomp1)",
    "crt1.o": "the C library's headers are missing (Debian, Ubuntu: apt install libc6-dev)",
    "No space left": "the disk is full",
    "failed to map segment": "the folder of compiled programs is mounted noexec; set TORCHINDUCTOR_CACHE_DIR",
}


@cache
def can_compile(kind: str) -> bool:
    """Whether `torch.compile` works on devices of this kind, `cpu` or `cuda`; if not, one warning says what is missing.

    Found out once by compiling a sum, which takes some seconds; success is remembered on the disk.
    """
    if not runtime.may_compile() or kind == "mps" or (kind == "cuda" and sys.platform == "win32"):
        return False
    compiler = runtime.cpp_compiler()
    if kind == "cpu" and compiler is None:
        warn("there is no C++ compiler (g++ or clang++), so nothing is compiled: it all works, but slower")
        return False
    known = _remembered(kind, compiler or "")
    if known.exists():
        return True
    say(dim("Trying the compiler, once: some 10 s."))
    if reason := _attempt(kind):
        warn(
            f"torch.compile does not work here: {reason}. It all works without, but slower; MINIMIND_COMPILE=0 "
            f"leaves this attempt out"
        )
        return False
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
        known.touch()
    except OSError:
        pass  # then it is tried again the next time
    return True


def what_is_missing(said: str) -> str:
    """What a compiler's complaint comes down to, in a few words."""
    for word, hint in HINTS.items():
        if word in said:
            return hint
    error = re.search(r"error: (.+)", said)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return (error[1] if error else lines[0] if lines else "it does not say why")[:200]


def _attempt(kind: str) -> str | None:
    """Compile a sum; why that failed, or None."""
    import torch

    def add(x: "torch.Tensor") -> "torch.Tensor":
        return x + 1

    try:
        with hushed(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.compile(add, fullgraph=True)(torch.zeros(64, device=kind))
    except Exception as error:  # of many kinds, from dynamo, inductor, triton, the compiler and the system
        return what_is_missing(str(error))
    return None


def _remembered(kind: str, compiler: str) -> Path:
    """The file that says that it has worked: with this compiler, Python and torch, on such a processor."""
    import torch

    stamp = Path(compiler).stat().st_mtime_ns if compiler else 0
    identity = [kind, compiler, stamp, sys.version, torch.__version__, runtime.processor()]
    name = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]
    return runtime.cache_dir() / "kernels" / f"compiles-{name}"
