"""What the replies to chats and to texts have in common: the outer object, and how tokens are counted."""

import time
import uuid
from collections.abc import Sequence
from typing import Any

from minimind.serve.sampled import Sampled, StreamOptions
from minimind.serve.service import Service


class Frame:
    """What all chunks of one reply share; with `usage` a stream ends with a chunk that counts tokens, asked or not."""

    answers: Sequence[Any]
    """Each with its number of `tokens` so far."""
    prompt_tokens: int
    """Of all prompts; each counts once, however many answers there are to it."""
    cached_tokens = 0

    def __init__(self, kind: str, prefix: str, request: Sampled, service: Service, usage: bool) -> None:
        self.shared = {
            "id": f"{prefix}-{uuid.uuid4().hex}",
            "object": kind,
            "created": int(time.time()),
            "model": request.model or service.settings.model,
            "system_fingerprint": f"minimind-{service.engine.engine.version}",
        }
        options = request.stream_options or StreamOptions()
        self.counts = usage or bool(options.include_usage)
        self._always = bool(options.include_usage and options.continuous_usage_stats)

    def whole(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """The whole reply, or without choices the chunk that counts tokens."""
        return self.shared | {"choices": choices, "usage": self.usage()}

    def chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        """A chunk of the reply."""
        counted = {"usage": self.usage() if self._always else None} if self.counts else {}
        return self.shared | {"choices": [choice], **counted}

    def usage(self) -> dict[str, Any]:
        """Tokens read and written."""
        tokens = sum(answer.tokens for answer in self.answers)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
