"""From samples to rows that the training loop takes: packed, with what the policy loss needs at each token.

minibatches          which samples learn together
pack                 samples → rows: whole answers side by side, and what each token counts
compute_log_probs    of sampled tokens under a model
LogProbRunner        those under π_old and the reference, before the first step
"""

import base64
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minimind import ranks, runtime
from minimind.data.packing import best_fit
from minimind.engine.sampling import Sampling, filter_mask
from minimind.losses.lm import IGNORE
from minimind.losses.log_probs import LogProbs, token_log_probs
from minimind.losses.policy import Normalise, token_weights
from minimind.model import lora
from minimind.model.attend import Segments
from minimind.model.qwen3 import Hidden, Transformer
from minimind.rl.rollout import Sample
from minimind.train.job import split, to_device
from minimind.train.precision import Precision

MAX_BRANCHES = 255
"""Of a document: branches are numbered in uint8."""


class PolicyBatch(NamedTuple):
    """Packed samples, each tensor [rows, time] but for the last.

    Whatever belongs to a sampled token stands where it is predicted, one place before the token itself.
    """

    input_ids: Tensor
    labels: Tensor
    """The next token where the policy chose it, else -100."""
    positions: Tensor
    document_ids: Tensor
    branches: Tensor
    """0 but where answers share their prompt: each is a branch of one document (`model.attend.Segments`)."""
    answers: Tensor
    """Which of its row's samples a token belongs to; 0 on padding."""
    rollout_log_probs: Tensor
    """Log-probabilities under the engine that sampled; from `pack`, read by the importance weight."""
    old_log_probs: Tensor
    """Under the trainer's model before the rollout's first step; from `LogProbRunner`, the denominator of r. 0 where a
    rollout makes a single step and nothing else asks for it: the loss then takes its own."""
    reference_log_probs: Tensor
    """Under the reference model; from `LogProbRunner`, read by the KL term; 0 without a reference."""
    values: Tensor
    """The critic's before the rollout's first step; PPO only, like the next."""
    returns: Tensor
    """The critic's target: advantage + value."""
    advantages: Tensor
    """From the stage."""
    token_weights: Tensor
    """w, what each token counts; from `pack` (`losses.policy.token_weights`)."""
    row_items: Tensor
    """[rows, 1]: what each row adds to `num_items`."""
    host: Any = None
    """Of a batch on a device, the one that it was copied from (`train.job.to_device`)."""

    @property
    def on_host(self) -> "PolicyBatch":
        """The same in the host's memory."""
        return self.host or self

    @property
    def num_items(self) -> int:
        """What the sum of the losses is divided by: answers or tokens, as the algorithm says."""
        return round(float(self.on_host.row_items.sum()))

    @property
    def mask(self) -> Tensor:
        """True where the policy chose the next token."""
        return self.labels != IGNORE

    @property
    def sequences(self) -> Tensor:
        """A number for each sample, at each of its tokens; padding has that of the row's first."""
        rows, length = self.labels.shape
        return torch.arange(rows, device=self.labels.device)[:, None] * length + self.answers

    @property
    def segments(self) -> Segments:
        """Who sees whom. Without branches the attention may take a faster way."""
        branches = self.branches if bool(self.on_host.branches.any()) else None
        return Segments(self.document_ids, self.positions, branches, self.on_host.document_ids)


class Packed(NamedTuple):
    """Samples and the batch that they are in."""

    batch: PolicyBatch
    samples: Sequence[Sample]
    rows: list[int]
    """Which row each sample is in."""
    starts: list[int]
    """Where its first token is (if another has computed its prompt, where it would be)."""

    def gather(self, column: Tensor) -> list[Tensor]:
        """What a column `[rows, time]` holds for each id of each sample."""
        return [
            column[row, start + len(sample.prompt_ids) - 1 :][: len(sample.ids)]
            for row, start, sample in zip(self.rows, self.starts, self.samples, strict=True)
        ]

    def scatter(self, values: Sequence[Any] | Tensor) -> Tensor:
        """A column from what belongs to each id of each sample: a tensor, a list, or one number for all."""
        column = torch.zeros(self.batch.labels.shape)
        for place, value in zip(self.gather(column), values, strict=True):
            place[:] = torch.as_tensor(value, dtype=column.dtype)
        return column.where(self.batch.mask, 0)

    def with_columns(self, **columns: Tensor) -> "Packed":
        """The same with some columns of the batch replaced."""
        return self._replace(batch=self.batch._replace(**columns))


