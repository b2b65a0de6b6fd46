"""What people run today: transformers' Qwen3 in float32 with AdamW, each sample alone in a row of 340 tokens.

Eager, batch 8, gradients clipped to 1. Where that is a choice, the faster one is taken: no key-value cache, and no
attention mask, which right padding does not need.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minimind.config import ModelConfig
from minimind.data.shard_reader import Shards
from minimind.errors import optional
from minimind.losses.lm import IGNORE
from minimind.model.hf_config import config_to_hf
from minimind.model.qwen3 import Transformer

ROWS, LENGTH = 8, 340


def build(config: ModelConfig, seed: int) -> nn.Module:
    """Transformers' model of this shape, in float32, as it initialises it.

    Raises:
        UserError: transformers is not installed.
    """
    with optional(
        "the reference is transformers, which is not installed; get it with `pip install 'minimind[bench]'`, or "
        "leave the reference out with --no-reference"
    ):
        import transformers
    transformers.logging.set_verbosity_error()
    torch.manual_seed(seed)
    content = config_to_hf(config, dtype="float32") | {"use_cache": False}
    shape = transformers.AutoConfig.for_model(content.pop("model_type"), **content)
    model: nn.Module = transformers.AutoModelForCausalLM.from_config(shape, dtype=torch.float32)
    return model.train()


def as_ours(model: nn.Module, config: ModelConfig) -> Transformer:
    """The same weights (shared, not copied) in our dense model, to be evaluated by our functions."""
    with torch.device("meta"):
        ours = Transformer(config)
    weights = {name.removeprefix("model."): weight for name, weight in model.state_dict().items()}
    ours.load_state_dict({name: weights[name] for name, _ in ours.named_parameters()}, assign=True)
    return ours


class PaddedRows:
    """Documents in a seeded order, each cut to a row (keeping its end token) or padded to one; epoch after epoch."""

    def __init__(self, shards: Shards, seed: int = 0) -> None:
        self.shards, self.seed = shards, seed
        self.epoch, self.order = 0, np.zeros(0, np.int64)

    @property
    def tokens_per_row(self) -> float:
        """Real tokens of a row on average."""
        return float(np.minimum(self.shards.lengths, LENGTH).mean())

    def next_batch(self, rows: int) -> tuple[Tensor, Tensor]:
        """Token ids and labels (-100 on padding, not shifted: the model does that), int64 `[rows, LENGTH]`."""
        ids_BT = np.zeros((rows, LENGTH), np.int64)
        labels_BT = np.full((rows, LENGTH), IGNORE, np.int64)
        for row in range(rows):
            if not len(self.order):
                self.order = np.random.default_rng([self.seed, self.epoch]).permutation(self.shards.documents)
                self.epoch += 1
            document, self.order = int(self.order[0]), self.order[1:]
            start, size = int(self.shards.starts[document]), int(self.shards.lengths[document])
            ids = self.shards.read(start, size).astype(np.int64)
            if size > LENGTH:
                ids = np.append(ids[: LENGTH - 1], ids[-1])
            ids_BT[row, : len(ids)] = labels_BT[row, : len(ids)] = ids
        return torch.from_numpy(ids_BT), torch.from_numpy(labels_BT)


class Reference:
    """One optimizer step at a time."""

    def __init__(self, config: ModelConfig, shards: Shards, on: torch.device, lr: float = 5e-4, seed: int = 0) -> None:
        self.device = on
        self.model = build(config, seed).to(on)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr)
        self.rows = PaddedRows(shards, seed=seed)
        self.tokens = self.positions = 0

    def step(self, lr: float | None = None) -> int:
        """Train on the next batch, at another learning rate if one is given; return its real tokens."""
        if lr is not None:
            for group in self.optimizer.param_groups:
                group["lr"] = lr
        ids_BT, labels_BT = self.rows.next_batch(ROWS)
        output: Any = self.model(input_ids=ids_BT.to(self.device), labels=labels_BT.to(self.device))
        output.loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        real = int((labels_BT != IGNORE).sum())
        self.tokens += real
        self.positions += labels_BT.numel()
        return real

    @property
    def padding(self) -> float:
        """Share of the positions computed so far that held no token."""
        return 1 - self.tokens / self.positions if self.positions else math.nan
