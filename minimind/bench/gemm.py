"""How fast the machine multiplies matrices of a model's own shapes: what its training can at best reach."""

import time
from collections import Counter
from typing import NamedTuple

import torch

from minimind import runtime
from minimind.config import ModelConfig
from minimind.losses.lm import rows_of_logits

PUBLISHED = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12, "RTX 3090": 71e12}
"""bfloat16 FLOP/s without sparsity, from the makers' data sheets (SXM boards)."""


class Product(NamedTuple):
    """A weight matrix `[outer, inner]` and how many tokens go through it at a time."""

    tokens: int
    inner: int
    outer: int

    @property
    def flops(self) -> float:
        """Of the forward product, the gradient of its input and that of its weight."""
        return 3 * 2.0 * self.tokens * self.inner * self.outer


def products(config: ModelConfig, tokens: int) -> Counter[Product]:
    """Every weight product of a training step on `tokens` tokens, and how often it is done."""
    hidden = config.hidden_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    found: Counter[Product] = Counter()
    for layer in range(config.num_hidden_layers):
        found += Counter([Product(tokens, hidden, queries), Product(tokens, queries, hidden)])
        found[Product(tokens, hidden, keys)] += 2
        experts, rows, width = 1, tokens, config.intermediate_size
        if config.is_sparse(layer):
            experts, width = config.num_experts, config.moe_intermediate_size
            rows = max(1, tokens * config.num_experts_per_tok // experts)
        found[Product(rows, hidden, width)] += 2 * experts
        found[Product(rows, width, hidden)] += experts
    rows = rows_of_logits(tokens)
    found[Product(rows, hidden, config.vocab_size)] += max(1, tokens // rows)
    return found


def rate(config: ModelConfig, tokens: int, on: torch.device, dtype: torch.dtype, tries: int = 4) -> float:
    """FLOP/s of all those products together, each at the best of several tries."""
    flops = seconds = 0.0
    for product, times in products(config, tokens).items():
        flops += times * product.flops
        seconds += times * _seconds(product, on, dtype, tries)
    return flops / seconds


def published_rate(on: torch.device) -> float | None:
    """What the data sheet of a known GPU promises, in FLOP/s."""
    if on.type != "cuda":
        return None
    name = torch.cuda.get_device_name(on)
    return next((flops for known, flops in PUBLISHED.items() if known in name), None)


def _seconds(product: Product, on: torch.device, dtype: torch.dtype, tries: int) -> float:
    """The three products as autograd does them: y = x wᵀ, dx = dy w, dw = dyᵀ x."""
    x = torch.randn(product.tokens, product.inner, dtype=dtype, device=on)
    w = torch.randn(product.outer, product.inner, dtype=dtype, device=on)
    dy = torch.randn(product.tokens, product.outer, dtype=dtype, device=on)
    best = float("inf")
    for _ in range(tries + 1):  # the first one warms up and is never the best
        runtime.synchronize(on)
        start = time.perf_counter()
        x @ w.t()
        dy @ w
        dy.t() @ x
        runtime.synchronize(on)
        best = min(best, time.perf_counter() - start)
    return best