def minibatches(samples: Sequence[Sample], parts: int, seed: Sequence[int]) -> list[list[int]]:
    """Shuffle a rollout's samples and cut them into `parts` minibatches of nearly equal size: indices of each part.

    It is the samples of all ranks that are shuffled and cut, in the order of their groups, of which this rank gets the
    indices of its own: so a minibatch holds the same samples however many ranks there are.
    """
    groups = ranks.all_gather([sample.group for sample in samples])
    before = sum(map(len, groups[: runtime.rank()]))
    by_group = np.argsort(np.concatenate(groups), kind="stable") - before
    order = np.random.default_rng(seed).permutation(by_group)
    return [[int(i) for i in part if 0 <= i < len(samples)] for part in np.array_split(order, parts)]


def pack(
    samples: Sequence[Sample], length: int, normalise: Normalise, max_new_tokens: int, share_prompts: bool = False
) -> Packed:
    """Put samples into rows of `length` tokens, whole; advantages and the models' columns are 0 still.

    normalise, max_new_tokens: as in `losses.policy.token_weights`.
    share_prompts: the samples of a group become one document that branches at the prompt's last token, from which each
        sample's first is predicted: prompt[:-1] is computed once.
    """
    documents = _documents(samples, length, share_prompts)
    row_of = best_fit([_size(samples, document) for document in documents], length)
    shape = (int(row_of.max()) + 1 if documents else 1, length)
    ids, labels = np.zeros(shape, np.int64), np.full(shape, IGNORE, np.int64)
    positions, document_ids = np.zeros(shape, np.int64), np.full(shape, -1, np.int32)
    branches, answers, sample_of = np.zeros(shape, np.uint8), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    rows, starts = [0] * len(samples), [0] * len(samples)
    filled, documents_in, answers_in = [0] * shape[0], [0] * shape[0], [0] * shape[0]
    for document, row in zip(documents, row_of.tolist(), strict=True):
        for nth, number in enumerate(document):
            sample = samples[number]
            trunk = len(sample.prompt_ids) - 1
            text, first = (sample.prompt_ids + sample.ids)[trunk if nth else 0 :], trunk if nth else 0
            place = slice(filled[row], filled[row] + len(text))
            ids[row, place], positions[row, place] = text, np.arange(first, first + len(text))
            document_ids[row, place], answers[row, place] = documents_in[row], answers_in[row]
            rows[number], starts[number] = row, filled[row] - first
            sampled = slice(starts[number] + trunk, starts[number] + trunk + len(sample.ids))
            labels[row, sampled] = np.where(sample.trainable, sample.ids, IGNORE)
            if len(document) > 1:
                branches[row, sampled.start : place.stop] = nth + 1
            sample_of[row, place] = number
            filled[row], answers_in[row] = place.stop, answers_in[row] + 1
        documents_in[row] += 1
    mask, sample_of_RT = torch.from_numpy(labels) != IGNORE, torch.from_numpy(sample_of)
    weights, items = token_weights(mask, sample_of_RT, normalise, max_new_tokens)
    row_items = torch.zeros(shape[0])
    if samples:
        row_items.index_add_(0, torch.tensor(rows), items[: len(samples)])
    empty = torch.zeros(shape)
    batch = PolicyBatch(
        input_ids=torch.from_numpy(ids),
        labels=torch.from_numpy(labels),
        positions=torch.from_numpy(positions),
        document_ids=torch.from_numpy(document_ids),
        branches=torch.from_numpy(branches),
        answers=torch.from_numpy(answers),
        **dict.fromkeys(
            ("rollout_log_probs", "old_log_probs", "reference_log_probs", "values", "returns", "advantages"), empty
        ),
        token_weights=weights,
        row_items=row_items[:, None],
    )
    packed = Packed(batch, samples, rows, starts)
    return packed.with_columns(rollout_log_probs=packed.scatter([sample.log_probs for sample in samples]))


