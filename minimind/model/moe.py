"""A sparse mixture of experts (Shazeer et al. 2017; Switch, Fedus et al. 2021), as Qwen3-MoE defines it.

A linear router scores the experts for each token; the token goes through its top k, and their outputs are summed
with the router's probabilities as weights. Letters: N tokens, C hidden, F feed-forward, E experts, k chosen.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minimind.config import ModelConfig


class RouterCounts(NamedTuple):
    """One layer's routing: tokens sent to each expert and the sum of its probability, both float32 `[E]`."""

    tokens: Tensor
    probability: Tensor


class RouterStatistics(NamedTuple):
    """The routing of one forward pass, padding left out."""

    counts: Tensor
    """`[sparse layers, E]`: choices that fell on each expert (no gradient)."""
    probabilities: Tensor
    """`[sparse layers, E]`: the router's probability of each expert, summed over tokens (has the gradient)."""
    tokens: Tensor
    """Number of real tokens, a scalar."""
    coefficient: float = 0.0
    """Weight of the load-balancing loss beside the stage's own (`router_aux_loss_coef`)."""

    def load_balancing_loss(self) -> Tensor:
        """Mean over the layers of E · Σ_e (share of choices of e) · (mean probability of e); k when the load is even.

        Equations 4-6 of Switch. Qwen3-MoE's `load_balancing_loss_func` adds up the layers before it multiplies, and so
        does not see two layers that neglect opposite experts.
        """
        tokens = self.tokens.clamp(min=1)
        per_layer = (self.counts / tokens * (self.probabilities / tokens)).sum(1)  # [sparse layers]
        return self.counts.shape[1] * per_layer.mean()

    def load(self) -> Tensor:
        """Share of each layer's choices that fell on each expert, `[sparse layers, E]`."""
        return self.counts / self.counts.sum(1, keepdim=True).clamp(min=1)


class Experts(nn.Module):
    """E SwiGLU networks with their matrices stacked `[expert, out, in]`."""

    MATRICES = ("gate_proj", "up_proj", "down_proj")

    def __init__(self, config: ModelConfig):
        super().__init__()
        experts, hidden, ff = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_proj = nn.Parameter(torch.empty(experts, ff, hidden))
        self.up_proj = nn.Parameter(torch.empty(experts, ff, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, ff))

    def forward(self, x_MC: Tensor, ends_E: Tensor) -> Tensor:
        """Run rows up to `ends_E[0]` through expert 0, the next up to `ends_E[1]` through expert 1, and so on."""
        if torch.is_autocast_enabled(x_MC.device.type):
            x_MC = x_MC.to(torch.get_autocast_dtype(x_MC.device.type))
        gate_MF = self.project("gate_proj", x_MC, ends_E)
        up_MF = self.project("up_proj", x_MC, ends_E)
        return self.project("down_proj", F.silu(gate_MF) * up_MF, ends_E)

    def project(self, matrix: str, x_MI: Tensor, ends_E: Tensor) -> Tensor:
        """Multiply each expert's rows with its part of one of the three matrices: `[M, in] -> [M, out]`."""
        return grouped_linear(x_MI, getattr(self, matrix), ends_E)


class MixtureOfExperts(nn.Module):
    """Takes the place of the MLP of a layer."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.chosen = config.num_experts_per_tok
        self.normalise = config.norm_topk_prob
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = Experts(config)

    def forward(self, x_BTC: Tensor, padding_BT: Tensor) -> tuple[Tensor, RouterCounts]:
        """Return `[B, T, hidden]` (0 where `padding_BT`) and where the tokens went."""
        padding_N1 = padding_BT.reshape(-1, 1)
        x_NC = x_BTC.flatten(0, 1).masked_fill(padding_N1, 0)
        probabilities_NE = self.route(x_NC)
        weights_Nk, experts_Nk = probabilities_NE.topk(self.chosen, dim=-1)
        if self.normalise:
            weights_Nk = weights_Nk / weights_Nk.sum(-1, keepdim=True)

        # Sort the N·k choices by expert, so that each expert's tokens are consecutive rows. Padding is expert E: it is
        # sorted behind all others and counted for none.
        experts = probabilities_NE.shape[1]
        choice_M = experts_Nk.masked_fill(padding_N1, experts).flatten()
        order_M = choice_M.argsort(stable=True)
        count_E = torch.zeros(experts + 1, device=x_NC.device).scatter_add_(
            0, choice_M, torch.ones_like(choice_M, dtype=torch.float32)
        )[:experts]
        ends_E = count_E.int().cumsum(0, dtype=torch.int32)  # of floats there is no deterministic kernel on CUDA
        # The kernel leaves rows behind the last end undefined; padding is zeros, which the last expert maps to 0.
        # (A slice is filled on the device; a single element would be copied from the host, which waits for the device.)
        ends_E[-1:] = len(choice_M)
        out_MC = self.experts(x_NC.index_select(0, order_M // self.chosen), ends_E)

        place_M = torch.empty_like(order_M).scatter_(0, order_M, torch.arange(len(order_M), device=x_NC.device))
        out_NkC = out_MC.index_select(0, place_M).unflatten(0, experts_Nk.shape)
        out_NC = (out_NkC * weights_Nk.to(out_NkC.dtype)[:, :, None]).sum(1)
        counts = RouterCounts(count_E, probabilities_NE.masked_fill(padding_N1, 0).sum(0))
        return out_NC.view_as(x_BTC).to(x_BTC.dtype), counts

    def route(self, x_NC: Tensor) -> Tensor:
        """Return each expert's probability `[N, E]`, in float32: a rounded score may change which expert is chosen."""
        with torch.autocast(x_NC.device.type, enabled=False):
            return F.linear(x_NC.float(), self.gate.weight.float()).softmax(-1)


def grouped_linear(x_MI: Tensor, weight_EOI: Tensor, ends_E: Tensor) -> Tensor:
    """Multiply consecutive groups of rows, each with its own matrix: `[M, I] -> [M, O]`, group e ends at `ends_E[e]`.

    One kernel without host synchronisation where torch has it; a loop over the experts elsewhere (and for
    sizes that the kernel's 16-byte alignment excludes).
    """
    weight_EOI = weight_EOI.to(x_MI.dtype)
    aligned = all(size * x_MI.element_size() % 16 == 0 for size in weight_EOI.shape[1:])
    if aligned and _has_grouped_mm(x_MI):
        return F.grouped_mm(x_MI, weight_EOI.transpose(1, 2), offs=ends_E)
    ends = ends_E.tolist()
    starts = [0, *ends[:-1]]
    return torch.cat([F.linear(x_MI[a:b], w) for a, b, w in zip(starts, ends, weight_EOI, strict=True)])


def _has_grouped_mm(x: Tensor) -> bool:
    if x.device.type == "cpu":
        # torch.compile knows the kernel in bfloat16 only
        return x.dtype == torch.bfloat16 or (x.dtype == torch.float32 and not torch.compiler.is_compiling())
    return x.device.type == "cuda" and x.dtype == torch.bfloat16
