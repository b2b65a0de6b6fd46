"""The linear layer that turns small products round."""

import pytest
import torch
from torch.nn import functional as F

from minimind.model.linear import FEW_ROWS, Linear


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 4), (1, FEW_ROWS), (1, FEW_ROWS + 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_a_linear_layer_whatever_the_number_of_rows(shape, bias):
    torch.manual_seed(0)
    layer = Linear(96, 40, bias=bias).bfloat16()
    x = torch.randn(*shape, 96).bfloat16()
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double() if bias else None)
    with torch.no_grad():
        torch.testing.assert_close(layer(x).double(), exact, atol=0.02, rtol=0.01)
    out = layer(x)
    out.sum().backward()
    assert layer.weight.grad is not None
    assert out.shape == (*shape, 40)
