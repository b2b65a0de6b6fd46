"""Who runs in the next pass, and where in the cache: plain Python, without a model.

A cache row holds one sequence. A finished request leaves its tokens in the row until somebody else needs the row: a
prompt that begins with the tokens of any row, running or not, takes over the row or copies that part of it. So the
earlier turns of a conversation, and a system prompt that many share, are computed once.
"""

from collections import deque
from collections.abc import Callable

import numpy as np

from minimind.engine.request import Request
from minimind.model.cache import Span

LEAST_REUSE = 8
"""Fewer common tokens are not worth a copy or a wait."""


class Scheduler:
    """Queue, rows and chunks.

    Args:
        rows: how many requests run at once.
        context: most tokens of a sequence.
        chunk: most prompt tokens of a pass.
        copy: is told to copy, from one cache row to another, the first so many tokens.
        exclusive: compute each chunk of a prompt in a pass of its own, and reuse nothing.
    """

    def __init__(
        self, rows: int, context: int, chunk: int, copy: Callable[[int, int, int], None], exclusive: bool = False
    ) -> None:
        self.rows, self.chunk, self.exclusive = rows, chunk, exclusive
        self.waiting: deque[Request] = deque()
        self.running: dict[int, Request] = {}
        """Row to request."""
        self._copy = copy
        self._tokens = np.full((rows, context), -1, dtype=np.int64)
        """What each row holds, and what the running request will put there."""
        self._computed = [0] * rows
        """How many of them are in the cache."""
        self._owners: list[tuple[str | None, str]] = [(None, "")] * rows
        """Whose keys and values these are, by variant and salt: another variant's are of no use."""
        self._last_used = [0] * rows
        self._clock = 0

    def add(self, request: Request) -> None:
        """Put a request at the end of the queue."""
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forget a request that has finished or was cancelled; its row is free at once."""
        row = next((row for row, other in self.running.items() if other is request), None)
        if row is None:
            if request in self.waiting:
                self.waiting.remove(request)
            return
        del self.running[row]
        self._clock += 1
        self._last_used[row] = self._clock
        self._tokens[row, self._computed[row] :] = -1

    def plan(self) -> list[Span]:
        """Admit who finds a free row, and choose the tokens of the next pass.

        Every running sequence whose prompt is through gets its newest token; prompts share what `chunk` leaves, first
        come first served, so that a long one delays the others by no more than a chunk a token.
        """
        self._admit()
        newest = [self._span(row, 1) for row in sorted(self.running) if self._left(row) == 1]
        stretches, budget = [], self.chunk
        for row in self.running:
            if self._left(row) > 1 and budget:
                stretches.append(self._span(row, min(self._left(row), budget)))
                budget -= stretches[-1].end - stretches[-1].start
        if self.exclusive and stretches:
            return stretches[:1]
        return newest + stretches

    def ids(self, row: int, start: int, end: int) -> list[int]:
        """Token ids of a span."""
        return self._tokens[row, start:end].tolist()

    def advance(self, span: Span) -> Request | None:
        """Note that a span is in the cache; return its request if that was all it had, so that it needs a token."""
        self._computed[span.row] = span.end
        request = self.running[span.row]
        return request if span.end == len(request) else None

    def append(self, request: Request, row: int) -> None:
        """Note the newest token of a running request."""
        self._tokens[row, len(request) - 1] = request.tokens[-1].id

    def flush(self) -> None:
        """Forget everything computed (the weights have changed); running requests compute their tokens again.

        Which row was used last is forgotten too: what comes next is then done as by a new engine, in the same order and
        so with the same bits (a run of reinforcement learning that is resumed has a new one).
        """
        self._computed = [0] * self.rows
        self._last_used = [0] * self.rows
        for row in range(self.rows):
            if row not in self.running:
                self._tokens[row] = -1

    @property
    def free_rows(self) -> int:
        """How many more requests could run."""
        return self.rows - len(self.running)

    def _span(self, row: int, tokens: int) -> Span:
        return Span(row, self._computed[row], self._computed[row] + tokens)

    def _left(self, row: int) -> int:
        return len(self.running[row]) - self._computed[row]

    def _admit(self) -> None:
        for request in list(self.waiting):
            if not self.free_rows:
                return
            ids = np.array(request.prompt_ids)
            owner = (request.variant, request.salt)
            source, shared = (0, 0) if request.reads_prompt else self._longest_prefix(ids, owner)
            common = min(shared, self._computed[source])
            if shared - common >= LEAST_REUSE:
                continue  # its beginning is being computed for another request: wait for that
            self.waiting.remove(request)
            row = self._choose_row(source, common)
            if row != source and common:
                self._copy(source, row, common)
            self._tokens[row] = -1
            self._tokens[row, : len(ids)] = ids
            self._computed[row] = request.cached_tokens = common
            self._owners[row] = owner
            self.running[row] = request

    def _longest_prefix(self, ids: np.ndarray, owner: tuple[str | None, str]) -> tuple[int, int]:
        """The row that begins most like `ids`, and for how many tokens (the last is left: its logits are needed)."""
        if self.exclusive or len(ids) <= LEAST_REUSE:
            return 0, 0
        differs = self._tokens[:, : len(ids) - 1] != ids[:-1]
        lengths = np.where(differs.any(1), differs.argmax(1), len(ids) - 1)
        lengths[[row for row, other in enumerate(self._owners) if other != owner]] = 0
        # Among equals, one that is computed, and that nobody runs in: it can be taken over without a copy.
        best = max(range(self.rows), key=lambda row: (lengths[row], self._computed[row], row not in self.running))
        return (best, int(lengths[best])) if lengths[best] >= LEAST_REUSE else (0, 0)

    def _choose_row(self, source: int, common: int) -> int:
        """A free row: the source itself if little else is in it, else an empty one, else the one longest unused."""
        free = [row for row in range(self.rows) if row not in self.running]
        if source in free and common > self._computed[source] // 2:
            return source
        return min(free, key=lambda row: (row == source and common > 0, self._computed[row] > 0, self._last_used[row]))
