"""Batched generation: prefill the prompts once, then one token for every unfinished row a step.

Letters: B rows of a batch, T time, C hidden, V vocabulary.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from minimind.engine.sampling import Sampling, sample
from minimind.errors import UserError
from minimind.model.attention import Segments
from minimind.model.cache import KVCache
from minimind.model.rope import context_length
from minimind.model.transformer import Transformer


class Token(NamedTuple):
    """One generated token: the index of its prompt, its id, its log-probability (nats, natural distribution)."""

    row: int
    token_id: int
    logprob: float


def generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | None = None,
    stop_ids: Collection[int] = (),
    max_new_tokens: int = 256,
    batch_size: int = 64,
) -> Iterator[Token]:
    """Continue every prompt; yield tokens as they come, those of different rows interleaved.

    A row ends with a token of `stop_ids` (yielded too), after `max_new_tokens`, or where the model's context is full.
    Prompts are batched with others of like length, so rows do not come in order.

    Raises:
        UserError: a prompt is empty, fills the context, or holds an id outside the vocabulary.
    """
    context = context_length(model.config)
    for row, prompt in enumerate(prompts):
        if not prompt:
            raise UserError(f"prompt {row} is empty: give it at least one token")
        if len(prompt) >= context:
            raise UserError(
                f"prompt {row} has {len(prompt)} tokens, but the model's context is {context}: shorten the prompt"
            )
        if max(prompt) >= model.config.vocab_size or min(prompt) < 0:
            raise UserError(
                f"prompt {row} holds a token id outside the model's vocabulary of {model.config.vocab_size}"
            )
    return _generate(model, prompts, sampling or Sampling(), frozenset(stop_ids), max_new_tokens, batch_size)


def complete(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | None = None,
    stop_ids: Collection[int] = (),
    max_new_tokens: int = 256,
    batch_size: int = 64,
) -> list[list[int]]:
    """Return what `generate` yields as one list of ids a prompt, stop token included."""
    answers: list[list[int]] = [[] for _ in prompts]
    for token in generate(model, prompts, sampling, stop_ids, max_new_tokens, batch_size):
        answers[token.row].append(token.token_id)
    return answers


def _generate(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    stop_ids: frozenset[int],
    max_new_tokens: int,
    batch_size: int,
) -> Iterator[Token]:
    if max_new_tokens < 1:
        return
    noise = _noise(len(prompts), max_new_tokens, sampling)
    by_length = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for start in range(0, len(by_length), batch_size):
        yield from _Batch(model, prompts, by_length[start : start + batch_size], sampling, max_new_tokens).run(
            noise, stop_ids
        )


class _Batch:
    """Rows that are generated together; a finished row is dropped, and the last ones take its place in the cache."""

    def __init__(
        self,
        model: Transformer,
        prompts: Sequence[Sequence[int]],
        rows: Sequence[int],
        sampling: Sampling,
        max_new_tokens: int,
    ):
        weight = model.output_weight
        self.model, self.sampling, self.rows, self.device = model, sampling, list(rows), weight.device
        self.prompts = [prompts[row] for row in rows]
        context = context_length(model.config)
        self.lengths = [len(prompt) for prompt in self.prompts]
        self.ends = [min(length + max_new_tokens, context) for length in self.lengths]
        self.cache = KVCache(model.config, len(rows), max(self.ends), weight.dtype, self.device)
        self.seen_BV = self._seen() if sampling.repetition_penalty != 1 else None

    def run(self, noise: Tensor | None, stop_ids: frozenset[int]) -> Iterator[Token]:
        logits_BV = self._prefill()
        step = 0
        while True:
            uniform_B = noise[self.rows, step].to(self.device) if noise is not None else self._uniform()
            ids_B, logprobs_B = sample(logits_BV, self.sampling, uniform_B, self.seen_BV)
            ids, logprobs = ids_B.tolist(), logprobs_B.tolist()
            self.lengths = [length + 1 for length in self.lengths]
            state = zip(ids, self.lengths, self.ends, strict=True)
            alive = [i for i, (token, length, end) in enumerate(state) if token not in stop_ids and length < end]
            yield from map(Token, list(self.rows), ids, logprobs)
            if not alive:
                return
            if self.seen_BV is not None:
                self.seen_BV.scatter_(1, ids_B[:, None], True)
            if len(alive) < len(ids):
                ids_B = ids_B[self._keep(alive)]
            logits_BV = self._decode(ids_B)
            step += 1

    @torch.no_grad()
    def _prefill(self) -> Tensor:
        """Run the prompts, padded at the right, and return the logits after each one's last token."""
        longest = max(self.lengths)
        ids_BT = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in self.prompts])
        lengths_B = torch.tensor(self.lengths, device=self.device)
        self.cache.extent = longest
        segments = Segments.right_padded(lengths_B, longest)
        states_BTC = self.model(ids_BT.to(self.device), segments, self.cache).states
        return self.model.logits(states_BTC[torch.arange(len(lengths_B), device=self.device), lengths_B - 1])

    @torch.no_grad()
    def _decode(self, ids_B: Tensor) -> Tensor:
        """Run the tokens just chosen and return the logits after them."""
        positions_B1 = torch.tensor(self.lengths, device=self.device)[:, None] - 1
        self.cache.extent = max(self.lengths)
        segments = Segments(torch.zeros_like(positions_B1, dtype=torch.int32), positions_B1)
        return self.model.logits(self.model(ids_B[:, None], segments, self.cache).states[:, 0])

    @torch.no_grad()
    def _keep(self, alive: list[int]) -> list[int]:
        """Drop all rows but `alive`, moving as few as possible; return the old place of each row that stays."""
        count = len(alive)
        spare = [i for i in alive if i >= count]
        stays = set(alive)
        places = [i if i in stays else spare.pop() for i in range(count)]
        self.cache = self.cache.select(places)
        self.rows, self.lengths, self.ends = (
            [values[i] for i in places] for values in (self.rows, self.lengths, self.ends)
        )
        if self.seen_BV is not None:
            self.seen_BV = self.seen_BV[places]
        return places

    def _uniform(self) -> Tensor:
        return torch.rand(len(self.rows), device=self.device)

    def _seen(self) -> Tensor:
        seen_BV = torch.zeros(len(self.rows), self.model.config.vocab_size, dtype=torch.bool)
        for seen_V, prompt in zip(seen_BV, self.prompts, strict=True):
            seen_V[list(prompt)] = True
        return seen_BV.to(self.device)


def _noise(rows: int, steps: int, sampling: Sampling) -> Tensor | None:
    """Draw a seeded row's randomness from a generator of its own, `[rows, steps]`: so its neighbours cannot matter."""
    if sampling.seed is None or sampling.temperature == 0:
        return None
    generators = (torch.Generator().manual_seed((sampling.seed * 2**24 + row) % 2**63) for row in range(rows))
    return torch.stack([torch.rand(steps, generator=generator) for generator in generators])
