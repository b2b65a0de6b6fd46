"""From samples to rows that the training loop takes: packed, with what the policy loss needs at each token."""

import base64
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minimind.data.packing import best_fit
from minimind.losses.lm import IGNORE
from minimind.losses.policy import Normalise, token_weights
from minimind.rl.rollout import Sample


class PolicyBatch(NamedTuple):
    """Packed samples, each tensor [rows, time] but for the last.

    Whatever belongs to a sampled token stands where it is predicted, one place before the token itself.
    """

    input_ids: Tensor
    labels: Tensor
    """The next token where the policy chose it, else -100."""
    positions: Tensor
    document_ids: Tensor
    engine: Tensor
    """Log-probabilities under the engine that sampled."""
    old: Tensor
    """Under the trainer's model at that time."""
    reference: Tensor
    """Under the reference model."""
    values: Tensor
    """The critic's at that time."""
    returns: Tensor
    """What they should have been."""
    advantages: Tensor
    weights: Tensor
    """What each token counts (`losses.policy.token_weights`)."""
    shares: Tensor
    """[rows, 1]: each row's share of what the step's sum is divided by."""

    @property
    def weight(self) -> int:
        """What the sum of the losses is divided by: answers or tokens, as the algorithm says."""
        return round(float(self.shares.sum()))

    @property
    def mask(self) -> Tensor:
        """True where the policy chose the next token."""
        return self.labels != IGNORE

    @property
    def sequences(self) -> Tensor:
        """A number for each sample, at each of its tokens; padding has that of the row's first."""
        rows, length = self.labels.shape
        first = torch.arange(rows, device=self.labels.device)[:, None] * length
        return first + self.document_ids.clamp(min=0)


class Packed(NamedTuple):
    """A batch and where in it each sample is: its row, the place of its first token."""

    batch: PolicyBatch
    rows: list[int]
    starts: list[int]

    def gather(self, column: Tensor, samples: Sequence[Sample]) -> list[Tensor]:
        """What a column `[rows, time]` holds for each id of each sample."""
        return [
            column[row, start + len(sample.prompt_ids) - 1 :][: len(sample.ids)]
            for row, start, sample in zip(self.rows, self.starts, samples, strict=True)
        ]

    def scatter(self, values: Sequence[Any], samples: Sequence[Sample]) -> Tensor:
        """A column from what belongs to each id of each sample: a tensor, a list, or one number for all."""
        column = torch.zeros(self.batch.labels.shape)
        for place, value in zip(self.gather(column, samples), values, strict=True):
            place[:] = torch.as_tensor(value, dtype=column.dtype)
        return column.where(self.batch.mask, 0)


def pack(samples: Sequence[Sample], length: int, normalise: Normalise, longest: int) -> Packed:
    """Put samples into rows of `length` tokens, whole; advantages and the models' columns are 0 still.

    normalise, longest: as in `losses.policy.token_weights`.
    """
    sizes = [len(sample.prompt_ids) + len(sample.ids) for sample in samples]
    row_of = best_fit(sizes, length)
    shape = (int(row_of.max()) + 1 if samples else 1, length)
    ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
    positions, documents = np.zeros(shape, np.int64), np.full(shape, -1, np.int32)
    answers, filled, nth = np.zeros(shape, np.int64), [0] * shape[0], [0] * shape[0]
    starts = []
    for number, (sample, row, size) in enumerate(zip(samples, row_of.tolist(), sizes, strict=True)):
        start = filled[row]
        place = slice(start, start + size)
        ids[row, place] = sample.prompt_ids + sample.ids
        positions[row, place], documents[row, place], answers[row, place] = np.arange(size), nth[row], number
        chosen = labels[row, start + len(sample.prompt_ids) - 1 :][: len(sample.ids)]
        chosen[:] = np.where(sample.trainable, sample.ids, IGNORE)
        starts.append(start)
        filled[row], nth[row] = start + size, nth[row] + 1
    numbers = torch.from_numpy(answers)
    weights, share = token_weights(torch.from_numpy(labels) != IGNORE, numbers, normalise, longest)
    shares = torch.zeros(shape[0])
    if samples:
        shares.index_add_(0, torch.from_numpy(row_of), share[: len(samples)])
    tensors = [torch.from_numpy(array) for array in (ids, labels, positions, documents)]
    columns = [torch.zeros(shape) for _ in range(6)]
    batch = PolicyBatch(*tensors, *columns, weights, shares[:, None])  # type: ignore[call-arg]  # it counts no stars
    packed = Packed(batch, row_of.tolist(), starts)
    engine = packed.scatter([sample.log_probs for sample in samples], samples)
    return packed._replace(batch=batch._replace(engine=engine))


def pad_rows(batch: PolicyBatch, rows: int) -> PolicyBatch:
    """The same batch with empty rows behind it: all ranks need as many passes as the longest."""
    more = rows - len(batch.labels)
    if not more:
        return batch
    fill = {"labels": IGNORE, "document_ids": -1}
    columns = {
        name: torch.cat([column, column.new_full((more, *column.shape[1:]), fill.get(name, 0))])
        for name, column in batch._asdict().items()
    }
    return PolicyBatch(**columns)


def encode(batch: PolicyBatch) -> list[Any]:
    """A batch as JSON can hold it, to the bit."""
    return [
        [str(array.dtype), list(array.shape), base64.b64encode(array.tobytes()).decode("ascii")]
        for array in (column.numpy() for column in batch)
    ]


def decode(columns: Sequence[Any]) -> PolicyBatch:
    """What `encode` wrote."""
    arrays = [
        np.frombuffer(base64.b64decode(data), dtype=dtype).reshape(shape).copy() for dtype, shape, data in columns
    ]
    return PolicyBatch(*map(torch.from_numpy, arrays))
