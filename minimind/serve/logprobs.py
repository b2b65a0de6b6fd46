"""Tokens and their log-probabilities in OpenAI's form."""

from typing import Any

from minimind.engine.request import Token
from minimind.tokenizer.bpe import Tokenizer

FLOOR = -9999.0
"""What OpenAI writes for a token of probability zero: JSON has no minus infinity."""


class TokenNames:
    """Writes token ids as clients see them; a token that is part of a character has a `bytes` that says so."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.bytes = tokenizer.token_bytes

    def name(self, id: int) -> str:
        """The token's text."""
        return self.bytes(id).decode("utf-8", "replace")

    def entry(self, token: Token) -> dict[str, Any]:
        """An element of `logprobs.content`."""
        top = [self._named(id, logprob) for id, logprob in token.top]
        return {**self._named(token.id, token.logprob), "top_logprobs": top}

    def _named(self, id: int, logprob: float) -> dict[str, Any]:
        return {"token": self.name(id), "logprob": max(logprob, FLOOR), "bytes": list(self.bytes(id))}
