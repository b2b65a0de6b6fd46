"""What the device can do at best: what all other figures are compared with."""

import platform
from importlib.metadata import version

import torch

from benchmarks.gpu.work import Tell, Work, timed
from minimind import runtime
from minimind.bench import gemm
from minimind.config import PRESETS

TRIES = 5


def machine(work: Work, tell: Tell) -> None:
    """Name, versions, speed of memory and of matrix products."""
    on = work.on
    cuda = on.type == "cuda"
    tell({"figure": "device", "value": torch.cuda.get_device_name(on) if cuda else platform.processor() or "cpu"})
    tell({"figure": "memory_bytes", "value": torch.cuda.get_device_properties(on).total_memory if cuda else None})
    tell({"figure": "cuda", "value": torch.version.cuda})
    tell({"figure": "python", "value": platform.python_version()})
    for package in ("torch", "transformers", "numpy", "tokenizers"):
        tell({"figure": package, "value": version(package)})
    tell({"figure": "bandwidth", "value": bandwidth(work)})
    config, tokens = PRESETS[work.sizes.dense], min(work.sizes.micro_batches[0], work.sizes.tokens_per_step)
    dtype = runtime.compute_dtype(on)
    tell({"figure": "products_dtype", "value": str(dtype).removeprefix("torch.")})
    tell({"figure": "products_of_the_model", "value": gemm.rate(config, tokens, on, dtype)})
    tell({"figure": "one_large_product", "value": runtime.peak_flops(on, dtype)})
    tell({"figure": "data_sheet", "value": gemm.published_rate(on)})


def bandwidth(work: Work) -> float:
    """Bytes a second, read and written, of a copy larger than any cache."""
    source = torch.ones(work.sizes.copy_bytes, dtype=torch.uint8, device=work.on)
    target = torch.empty_like(source)
    best = min(timed(lambda: target.copy_(source), work.on) for _ in range(TRIES))
    return 2 * work.sizes.copy_bytes / best
