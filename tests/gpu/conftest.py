"""Tests of what only a GPU can show: `pytest -m gpu`, or `make gpu`, which begins with them.

`MINIMIND_GPU_TESTS=cpu` rehearses the same bodies on a CPU with smaller models; what cannot run there says so.
"""

from pathlib import Path

import pytest
import torch
from gpu_models import REHEARSED

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    here = [item for item in items if item.path.parent == HERE]
    if here and not REHEARSED and not torch.cuda.is_available():
        for item in here:
            item.add_marker(pytest.mark.skip(reason="needs CUDA"))


@pytest.fixture(scope="session")
def device():
    return torch.device("cpu" if REHEARSED else "cuda")


@pytest.fixture
def _on_cuda():
    if REHEARSED:
        pytest.skip("needs CUDA")
