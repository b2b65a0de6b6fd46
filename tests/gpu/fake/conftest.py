"""Run by `make test-fake-cuda`, in an environment of its own: `.venv` has a build of torch without CUDA."""

import pytest
import torch

if torch.version.cuda is None:
    pytest.skip("needs a CUDA build of torch (no GPU): run `make test-fake-cuda`", allow_module_level=True)
