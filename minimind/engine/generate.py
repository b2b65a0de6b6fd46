"""Generation of a known list of prompts, without text: a thin use of the engine."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from minimind.engine.engine import Engine
from minimind.engine.sampling import Sampling
from minimind.model.qwen3 import Transformer


class Token(NamedTuple):
    """One generated token: the index of its prompt, its id, its log-probability (nats, the model's own)."""

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
    dtype: torch.dtype | None = None,
) -> Iterator[Token]:
    """Continue every prompt; yield tokens as they come, those of different rows interleaved.

    A row ends with a token of `stop_ids` (yielded too), after `max_new_tokens`, or where the model's context is full.
    With a seed, prompt i draws from the seed's i-th stream.

    Raises:
        UserError: a prompt is empty, fills the context, or holds an id outside the vocabulary.
    """
    if not prompts:
        return iter(())
    sampling = replace(sampling or Sampling(), stop_ids=tuple(stop_ids), max_new_tokens=max_new_tokens)
    longest = max(map(len, prompts)) + max_new_tokens
    engine = Engine(model, max_batch_size=min(batch_size, len(prompts)), context=longest + 1, dtype=dtype)
    requests = {engine.submit(prompt, sampling, index=row): row for row, prompt in enumerate(prompts)}
    tokens = ((output.request, output.token) for output in engine.run())
    return (Token(requests[request], token.id, token.logprob) for request, token in tokens if token)


def complete(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | None = None,
    stop_ids: Collection[int] = (),
    max_new_tokens: int = 256,
    batch_size: int = 64,
    dtype: torch.dtype | None = None,
) -> list[list[int]]:
    """Return what `generate` yields as one list of ids a prompt, stop token included."""
    answers: list[list[int]] = [[] for _ in prompts]
    for token in generate(model, prompts, sampling, stop_ids, max_new_tokens, batch_size, dtype):
        answers[token.row].append(token.token_id)
    return answers
