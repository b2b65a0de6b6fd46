"""The attention kernels against each other."""

import pytest
import torch

from minimind.model import attend as attention
from minimind.model.attend import Segments, attend, make_layout


@pytest.mark.parametrize("time", [16, 256, 300])  # below, at and beyond one block of queries
def test_products_equal_the_flash_kernel(time: int, monkeypatch) -> None:
    """The path of training on a CPU: same values and gradients, several documents and padding, grouped heads."""
    torch.manual_seed(0)
    document_ids = torch.stack([torch.arange(time) // 7, torch.arange(time) // (time - 5) - 1]).int()
    layout = make_layout(Segments(document_ids, torch.zeros(2, time, dtype=torch.int64)), torch.float32)
    q, k, v = (torch.randn(2, time, heads, 8, requires_grad=True) for heads in (4, 2, 2))
    weight = torch.randn(2, time, 4, 8)

    found = attend(q, k, v, layout)
    gradients = torch.autograd.grad((found * weight).sum(), (q, k, v))
    monkeypatch.setattr(attention, "PRODUCTS_UP_TO", 0)
    expected = attend(q, k, v, layout)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients, torch.autograd.grad((expected * weight).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
