"""What `runtime` asks of the operating system."""

import os
import subprocess
import sys

import pytest
import torch

from minimind import runtime

FAULTS = """
import resource, sys, torch
from minimind import runtime
if sys.argv[1] == "keep":
    runtime.keep_memory()
for _ in range(20):  # the first few still find no hole of their size
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator only")
def test_kept_memory_is_not_cleared_again():
    """40 MB are some 10,000 pages of 4 kB: as it comes, each of the five tensors meets them anew."""
    as_it_comes, kept = (
        int(subprocess.run([sys.executable, "-c", FAULTS, way], capture_output=True, text=True, check=True).stdout)
        for way in ("as it comes", "keep")
    )
    assert 3 * kept < as_it_comes


KERNELS = """
import sys, torch
from minimind import runtime
if sys.argv[1] == "few":
    runtime.keep_few_kernels()
weight = torch.ones(64, 64, dtype=torch.bfloat16)
resident = lambda: int(open("/proc/self/statm").read().split()[1])
for rows in range(1, 701):
    torch.ones(rows, 64, dtype=torch.bfloat16) @ weight
    before = before if rows > 300 else resident()
print(resident() - before)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or runtime.compute_dtype(torch.device("cpu")) != torch.bfloat16,
    reason="oneDNN's products in bfloat16, and how Linux tells memory",
)
def test_kernels_of_shapes_that_were_met_long_ago_are_forgotten():
    """Half a megabyte each: 400 of them are 200 MB."""
    told = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")  # maybe by a command in this process
    env = {name: value for name, value in os.environ.items() if name not in told}
    options = {"capture_output": True, "text": True, "check": True, "env": env}
    all, few = (int(subprocess.run([sys.executable, "-c", KERNELS, keep], **options).stdout) for keep in ("all", "few"))
    assert 5 * few < all


def test_a_processor_that_is_held_to_avx2_computes_as_one_that_has_no_more():
    asks = "import torch; from minimind import runtime; print(runtime.compute_dtype(torch.device('cpu')))"
    held = os.environ | {"ATEN_CPU_CAPABILITY": "avx2"}
    said = subprocess.run([sys.executable, "-c", asks], env=held, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "torch.float32"


@pytest.mark.parametrize(
    ("instructions", "speeds", "products", "decoding"),
    [
        ({"avx512_bf16": True, "amx_bf16": True}, (1, 10), torch.bfloat16, torch.bfloat16),
        ({"avx512_bf16": True}, (1, 3.5), torch.bfloat16, torch.bfloat16),
        ({"avx512_bf16": True}, (1, 0.6), torch.float32, torch.bfloat16),
        ({}, (1, 10), torch.float32, torch.float32),
    ],
)
def test_products_take_the_format_that_is_faster_here(monkeypatch, instructions, speeds, products, decoding):
    speed = dict(zip((torch.float32, torch.bfloat16), speeds, strict=True))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(runtime, "_products_per_second", lambda on, dtype, *sizes: speed[dtype])
    monkeypatch.setattr(runtime, "_bfloat16_is_fast", runtime._bfloat16_is_fast.__wrapped__)
    cpu = torch.device("cpu")
    assert (runtime.compute_dtype(cpu), runtime.decoding_dtype(cpu)) == (products, decoding)


@pytest.mark.parametrize("speed", [4e8, 1e11])
def test_the_speed_of_products_is_measured_once_and_in_seconds(monkeypatch, speed):
    """Of bfloat16 that is emulated, the large product would take half a minute, five times over."""
    asked = []

    def measure(on, dtype, rows, inner, columns):
        asked.append(2 * rows * inner * columns / speed)
        return speed

    monkeypatch.setattr(runtime, "_products_per_second", measure)
    runtime.peak_flops.cache_clear()
    try:
        found = [runtime.peak_flops(torch.device("cpu"), torch.bfloat16) for _ in range(2)]
    finally:
        runtime.peak_flops.cache_clear()
    assert found == [speed, speed]
    assert len(asked) == (1 if speed < 1e9 else 2)
    assert max(asked) < runtime.PEAK_SECONDS


@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_left_in_the_mode_in_which_it_was_whatever_happens(training):
    model = torch.nn.Sequential(torch.nn.Dropout()).train(training)

    def fail():
        with runtime.evaluating(model):
            assert not any(module.training for module in model.modules())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(module.training == training for module in model.modules())
