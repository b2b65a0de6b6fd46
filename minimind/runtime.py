"""The one place that looks at the machine: environment variables, device, number format, ranks, seeds, and what the
versions of torch differ in.

Everything above asks these functions, so a run on a laptop, on one GPU and on many reads the same code.
"""

import ctypes
import os
import platform
import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimind.errors import UsageError

if TYPE_CHECKING:
    import torch


def cache_dir() -> Path:
    """Where token shards and downloads live: `$MINIMIND_CACHE`, or `~/.cache/minimind`.

    A user without a home directory, as containers start them, has a folder among the temporary ones.
    """
    if folder := os.environ.get("MINIMIND_CACHE"):
        return Path(folder)
    try:
        return Path.home() / ".cache" / "minimind"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"minimind-{os.getuid() if hasattr(os, 'getuid') else 'user'}"


def bare_environment() -> dict[str, str]:
    """What a process apart is given: what Python and its libraries need to be found, and nobody's keys."""
    needed = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL", "TZ")
    return {name: os.environ[name] for name in needed if name in os.environ}


def api_key() -> str:
    """The key that clients of `minimind serve` must bring, and that ours brings: `$MINIMIND_API_KEY`, or empty."""
    return os.environ.get("MINIMIND_API_KEY", "")


def endpoint_key() -> str | None:
    """The key for a server that judges or teaches, `$OPENAI_API_KEY`, as its own clients call it."""
    return os.environ.get("OPENAI_API_KEY")


def hub_endpoint(hub: str) -> str:
    """Base URL of a model hub; the variables are those of the hubs' own clients."""
    if hub == "huggingface":
        return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return os.environ.get("MODELSCOPE_ENDPOINT", "https://www.modelscope.cn").rstrip("/")


def tracker_mode(tool: str) -> str:
    """`offline` unless `$WANDB_MODE` or `$SWANLAB_MODE`, the tools' own variables, say otherwise."""
    return os.environ.get(f"{tool.upper()}_MODE", "offline")


def set_trackio_folder(folder: Path) -> None:
    """Let trackio keep its database in `folder`, unless the user has chosen one; it takes no argument for that."""
    os.environ.setdefault("TRACKIO_DIR", str(folder))


def rank() -> int:
    """Index of this process among those that torchrun started; 0 when there is only one."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """True in the process that writes files and talks to the user."""
    return rank() == 0


def share_cores() -> None:
    """Let idle OpenMP threads fall asleep soon instead of spinning on; call it before torch is imported.

    A spinning thread holds the core that another process (or the thread it waits for) needs. Beside one busy
    process training on two cores keeps half of its speed with this, and a twentieth as it comes; alone it is as fast.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "4000")


def keep_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones instead of handing it back (glibc only).

    glibc maps every large block anew, and the system then clears it page by page: a training step on the CPU, whose
    tensors are all large, spends a tenth of its time there.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # the names in malloc.h, without M_
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        for option, value in ((mmap_max, 0), (trim_threshold, -1), (top_pad, 64 << 20)):
            libc.mallopt(option, value)


def keep_few_kernels() -> None:
    """Let this process keep the kernels of 128 shapes, not 1,024; call it before torch computes anything.

    oneDNN, and what torch has between itself and it, keep half a megabyte for every shape of a product in bfloat16
    that they have met; to make it anew takes a millisecond.
    """
    for size in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(size, "128")


def cpu_count() -> int:
    """Cores this process may use (containers often allow fewer than the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def device(name: str = "auto") -> "torch.device":
    """Turn `auto | cpu | cuda | mps` into a device that exists here.

    Raises:
        UsageError: the device is not there, or no such name.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        name = next(d for d in ("cuda", "mps", "cpu") if available[d])
    if name not in available:
        raise UsageError(f"--device {name}: choose auto, cpu, cuda or mps")
    if not available[name]:
        raise UsageError(f"--device {name}: torch sees no such device here; use --device auto")
    if name == "cuda":
        index = int(os.environ.get("LOCAL_RANK", "0"))
        if index >= torch.cuda.device_count():
            raise UsageError(
                f"this machine has {torch.cuda.device_count()} GPUs, too few for process {index + 1} of it; "
                f"give torchrun a smaller --nproc-per-node"
            )
        return torch.device("cuda", index)
    return torch.device(name)


def compute_dtype(on: "torch.device") -> "torch.dtype":
    """The number format of matrix products: bfloat16 where the hardware is fast with it, else float32.

    GPUs before Ampere have float16 only. On a CPU without AVX512-BF16 or AMX, or where `$ATEN_CPU_CAPABILITY` tells
    torch to use less than the processor has, bfloat16 is emulated and slower than float32.
    """
    import torch

    if on.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if on.type == "mps":
        return torch.float32
    return torch.bfloat16 if _has_bfloat16() and _bfloat16_is_fast() else torch.float32


def decoding_dtype(on: "torch.device") -> "torch.dtype":
    """The number format of products with few rows, which wait for the weights: bfloat16 halves what must be read."""
    import torch

    return torch.bfloat16 if on.type == "cpu" and _has_bfloat16() else compute_dtype(on)


