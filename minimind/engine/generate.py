"""The one loop that generates: prompts go into a pool, completions come out as each of them ends, and more may follow.

A list of prompts, dialogues in which tools answer, episodes of reinforcement learning: all are this loop, so that none
of them waits for another, and what was computed for a turn is still in the cache for the next.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch

from minimind.engine.engine import Engine
from minimind.engine.request import Request
from minimind.engine.sampling import Sampling
from minimind.model.qwen3 import Transformer

Status = Literal["completed", "truncated", "aborted", "failed"]
ENDED: dict[str | None, Status] = {"stop": "completed", "length": "truncated", "abort": "aborted", "error": "failed"}


class Completion(NamedTuple):
    """What was generated after one prompt, its end token included."""

    ids: list[int]
    log_probs: list[float]
    """Of each id (nats), under the distribution that it was drawn from."""
    versions: list[int]
    """The weights that each id was drawn with."""
    status: Status

    @classmethod
    def of(cls, request: Request) -> "Completion":
        """What an engine has written for a request that has ended."""
        tokens = request.tokens
        log_probs, versions = [token.policy_logprob for token in tokens], [token.version for token in tokens]
        return cls(request.ids, log_probs, versions, ENDED[request.finish_reason])


class Pool(Protocol):
    """Where prompts are completed: an engine in this process, or a server."""

    def submit(self, key: Any, prompt_ids: Sequence[int], sampling: Sampling) -> None:
        """Ask for a completion; `key` comes back with it."""

    def finished(self) -> Iterator[tuple[Any, Completion]]:
        """Every completion that was asked for, as each ends; more may be submitted in between."""


class EnginePool:
    """An engine in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._running: dict[Request, Any] = {}

    @property
    def version(self) -> int:
        """How often the engine's weights were changed."""
        return self.engine.version

    @version.setter
    def version(self, version: int) -> None:
        self.engine.version = version

    def submit(self, key: Any, prompt_ids: Sequence[int], sampling: Sampling) -> None:
        """Ask for a completion; `key` comes back with it."""
        self._running[self.engine.submit(prompt_ids, sampling)] = key

    def finished(self) -> Iterator[tuple[Any, Completion]]:
        """Every completion that was asked for, as each ends; more may be submitted in between."""
        while self._running:
            for output in self.engine.step():
                if output.finish_reason and output.request in self._running:
                    yield self._running.pop(output.request), Completion.of(output.request)


Ask = tuple[Sequence[int], Sampling]
"""A prompt, and the rules by which it is completed."""


K = TypeVar("K")


def generate(pool: Pool, first: Iterable[tuple[K, Ask]], follow: Callable[[K, Completion], Ask | None]) -> Iterator[K]:
    """Complete each prompt of `first`; `follow` takes its completion and says what is asked next, None at the end.

    Yields the key of each when nothing follows any more.
    """
    for key, ask in first:
        pool.submit(key, *ask)
    for key, completion in pool.finished():
        following = follow(key, completion)
        if following is None:
            yield key
        else:
            pool.submit(key, *following)


def complete(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling | None = None,
    stop_ids: Collection[int] = (),
    max_new_tokens: int = 256,
    batch_size: int = 64,
    dtype: torch.dtype | None = None,
) -> list[list[int]]:
    """The ids that follow each prompt, without text.

    They end with a token of `stop_ids` (included), after `max_new_tokens`, or where the model's context is full. With a
    seed, prompt i draws from the seed's i-th stream.

    Raises:
        UserError: a prompt is empty, fills the context, or holds an id outside the vocabulary.
    """
    if not prompts:
        return []
    sampling = replace(sampling or Sampling(), stop_ids=tuple(stop_ids), max_new_tokens=max_new_tokens)
    context = max(map(len, prompts)) + max_new_tokens + 1
    engine = Engine(model, max_batch_size=min(batch_size, len(prompts)), context=context, dtype=dtype)
    requests = [engine.submit(prompt, sampling, index) for index, prompt in enumerate(prompts)]
    for _ in engine.run():
        pass
    return [request.ids for request in requests]
