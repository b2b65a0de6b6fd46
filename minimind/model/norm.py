"""RMSNorm (Zhang & Sennrich 2019): divide by the root mean square, scale by a learned weight."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Normalise the last dimension: y = weight · x / sqrt(mean(x²) + eps).

    The mean of squares is taken in float32 whatever the input, because bfloat16 keeps only 8 bits; the output
    has the input's dtype.
    """

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., size]` to the same shape and dtype."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)