def _has_bfloat16() -> bool:
    """Whether this CPU has instructions for bfloat16, and torch may use them."""
    import torch

    flags = torch.cpu.get_capabilities()
    has = flags.get("avx512_bf16") or flags.get("amx_bf16")
    return bool(has) and torch.backends.cpu.get_cpu_capability() == "AVX512"


@cache
def _bfloat16_is_fast() -> bool:
    """Whether its products take less time than float32's, measured once, in some 20 ms.

    AMD's cores do three to four times as many a second, AMX ten times. Intel's without AMX, as virtual machines that
    hide it, do 0.6 times as many: one unit in two has the instruction.
    """
    import torch

    cpu = torch.device("cpu")
    best = {torch.float32: 0.0, torch.bfloat16: 0.0}
    for _ in range(3):  # by turns, so that a neighbour disturbs both
        for dtype in best:
            best[dtype] = max(best[dtype], _products_per_second(cpu, dtype, 1024, 512, 512))
    return best[torch.bfloat16] > best[torch.float32]


def grouped_heads() -> dict[str, Any]:
    """What lets torch's `varlen_attn` share a key/value head among query heads: 2.11 does so unasked, others do not."""
    from inspect import signature

    from torch.nn.attention.varlen import varlen_attn

    return {"enable_gqa": True} if "enable_gqa" in signature(varlen_attn).parameters else {}


PEAK_SECONDS = 3.0
"""That a product may take by which the device's speed is told."""


@cache
def peak_flops(on: "torch.device", dtype: "torch.dtype") -> float:
    """Floating-point operations per second of this device's own matrix products, measured once, on a large one.

    What model FLOPs are compared with (MFU): the machine as it is, not as its data sheet says.
    """
    rows, inner, columns = (4096, 768, 2048) if on.type == "cpu" else (8192, 4096, 4096)
    few = _products_per_second(on, dtype, rows // 64, inner, columns)
    if 2 * rows * inner * columns > PEAK_SECONDS * few:  # a format that is only emulated would take minutes
        return few
    return _products_per_second(on, dtype, rows, inner, columns)


def _products_per_second(on: "torch.device", dtype: "torch.dtype", rows: int, inner: int, columns: int) -> float:
    """Floating-point operations per second of a product of these sizes: the best of five."""
    import time

    import torch

    a, b = torch.ones(rows, inner, dtype=dtype, device=on), torch.ones(inner, columns, dtype=dtype, device=on)
    best = 0.0
    for _ in range(5):
        synchronize(on)
        start = time.perf_counter()
        a @ b
        synchronize(on)
        best = max(best, 2 * rows * inner * columns / (time.perf_counter() - start))
    return best


def free_memory(on: "torch.device") -> int | None:
    """Bytes that a GPU has room for; None for a CPU, and where nobody says."""
    import torch

    return torch.cuda.mem_get_info(on)[0] if on.type == "cuda" else None


def sent(tensor: "torch.Tensor", to: "torch.device") -> "torch.Tensor":
    """A tensor on device `to`. From the host to CUDA it is copied from pinned memory while the host goes on."""
    if to.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(to, non_blocking=True)
    return tensor.to(to)


def synchronize(on: "torch.device") -> None:
    """Wait until the device has done what it was asked."""
    import torch

    if on.type == "cuda":
        torch.cuda.synchronize(on)
    elif on.type == "mps":
        torch.mps.synchronize()


def empty_cache(on: "torch.device") -> None:
    """Give memory that is free in this process back to the device, for others."""
    import torch

    if on.type == "cuda":
        torch.cuda.empty_cache()
    elif on.type == "mps":
        torch.mps.empty_cache()


@contextmanager
def evaluating(model: "torch.nn.Module") -> Iterator[None]:
    """Without dropout inside; afterwards the model is in the mode in which it was, whatever happens."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def seed_everything(seed: int) -> None:
    """Seed Python's, numpy's and torch's generators (torch's on every device)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """The state of all generators that `seed_everything` seeds, as JSON can hold it."""
    import numpy as np
    import torch

    numpy: Any = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in numpy],
        "torch": torch.get_rng_state().tolist(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state().tolist()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Go on from what `random_state` returned."""
    import numpy as np
    import torch

    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))


def be_deterministic() -> None:
    """Make every operation give the same bits each time, on CUDA too, where some are faster without.

    Call it before the first matrix product: cuBLAS reads its setting once.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


def may_compile() -> bool:
    """Whether programs may be compiled: `$MINIMIND_COMPILE=0` forbids it."""
    return os.environ.get("MINIMIND_COMPILE") != "0"


def cpp_compiler() -> str | None:
    """Path of a C++ compiler (`$CXX`, g++ or clang++), or None."""
    import shutil

    found = map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))
    return next(filter(None, found), None)


def processor() -> str:
    """What machine code this processor understands: the key of programs that are built for it alone."""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())
    return platform.machine() + platform.processor()


def environment() -> dict[str, Any]:
    """What a run ran on, saved beside its recipe so that a figure can be understood later."""
    import numpy as np
    import torch

    import minimind

    facts: dict[str, Any] = {
        "minimind": minimind.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "world_size": world_size(),
    }
    if torch.cuda.is_available():
        facts["cuda"] = torch.cuda.get_device_name()
    return facts