def _documents(samples: Sequence[Sample], length: int, share_prompts: bool) -> list[list[int]]:
    """Which samples make a document together: those of a prompt, as many as a row has room for."""
    documents: list[list[int]] = []
    open_: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for number, sample in enumerate(samples):
        key = (sample.group, tuple(sample.prompt_ids))
        document = open_.get(key, [])
        fits = _size(samples, [*document, number]) <= length and len(document) < MAX_BRANCHES
        if share_prompts and document and fits:
            document.append(number)
        else:
            open_[key] = [number]
            documents.append(open_[key])
    return documents


def _size(samples: Sequence[Sample], document: Sequence[int]) -> int:
    """Tokens of a document: the prompt but for its last token, then that token and the rest for each sample."""
    return len(samples[document[0]].prompt_ids) - 1 + sum(len(samples[number].ids) + 1 for number in document)


def compute_log_probs(model: Transformer, batch: Any, sampling: Sampling) -> tuple[LogProbs, Hidden]:
    """Log-probabilities of a batch's sampled tokens under what `sampling` draws from, and the states."""
    hidden = model(batch.input_ids, batch.segments)
    keep = partial(filter_mask, samplings=[sampling]) if sampling.filters else None
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
        single_step: whether each rollout makes a single step. π_old is then the model that learns, which need not be
            asked before; every ratio is 1, and no clip acts.
    """

    def __init__(
        self,
        policy: Transformer,
        reference: Transformer | None,
        sampling: Sampling,
        precision: Precision,
        rows: int,
        single_step: bool = False,
    ) -> None:
        self.policy, self.reference, self.sampling = policy, reference, sampling
        self.precision, self.rows, self.single_step = precision, rows, single_step

    def with_log_probs(self, packed: Packed) -> Packed:
        """Fill in `old_log_probs` and `reference_log_probs`; all ranks do, with as many rows as the longest has."""
        batch = pad_rows(packed.batch, max(ranks.all_gather(len(packed.batch.labels))))
        if not self.single_step or self.reference is not None:
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
        with runtime.evaluating(model), self.precision.autocast():
            pieces = (to_device(piece, self.precision.device) for piece in split(batch, self.rows))
            return torch.cat([function(piece).detach().float() for piece in pieces]).cpu()


def pad_rows(batch: PolicyBatch, rows: int) -> PolicyBatch:
    """The same batch with empty rows behind it: all ranks need as many passes as the longest."""
    more = rows - len(batch.labels)
    if not more:
        return batch
    fill = {"labels": IGNORE, "document_ids": -1}
    columns = {
        name: torch.cat([column, column.new_full((more, *column.shape[1:]), fill.get(name, 0))])
        for name, column in batch._asdict().items()
        if column is not None
    }
    return PolicyBatch(**columns)


def joined(parts: Sequence[PolicyBatch]) -> PolicyBatch:
    """One batch of all rows."""
    return PolicyBatch(*(torch.cat(columns) for columns in zip(*parts, strict=True) if columns[0] is not None))


def encode(batch: PolicyBatch) -> list[Any]:
    """A batch as JSON can hold it, to the bit."""
    return [
        [str(array.dtype), list(array.shape), base64.b64encode(array.tobytes()).decode("ascii")]
        for array in (column.numpy() for column in batch if column is not None)
    ]


def decode(columns: Sequence[Any]) -> PolicyBatch:
    """What `encode` wrote."""
    arrays = [
        np.frombuffer(base64.b64decode(data), dtype=dtype).reshape(shape).copy() for dtype, shape, data in columns
    ]
    return PolicyBatch(*map(torch.from_numpy, arrays))
