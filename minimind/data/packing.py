"""Packing: rows of exactly `sequence_length` positions, filled with whole documents, hardly any of it padding.

An epoch is a seeded permutation of the documents, read window by window. Inside a window the longest document goes
first and every row is filled with what fits it best (`best_fit`; why it matters: Ding et al. 2024,
https://arxiv.org/abs/2404.10830), then the rows are shuffled. A text longer than a row is cut into row-long pieces,
each a document of its own; a conversation is never cut. Every document attends to itself alone: its positions start at
0 and `document_ids` tell it from its neighbours.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from minimind.data.shards import Shards
from minimind.errors import UserError
from minimind.losses.lm import IGNORE
from minimind.model.attend import Segments

WINDOW = 8192
"""Documents packed together."""


class Batch(NamedTuple):
    """Packed rows, each tensor [rows, sequence_length]."""

    input_ids: torch.Tensor
    """int64; 0 on padding."""
    labels: torch.Tensor
    """int64, the target of each position: the next token of the same document, or -100 (its end, unsupervised)."""
    positions: torch.Tensor
    """int64, from 0 in every document."""
    document_ids: torch.Tensor
    """int32, from 0 in every row; -1 on padding."""
    host: Any = None
    """Of a batch on a device, the one that it was copied from (`train.job.to_device`)."""

    @property
    def on_host(self) -> "Batch":
        """The same in the host's memory."""
        return self.host or self

    @property
    def num_items(self) -> int:
        """The supervised tokens: what the sum of their losses is divided by."""
        return int((self.on_host.labels != IGNORE).sum())

    @property
    def segments(self) -> Segments:
        """Who sees whom."""
        return Segments(self.document_ids, self.positions, host_ids=self.on_host.document_ids)


class _Rows(NamedTuple):
    """Packed pieces of one window, ordered by row: `first[r]:first[r + 1]` are those of row r."""

    start: np.ndarray
    length: np.ndarray
    first: np.ndarray


