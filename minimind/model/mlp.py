"""The feed-forward network: SwiGLU (Shazeer 2020), down(silu(gate(x)) · up(x))."""

from torch import Tensor, nn
from torch.nn import functional as F

from minimind.config import ModelConfig
from minimind.model.linear import Linear


class MLP(nn.Module):
    """Three matrices without bias."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[..., hidden]` to the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
