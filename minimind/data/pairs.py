"""Preference pairs in packed rows: of each pair the prompt once, then both answers, which do not see each other.

A pair is a document of the row, its answers are branches of it (`model.attend.Segments`), so what is computed is
exactly what two separate conversations would give, for less.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from minimind.data.packing import PackedStream
from minimind.losses.lm import IGNORE
from minimind.model.attend import Segments


class PairBatch(NamedTuple):
    """Packed rows of whole pairs, each tensor [rows, sequence_length]; the first four as in `packing.Batch`."""

    input_ids: Tensor
    labels: Tensor
    positions: Tensor
    """int64; both answers go on from the prompt's."""
    document_ids: Tensor
    """int32, the number of the pair in its row; -1 on padding."""
    branches: Tensor
    """uint8: 0 the prompt, 1 the chosen answer, 2 the rejected one; 0 on padding."""
    reference: Tensor
    """float32, log-probability of each label under the reference model; 0 where there is none."""
    host: Any = None

    @property
    def on_host(self) -> "PairBatch":
        """The same in the host's memory."""
        return self.host or self

    @property
    def num_items(self) -> int:
        """The pairs: what the sum of their losses is divided by."""
        return int((self.on_host.document_ids.amax(1) + 1).sum())

    @property
    def segments(self) -> Segments:
        """Who sees whom."""
        return Segments(self.document_ids, self.positions, self.branches)  # branches need a mask, made on the device

    def answer_sums(self, values_BT: Tensor) -> Tensor:
        """Add up `values_BT` over the supervised tokens of each answer: [P, 2], the pairs row by row."""
        return self._sums(values_BT, self.labels != IGNORE)

    def last_tokens(self, values_BT: Tensor) -> Tensor:
        """Take from `values_BT` what is at the last token of each answer: [P, 2], the pairs row by row."""
        here_BT = self.document_ids * 3 + self.branches
        ends_BT = torch.ones_like(here_BT, dtype=torch.bool)
        ends_BT[:, :-1] = here_BT[:, 1:] != here_BT[:, :-1]
        return self._sums(values_BT, ends_BT & (self.branches > 0))

    def _sums(self, values_BT: Tensor, chosen_BT: Tensor) -> Tensor:
        """Add up what is chosen of each answer; the rest goes to an answer behind the last one."""
        pairs_B, answers = self.document_ids.amax(1) + 1, 2 * self.num_items
        first_B1 = (pairs_B.cumsum(0) - pairs_B)[:, None]
        answer_BT = (2 * (first_B1 + self.document_ids) + self.branches - 1).where(chosen_BT, answers)
        sums = torch.zeros(answers + 1, dtype=values_BT.dtype, device=values_BT.device)
        return sums.index_add(0, answer_BT.flatten(), values_BT.flatten())[:-1].view(-1, 2)


Place = tuple[list[int], list[int]]
"""Where in the corpus the pairs of a row begin, and their lengths."""


class PairStream(PackedStream):
    """The packed stream of pairs: its documents are pairs, and none is ever cut."""

    reference: np.ndarray | None = None
    """Log-probability of each token of the corpus under the reference model, float32; without it batches have 0."""

    def epoch(self, rows: int) -> Iterator[tuple[list[Place], PairBatch]]:
        """Every pair once, at most `rows` rows at a time, and where they come from; the stream stays where it is."""
        order = self._permutation(0)
        for window in range(self._windows):
            packed = self._pack(window, order[window * self.window : (window + 1) * self.window])
            bounds = zip(packed.first, packed.first[1:], strict=False)
            places = [(packed.start[a:b].tolist(), packed.length[a:b].tolist()) for a, b in bounds]
            for first in range(0, len(places), rows):
                yield places[first : first + rows], self._assemble(places[first : first + rows])

    def _assemble(self, rows: list[Place]) -> PairBatch:  # type: ignore[override]
        texts = super()._assemble(rows)
        branches_BT = np.zeros(texts.labels.shape, np.uint8)
        reference_BT = np.zeros(texts.labels.shape, np.float32)
        for row, (starts, lengths) in enumerate(rows):
            begin = 0
            for start, length in zip(starts, lengths, strict=True):
                here = slice(begin, begin + length)
                branches_BT[row, here] = branches = self.shards.read_branches(start, length)
                texts.positions[row, here] -= torch.from_numpy((branches == 2) * int((branches == 1).sum()))
                if self.reference is not None:
                    reference_BT[row, here] = self.reference[start : start + length]
                begin += length
        return PairBatch(*texts[:4], torch.from_numpy(branches_BT), torch.from_numpy(reference_BT))
