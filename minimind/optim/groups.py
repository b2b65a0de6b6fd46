"""Which optimizer updates which parameter."""

from typing import Any

import torch
from torch import nn

from minimind.optim.muon import Muon
from minimind.optim.settings import OptimConfig


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """True for weights that map hidden states to hidden states.

    Embedding and output head are matrices in shape only: their rows are vectors of single tokens, and a
    rare token's row should not move as far as a frequent one's. The router's rows are likewise single experts', and so
    are the lengths that DoRA trains.
    """
    single_rows = ("embed_tokens.weight", "lm_head.weight", "mlp.gate.weight", ".magnitude")
    return parameter.ndim >= 2 and not name.endswith(single_rows)


def make_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Muon (or AdamW) for the matrices, AdamW without weight decay for embeddings, router and norms."""
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trainable if is_matrix(name, p)]
    others = [p for name, p in trainable if not is_matrix(name, p)]
    adamw: dict[str, Any] = {"lr": config.lr, "betas": (config.beta1, config.beta2), "fused": True}
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        optimizers.append(torch.optim.AdamW(others, weight_decay=0.0, **adamw))
    if matrices and config.matrices == "muon":
        optimizers.append(Muon(matrices, config.lr, config.momentum, config.weight_decay))
    elif matrices:
        optimizers.append(torch.optim.AdamW(matrices, weight_decay=config.weight_decay, **adamw))
    return optimizers
