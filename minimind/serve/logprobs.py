"""Tokens and their log-probabilities in OpenAI's two forms, for chats and for texts, and in vLLM's for prompts."""

from collections.abc import Sequence
from typing import Any

from minimind.engine.request import Token
from minimind.engine.sampling import ScoredToken
from minimind.serve.errors import ApiError
from minimind.tokenizer.bpe import Tokenizer

FLOOR = -9999.0
"""What OpenAI writes for a token of probability zero: JSON has no minus infinity."""
MOST_SCORED = 2**16
"""Log-probabilities of prompts in one reply."""


def check_scored(prompts: Sequence[Sequence[int]], top: int | None) -> None:
    """Raise `ApiError` 400 where so many log-probabilities of prompts are no longer an answer but a burden."""
    wanted = 0 if top is None else sum(map(len, prompts)) * (1 + top)
    if wanted > MOST_SCORED:
        message = f"{wanted:,} log-probabilities of prompts are asked for, the most of one request are {MOST_SCORED:,}"
        raise ApiError(400, f"{message}: send fewer or shorter prompts, or a smaller number", "too_many_logprobs")


class TokenNames:
    """Writes token ids as clients see them; a token that is part of a character has a `bytes` that says so."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.bytes = tokenizer.token_bytes

    def name(self, id: int) -> str:
        """The token's text."""
        return self.bytes(id).decode("utf-8", "replace")

    def key(self, id: int) -> str:
        """The token's text, or where it is part of a character, its bytes: `bytes:\\xe5\\x93`."""
        data = self.bytes(id)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def entry(self, token: Token) -> dict[str, Any]:
        """An element of `logprobs.content`."""
        top = [self._named(id, logprob) for id, logprob in token.top]
        return {**self._named(token.id, token.logprob), "top_logprobs": top}

    def lists(self, placed: Sequence[tuple[int, int, Token | ScoredToken | None]]) -> dict[str, list[Any]]:
        """The four lists of `logprobs` of a text: of (offset, token id, how likely it was; None: nothing says)."""
        return {
            "text_offset": [offset for offset, *_ in placed],
            "tokens": [self.key(id) for _, id, _ in placed],
            "token_logprobs": [max(token.logprob, FLOOR) if token else None for *_, token in placed],
            "top_logprobs": [self._top(token) if token else None for *_, token in placed],
        }

    def prompt(self, tokens: Sequence[ScoredToken | None]) -> list[dict[str, Any] | None]:
        """`prompt_logprobs`: of each token of a prompt, itself and the likeliest in its place, by id."""
        return [self._ranked(token) if token else None for token in tokens]

    def _top(self, token: Token | ScoredToken) -> dict[str, float]:
        """The likeliest and the token itself; of two that are written alike, the likelier."""
        named: dict[str, float] = {}
        for id, logprob in [*token.top, (token.id, token.logprob)]:
            named.setdefault(self.key(id), max(logprob, FLOOR))
        return named

    def _ranked(self, token: ScoredToken) -> dict[str, Any]:
        ranked = [(rank, id, logprob) for rank, (id, logprob) in enumerate(token.top, 1)]
        return {
            str(id): {"logprob": max(logprob, FLOOR), "rank": rank, "decoded_token": self.name(id)}
            for rank, id, logprob in [(token.rank, token.id, token.logprob), *ranked]
        }

    def _named(self, id: int, logprob: float) -> dict[str, Any]:
        return {"token": self.name(id), "logprob": max(logprob, FLOOR), "bytes": list(self.bytes(id))}
