"""What goes into the engine and what comes out of it."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from minimind.engine.sampling import Sampling, ScoredToken
from minimind.errors import UsageError

FinishReason = Literal["stop", "length", "abort", "error"]


class PromptTooLong(UsageError):
    """A prompt leaves no room for an answer; `tokens` and `context` are the numbers."""

    def __init__(self, tokens: int, context: int) -> None:
        super().__init__(f"the prompt has {tokens} tokens, but the context is {context}: shorten the prompt")
        self.tokens, self.context = tokens, context


class Token(NamedTuple):
    """One generated token; log-probabilities are in nats."""

    id: int
    logprob: float
    """Under the model itself."""
    policy_logprob: float
    """Under the distribution that it was drawn from (temperature, penalties, filters, grammar)."""
    top: list[tuple[int, float]]
    """The likeliest tokens under the model itself, as many as `Sampling.top_logprobs`, likeliest first."""
    version: int
    """How often the engine's weights had been replaced when it was drawn."""


@dataclass(eq=False)
class Request:
    """One answer being written; the engine fills in everything below `index`."""

    prompt_ids: list[int]
    sampling: Sampling
    seed: int
    """Of this answer alone: each of several answers to one prompt has another."""
    limit: int
    """Most tokens that prompt and answer may have together."""
    variant: str | None = None
    """Which of the engine's variants answers; None: its model."""

    salt: str = ""
    """Computed prefixes are shared among requests of one salt alone: how long an answer takes tells nobody else."""

    tokens: list[Token] = field(default_factory=list)
    text: str = ""
    """Of the answer, as far as it can no longer change: whole characters, without special tokens and stop strings."""
    finish_reason: FinishReason | None = None
    stop: str | int | None = None
    """The stop string or token id that ended it."""
    error: str = ""
    """Why it ended with "error": the grammar became too much to follow, or nothing could come next."""
    cached_tokens: int = 0
    """How many tokens of the prompt were found in the cache."""
    prompt_tokens: list[ScoredToken | None] = field(default_factory=list)
    """With `Sampling.prompt_logprobs`, one for each token of the prompt; the first, which nothing predicts, is None."""
    state_sum: Tensor | None = None
    """With `Sampling.embed`, the sum of the states of the prompt's tokens, float32 `[hidden]`."""

    pages: list[int] = field(default_factory=list)
    """Its block table: the pages of the cache that hold its tokens, in their order."""
    computed: int = 0
    """How many of its tokens are in the cache."""
    page_names: list[bytes] = field(default_factory=list)
    """What is in its full pages (`engine/pages.py`)."""

    @property
    def reads_prompt(self) -> bool:
        """Whether every token of the prompt is of interest, so that none may come from the cache."""
        return self.sampling.embed or self.sampling.prompt_logprobs is not None

    @property
    def ids(self) -> list[int]:
        """The answer's token ids, a stop token included."""
        return [token.id for token in self.tokens]

    def ids_at(self, start: int, end: int) -> list[int]:
        """Token ids at positions `start` to `end - 1` of prompt and answer."""
        prompt = len(self.prompt_ids)
        said = self.tokens[max(0, start - prompt) : max(0, end - prompt)]
        return self.prompt_ids[start:end] + [token.id for token in said]

    def __len__(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt_ids) + len(self.tokens)


class Output(NamedTuple):
    """What one step added to one request."""

    request: Request
    token: Token | None
    """None only where a request ended without one: cancelled, or asked for no token."""
    text: str
    """Text that became certain with this token; may be empty, or more than the token's own."""
    finish_reason: FinishReason | None
