"""Log-probabilities of sampled tokens under the trainer's models: the policy as it sampled, and the reference."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from minimind import ranks
from minimind.engine.sampling import Sampling, filter_mask
from minimind.losses.log_probs import LogProbs, token_log_probs
from minimind.model import lora
from minimind.model.qwen3 import Hidden, Transformer
from minimind.rl.batch import Packed, PolicyBatch, pad_rows
from minimind.train.job import split, to_device
from minimind.train.precision import Precision


def compute_log_probs(model: Transformer, batch: Any, sampling: Sampling) -> tuple[LogProbs, Hidden]:
    """Log-probabilities of a batch's sampled tokens under what `sampling` draws from, and the states."""
    hidden = model(batch.input_ids, batch.segments)
    filters = sampling.top_k or sampling.top_p < 1 or sampling.min_p
    keep = partial(filter_mask, sampling=sampling) if filters else None
    weight, temperature = model.output_weight, sampling.temperature
    return token_log_probs(hidden.states, weight, batch.on_host.labels, temperature, keep=keep), hidden


class LogProbRunner:
    """Runs models over packed batches, in the same pieces and number format as training does.

    So the old log-probability of a token is, to the bit, the one that the first training step computes: r = 1.

    Args:
        policy: the model that is trained.
        reference: the model that the policy may not leave, if there is one; the policy itself where an adapter is
            trained, for the reference is then its base.
        sampling: the rules by which answers are sampled.
        precision: the run's.
        rows: how many are computed at once.
        on_policy: whether each rollout makes a single step. The policy that learns is then the one that sampled, and
            need not be asked before; every ratio is 1, and no clip acts.
    """

    def __init__(
        self,
        policy: Transformer,
        reference: Transformer | None,
        sampling: Sampling,
        precision: Precision,
        rows: int,
        on_policy: bool = False,
    ) -> None:
        self.policy, self.reference, self.sampling = policy, reference, sampling
        self.precision, self.rows, self.on_policy = precision, rows, on_policy

    def with_log_probs(self, packed: Packed) -> Packed:
        """Fill in `old_log_probs` and `reference_log_probs`; all ranks do, with as many rows as the longest has."""
        batch = pad_rows(packed.batch, max(ranks.all_gather(len(packed.batch.labels))))
        if not self.on_policy or self.reference is not None:
            batch = batch._replace(old_log_probs=self.log_probs(self.policy, batch))
        if self.reference is not None:
            with lora.off(self.policy) if self.reference is self.policy else nullcontext():
                batch = batch._replace(reference_log_probs=self.log_probs(self.reference, batch))
        return packed._replace(batch=batch)

    def log_probs(self, model: Transformer, batch: PolicyBatch) -> Tensor:
        """Of every sampled token, `[rows, time]`."""
        return self.run(model, batch, lambda piece: compute_log_probs(model, piece, self.sampling)[0].log_probs)

    def run(self, model: torch.nn.Module, batch: PolicyBatch, function: Callable[[PolicyBatch], Tensor]) -> Tensor:
        """Map micro-batches to columns `[rows, time]`, `model` without dropout.

        Not under `no_grad`: there attention runs another kernel, with other last bits. The graph is dropped unused.
        """
        training, columns = model.training, []
        model.eval()
        try:
            with self.precision.autocast():
                for piece in split(batch, self.rows):
                    columns.append(function(to_device(piece, self.precision.device)).detach().float())
        finally:
            model.train(training)
        return torch.cat(columns).cpu()
