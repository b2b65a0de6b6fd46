"""The most memory a process has used so far."""

import re
import sys
from pathlib import Path

import torch


def peak_memory(on: torch.device) -> int | None:
    """Bytes: of the device's tensors on CUDA, else of the whole process; None where the system does not tell."""
    if on.type == "cuda":
        return torch.cuda.max_memory_allocated(on)
    if sys.platform == "win32":
        return None
    status = Path("/proc/self/status")
    if status.exists():  # Linux; its `ru_maxrss` would begin with the memory of the process that started this one
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        return int(found[1]) * 1024 if found else None
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
