"""The most memory a process has used so far."""

import sys

import torch


def peak_memory(on: torch.device) -> int | None:
    """Bytes: of the device's tensors on CUDA, else of the whole process; None where the system does not tell."""
    if on.type == "cuda":
        return torch.cuda.max_memory_allocated(on)
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in kilobytes