class PackedStream:
    """An endless stream of packed rows whose exact place can be saved, with one order for any number of ranks."""

    def __init__(self, shards: Shards, sequence_length: int, seed: int = 0, window: int = WINDOW) -> None:
        """Pack `shards` into rows of `sequence_length` tokens.

        Raises:
            UserError: there is no document, or a conversation is longer than a row.
        """
        if not shards.documents:
            raise UserError(f"{shards.folder}: there is no document to train on")
        if shards.has_mask and (longest := int(shards.lengths.max())) > sequence_length:
            raise UserError(
                f"{shards.folder} has a conversation of {longest} tokens, longer than a row of {sequence_length}; "
                f"prepare it with --max-length {sequence_length}, or raise data.sequence_length"
            )
        self.shards = shards
        self.sequence_length = sequence_length
        self.seed = seed
        self.window = window
        self._windows = math.ceil(shards.documents / window)
        self._start_at(0, 0, 0)

    @property
    def rows_per_epoch(self) -> int:
        """Rows of one epoch: exact where a window holds all documents, else estimated from the first window."""
        first = self._permutation(0)[: self.window]
        rows, tokens = len(self._pack(0, first).first) - 1, int(self.shards.lengths[first].sum(dtype=np.int64))
        return math.ceil(rows * self.shards.tokens / tokens)

    def next_batch(self, rows: int, rank: int = 0, world: int = 1) -> Batch:
        """Return the next `rows` rows of this rank: all ranks together take `rows * world` of the one global order."""
        spans = list(self._take(rows * world))
        return self._assemble(spans[rank * rows : (rank + 1) * rows])

    dry_batch = next_batch

    def state_dict(self) -> dict[str, Any]:
        """The exact place in the stream, in plain numbers."""
        return {
            "shards": self.shards.key,
            "packing": [self.sequence_length, self.seed, self.window],
            "position": [self._epoch, self._window, self._row],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved place.

        Raises:
            UserError: the state is of other data or another packing.
        """
        here = self.state_dict()
        if state["shards"] != here["shards"] or list(state["packing"]) != here["packing"]:
            raise UserError(
                "the checkpoint was trained on other data, row length or seed; restore them, or start anew with "
                "--resume never"
            )
        self._start_at(*state["position"])

    def _start_at(self, epoch: int, window: int, row: int) -> None:
        self._epoch, self._window, self._row = epoch, window, row
        self._order = self._permutation(epoch)
        self._packed = self._pack_window()

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.shards.documents)

    def _pack_window(self) -> _Rows:
        begin = self._window * self.window
        return self._pack(self._window, self._order[begin : begin + self.window], self._epoch)

    def _take(self, rows: int) -> Iterator[tuple[list[int], list[int]]]:
        """Starts and lengths of the pieces in each of the next `rows` rows."""
        for _ in range(rows):
            while self._row == len(self._packed.first) - 1:
                if self._window + 1 < self._windows:
                    self._window, self._row = self._window + 1, 0
                    self._packed = self._pack_window()
                else:
                    self._start_at(self._epoch + 1, 0, 0)
            pieces = slice(*self._packed.first[self._row : self._row + 2].tolist())
            self._row += 1
            yield self._packed.start[pieces].tolist(), self._packed.length[pieces].tolist()

    def _pack(self, window: int, documents: np.ndarray, epoch: int = 0) -> _Rows:
        """Rows of the documents' pieces; the rows in an order drawn from seed, epoch and window."""
        size = self.sequence_length
        start, length = self.shards.starts[documents], self.shards.lengths[documents].astype(np.int64)
        whole = length // size  # row-long pieces of each document: rows of their own
        nth = np.arange(int(whole.sum())) - np.repeat(np.cumsum(whole) - whole, whole)
        full_start = np.repeat(start, whole) + nth * size
        rest = length - whole * size
        left = np.flatnonzero(rest)
        row_of = np.concatenate([np.arange(len(full_start)), len(full_start) + best_fit(rest[left].tolist(), size)])
        start = np.concatenate([full_start, (start + whole * size)[left]])
        length = np.concatenate([np.full(len(full_start), size), rest[left]])

        rows = int(row_of.max()) + 1
        shuffled = np.random.default_rng([self.seed, epoch, window]).permutation(rows)[row_of]
        by_row = np.argsort(shuffled, kind="stable")
        first = np.concatenate([[0], np.cumsum(np.bincount(shuffled, minlength=rows))])
        return _Rows(start[by_row], length[by_row], first)

    def _assemble(self, rows: list[tuple[list[int], list[int]]]) -> Batch:
        shape = (len(rows), self.sequence_length)
        ids_BT = np.zeros(shape, np.int64)
        labels_BT = np.full(shape, IGNORE, np.int64)
        positions_BT = np.zeros(shape, np.int64)
        document_ids_BT = np.full(shape, -1, np.int32)
        count = np.arange(self.sequence_length)
        for row, (starts, lengths) in enumerate(rows):
            begin = 0
            for document, (start, length) in enumerate(zip(starts, lengths, strict=True)):
                end = begin + length
                ids_BT[row, begin:end] = ids = self.shards.read(start, length)
                labels = labels_BT[row, begin : end - 1]
                labels[:] = ids[1:]
                if self.shards.has_mask:
                    labels[~self.shards.read_mask(start, length)[1:]] = IGNORE
                positions_BT[row, begin:end] = count[:length]
                document_ids_BT[row, begin:end] = document
                begin = end
        return Batch(*map(torch.from_numpy, (ids_BT, labels_BT, positions_BT, document_ids_BT)))


def best_fit(lengths: list[int], size: int) -> np.ndarray:
    """Row of each piece, `[pieces]`; no length is over `size`.

    A row takes the longest piece that still fits, again and again; but where two pieces fill what is left exactly, it
    takes those. The lengths that are left are the bits of one integer, so a look-up costs a few shifts: `mirror` has
    them in reverse, so that shifted by what the row already holds, its bit n says that a piece of `space - n` is left.
    """
    pieces_of: list[list[int]] = [[] for _ in range(size + 1)]
    present = mirror = 0
    for piece, length in enumerate(lengths):
        pieces_of[length].append(piece)
        present |= 1 << length
        mirror |= 1 << (size - length)
    row_of = np.empty(len(lengths), np.int64)

    def take(length: int) -> None:
        nonlocal present, mirror
        row_of[pieces_of[length].pop()] = row
        if not pieces_of[length]:
            present ^= 1 << length
            mirror ^= 1 << (size - length)

    row = 0
    while present:
        space = size
        while fitting := present & ((1 << (space + 1)) - 1):
            longest = fitting.bit_length() - 1
            exact = fitting & (mirror >> (size - space)) if longest < space else 0
            if space % 2 == 0 and len(pieces_of[space // 2]) == 1:
                exact &= ~(1 << (space // 2))  # its partner would be itself
            if exact:
                longer = exact.bit_length() - 1
                take(longer)
                take(space - longer)
                break
            take(longest)
            space -= longest
        row += 1
    return row_of
