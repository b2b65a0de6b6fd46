"""Which optimizer updates which parameter."""

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from minimind.optim.muon import Muon
from minimind.optim.settings import OptimConfig


def is_embedding(name: str) -> bool:
    """True for the embedding and the output head, whose rows are single tokens'."""
    return name.endswith(("embed_tokens.weight", "lm_head.weight"))


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """True for weights that map hidden states to hidden states.

    Embedding and output head are matrices in shape only: their rows are vectors of single tokens, and a
    rare token's row should not move as far as a frequent one's. The router's rows are likewise single experts', and so
    are the lengths that DoRA trains.
    """
    return parameter.ndim >= 2 and not is_embedding(name) and not name.endswith(("mlp.gate.weight", ".magnitude"))


def make_optimizers(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    """Muon (or AdamW) for the matrices, AdamW for embeddings, router and norms.

    Only matrices decay, and embeddings where `embedding_decay` says so.
    """
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in trainable if is_matrix(name, p)]
    others: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)  # by multiple of the rate, and decay
    for name, p in trainable:
        if not is_matrix(name, p):
            others[(config.embedding_lr, config.embedding_decay) if is_embedding(name) else (1.0, 0.0)].append(p)
    adamw: dict[str, Any] = {"lr": config.lr, "betas": (config.beta1, config.beta2), "fused": True}
    optimizers: list[torch.optim.Optimizer] = []
    if others:
        groups = [
            {"params": some, "weight_decay": decay} | ({} if scale == 1 else {"lr_scale": scale})
            for (scale, decay), some in others.items()
        ]
        optimizers.append(torch.optim.AdamW(groups, **adamw))
    if matrices and config.matrices == "muon":
        optimizers.append(Muon(matrices, config.lr, config.momentum, config.weight_decay))
    elif matrices:
        optimizers.append(torch.optim.AdamW(matrices, weight_decay=config.weight_decay, **adamw))
    return optimizers
