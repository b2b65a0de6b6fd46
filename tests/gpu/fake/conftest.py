"""Run by `make test-fake-cuda`, in an environment of its own: `.venv` has a build of torch without CUDA."""

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _needs_a_cuda_build():
    if torch.version.cuda is None:
        pytest.skip("needs a build of torch with CUDA, but no GPU: make test-fake-cuda")
